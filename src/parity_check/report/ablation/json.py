"""ablation.json: the public, versioned form of an AblationReport (schema.json). Never a NaN."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from parity_check.ablation.report import AblationReport, StepReport
from parity_check.comparison.report import Direction
from parity_check.measure.stats import Estimate
from parity_check.report.json import finite_values
from parity_check.report.tree import dumps, schema_of

METRICS = (
    "mean_log_ratio",
    "rms_log_ratio",
    "mean_abs_log_ratio",
    "mean_importance_ratio",
    "k3_kl",
    "clip_fraction",
)


def render(report: AblationReport) -> str:
    return dumps(to_dict(report))


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every ablation.json keeps to."""
    return schema_of("parity_check.report.ablation")


def to_dict(report: AblationReport) -> dict[str, Any]:
    """The JSON tree; infinities and NaN, which JSON does not have, become null."""
    best = report.best
    return {
        "schema_version": report.schema_version,
        "tool": {"name": "parity-check", "version": report.parity_check},
        "run": {
            "id": report.run_id,
            "created_utc": report.created_utc,
            "command": report.command,
            "source": report.source,
            "config": report.config,
        },
        "verdict": report.verdict,
        "exit_code": int(report.exit_code),
        "best": None if best is None else best.number,
        "model": report.model,
        "reference": None if report.reference is None else asdict(report.reference),
        "workload": None if report.workload is None else asdict(report.workload),
        "objective": report.objective.name,
        "steps": [_step(step) for step in report.steps],
    }


def _step(step: StepReport) -> dict[str, Any]:
    return {
        "number": step.number,
        "part": step.part,
        "name": step.name,
        "key": step.key,
        "requested": step.requested,
        "in_force": step.in_force,
        "directory": step.directory,
        "state": step.state,
        "reason": step.reason,
        "verdict": step.verdict,
        "at_floor": step.at_floor,
        "against": step.against,
        "differing_tokens": step.differing,
        "effect": step.effect,
        "removed_share": None if step.removed is None else _estimate(step.removed),
        "candidate": None if step.candidate is None else asdict(step.candidate),
        "metrics": [metric for each in step.directions for metric in _metrics(each)],
    }


def _metrics(direction: Direction) -> Iterator[dict[str, Any]]:
    for name in METRICS:
        floor = direction.floors.get(name)
        yield {
            **_estimate(direction.measurement[name]),
            "noise_floor": None if floor is None else _estimate(floor)["value"],
        }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return finite_values(asdict(estimate))
