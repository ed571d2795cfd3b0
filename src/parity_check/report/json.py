"""report.json: the public, versioned form of a ParityReport (schema.json). Never a NaN."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from parity_check.comparison.report import Direction, ParityReport
from parity_check.diagnosis.findings import Finding
from parity_check.measure.gates import GateResult
from parity_check.measure.metrics import METRICS
from parity_check.measure.results import Bin, ClipEstimate, Measurement
from parity_check.measure.stats import Estimate
from parity_check.report.document import dumps, origin, schema_of


def render(report: ParityReport) -> str:
    return dumps(to_dict(report))


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every report keeps to."""
    return schema_of("parity_check.report")


def to_dict(report: ParityReport) -> dict[str, Any]:
    """The JSON tree; infinities and NaN, which JSON does not have, become null."""
    return {
        "schema_version": report.schema_version,
        **origin(report),
        "verdict": report.verdict,
        "exit_code": int(report.exit_code),
        "model": report.model,
        "host": report.host,
        "engines": {engine.role: asdict(engine) for engine in report.engines},
        "differences": [asdict(difference) for difference in report.differences],
        "workload": asdict(report.workload),
        "objective": report.objective.name,
        "directions": [_direction(direction) for direction in report.directions],
        "metrics": [
            _metric(report, estimate)
            for direction in report.directions
            for estimate in direction.measurement.estimates
        ],
        **{
            name: {each.sampled_by: of(each.measurement) for each in report.directions}
            for name, of in (
                ("quantiles", _quantiles),
                ("tails", _tails),
                ("clips", _clips),
                ("clips_by_length", _clips_by_length),
                ("breakdowns", _breakdowns),
            )
        },
        "gates": [_gate(gate) for gate in report.gates],
        "hygiene": [
            {"sampled_by": direction.sampled_by, **asdict(count)}
            for direction in report.directions
            for count in direction.measurement.invalid
        ],
        "stages": [asdict(stage) for stage in report.diagnosis.stages],
        "diagnosis": [_finding(finding) for finding in report.diagnosis.findings],
        "known": list(report.diagnosis.known),
        "worst_tokens": [finite_values(asdict(token)) for token in report.worst_tokens],
        "warnings": [asdict(warning) for warning in report.warnings],
        "artifacts": list(report.artifacts),
    }


def _direction(direction: Direction) -> dict[str, Any]:
    measured = direction.measurement
    return {
        "sampled_by": direction.sampled_by,
        "evaluated_by": direction.evaluated_by,
        "prompts": measured.clusters,
        "samples": measured.samples,
        "tokens": measured.tokens,
        "excluded": measured.excluded,
        "first_divergence": asdict(measured.first_divergence),
    }


def _metric(report: ParityReport, estimate: Estimate) -> dict[str, Any]:
    floors = {
        floor.engine: _finite(found.value)
        for floor in report.floors
        if (found := floor.measurement.get(estimate.name)) is not None
    }
    return {
        **_estimate(estimate),
        "noise_floor": floors,
        "definition": METRICS[estimate.name].definition,
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return finite_values(asdict(estimate))


def _quantiles(measured: Measurement) -> dict[str, Any]:
    intervals = {
        name: {
            "ci_low": _finite(estimate.ci_low),
            "ci_high": _finite(estimate.ci_high),
            "note": estimate.note,
        }
        for name, estimate in measured.quantiles.items()
    }
    found = {name: _finite(estimate.value) for name, estimate in measured.quantiles.items()}
    return {
        "abs_log_ratio": {**found, "max": _finite(measured.largest)},
        "abs_log_ratio_intervals": intervals,
    }


def _tails(measured: Measurement) -> list[dict[str, Any]]:
    return [{"threshold": edge, **_estimate(estimate)} for edge, estimate in measured.tails]


def _clips(measured: Measurement) -> list[dict[str, Any]]:
    return [_clip(clip) for clip in measured.clips]


def _clips_by_length(measured: Measurement) -> dict[str, Any]:
    return {label: _clip(clip) for label, clip in measured.clips_by_length}


def _clip(clip: ClipEstimate) -> dict[str, Any]:
    return {
        "objective": finite_values(asdict(clip.objective)),
        "positive_share": clip.positive_share,
        **{
            name: _estimate(getattr(clip, name))
            for name in ("counted", "band", "low", "high", "active")
        },
    }


def _breakdowns(measured: Measurement) -> dict[str, Any]:
    return {name: [_bin(each) for each in bins] for name, bins in measured.breakdowns.items()}


def _bin(each: Bin) -> dict[str, Any]:
    return {"bin": each.label, "metrics": [_estimate(estimate) for estimate in each.estimates]}


def _gate(gate: GateResult) -> dict[str, Any]:
    return {
        "metric": gate.metric,
        "sampled_by": gate.sampled_by,
        "verdict": gate.verdict,
        "reason": gate.reason,
        "limit": _finite(gate.limit.value),
        "kind": gate.limit.kind,
        "target": gate.limit.target,
        "source": gate.limit.source,
        "required_limit": _finite(gate.required_limit),
        "prompts_needed": gate.prompts_needed,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {**finite_values(asdict(finding)), "evidence": list(finding.evidence)}


def finite_values(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
