"""report.json: the public, versioned form of a ParityReport. Never a NaN."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from parity_check.gates import GateResult
from parity_check.measurement import ClipEstimate, Measurement
from parity_check.metrics import METRICS
from parity_check.report.model import ParityReport
from parity_check.stats import Estimate


def render(report: ParityReport) -> str:
    return json.dumps(to_dict(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_dict(report: ParityReport) -> dict[str, Any]:
    """The JSON tree; infinities and NaN, which JSON does not have, become null."""
    return {
        "schema_version": report.schema_version,
        "tool": {"name": "parity-check", "version": report.parity_check},
        "run": {
            "id": report.run_id,
            "created_utc": report.created_utc,
            "command": report.command,
            "config": report.config,
        },
        "verdict": report.verdict,
        "exit_code": int(report.exit_code),
        "model": report.model,
        "host": report.host,
        "engines": {engine.role: asdict(engine) for engine in report.engines},
        "differences": [asdict(difference) for difference in report.differences],
        "workload": asdict(report.workload),
        "objective": report.objective.name,
        "metrics": [
            _metric(report, estimate)
            for direction in report.directions
            for estimate in direction.measurement.estimates
        ],
        "quantiles": {
            direction.sampled_by: _quantiles(direction.measurement)
            for direction in report.directions
        },
        "clips": {
            direction.sampled_by: [_clip(clip) for clip in direction.measurement.clips]
            for direction in report.directions
        },
        "clips_by_length": {
            direction.sampled_by: {
                label: _clip(clip) for label, clip in direction.measurement.clips_by_length
            }
            for direction in report.directions
        },
        "breakdowns": {
            direction.sampled_by: {
                name: [
                    {"bin": bin.label, "metrics": [_estimate(each) for each in bin.estimates]}
                    for bin in bins
                ]
                for name, bins in direction.measurement.breakdowns.items()
            }
            for direction in report.directions
        },
        "gates": [_gate(gate) for gate in report.gates],
        "hygiene": [
            {"sampled_by": direction.sampled_by, **asdict(count)}
            for direction in report.directions
            for count in direction.measurement.hygiene
        ],
        "worst_tokens": [asdict(token) for token in report.worst_tokens],
        "warnings": [asdict(warning) for warning in report.warnings],
        "artifacts": list(report.artifacts),
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
    return {name: _finite(value) for name, value in asdict(estimate).items()}


def _quantiles(measured: Measurement) -> dict[str, Any]:
    found = {name: _finite(estimate.value) for name, estimate in measured.quantiles.items()}
    return {"abs_log_ratio": {**found, "max": _finite(measured.largest)}}


def _clip(clip: ClipEstimate) -> dict[str, Any]:
    return {
        "objective": {name: _finite(value) for name, value in asdict(clip.objective).items()},
        "positive_share": clip.positive_share,
        **{
            name: _estimate(getattr(clip, name))
            for name in ("counted", "band", "low", "high", "active")
        },
    }


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


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
