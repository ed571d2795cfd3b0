"""The content of a weight-sync run's report.json, and how to read it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from parity_check.comparison.report import EngineReport
from parity_check.report.document import Head
from parity_check.report.record import SCHEMA_VERSION, Record, opening
from parity_check.weight_sync.checks import Check
from parity_check.weight_sync.report import WeightSyncReport
from parity_check.weight_sync.timeline import EngineResult, TimelineStep


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSyncRecord(Record):
    """`engines` and `results` are by role; the timeline has a row per position of a phase."""

    kind: Literal["weight-sync"]
    checkpoints: tuple[dict[str, Any], ...]
    engines: dict[str, EngineReport]
    requests: dict[str, int]
    results: dict[str, EngineResult]
    timeline: tuple[TimelineStep, ...]
    checks: tuple[Check, ...]
    artifacts: tuple[str, ...]


def record(report: WeightSyncReport) -> WeightSyncRecord:
    """The content of report.json."""
    return WeightSyncRecord(
        **opening(report.head, report.verdict, report.exit_code),
        checkpoints=report.checkpoints,
        engines={engine.role: engine for engine in report.engines},
        requests=report.requests,
        results={result.role: result for result in report.results},
        timeline=report.timeline,
        checks=report.checks,
        artifacts=report.artifacts,
    )


def read(tree: Any) -> WeightSyncReport:
    """A stored report, of this version or of version 1. Raises ValueError for anything else."""
    if not isinstance(tree, dict) or tree.get("kind") != "weight-sync":
        raise ValueError("not of this kind")
    if tree.get("schema_version") == 1:
        tree = _from_version_1(tree)
    found = TypeAdapter(WeightSyncRecord).validate_python(tree)
    _check_whole(found)
    return WeightSyncReport(
        head=Head.of(found, found.kind),
        checkpoints=found.checkpoints,
        engines=tuple(found.engines.values()),
        requests=found.requests,
        results=tuple(found.results.values()),
        timeline=found.timeline,
        checks=found.checks,
        artifacts=found.artifacts,
    )


def _check_whole(found: WeightSyncRecord) -> None:
    """Raises ValueError where parts of a report are missing."""
    if not found.checks:
        raise ValueError("there are no checks")
    if not set(found.engines) == set(found.results) == {step.engine for step in found.timeline}:
        raise ValueError("its engines, results and timeline are of different engines")
    versions = len(found.checkpoints) + 1
    if any(len(step.to_cold) != versions or step.tokens < 1 for step in found.timeline):
        raise ValueError("its timeline does not fit its checkpoints")


def _from_version_1(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Version 1 named no logprob path and no entropy, and left out the role of a result."""
    decoded = {"logprob_path": "decode", "entropy": None}
    try:
        engines = {role: {**engine, **decoded} for role, engine in tree["engines"].items()}
        results = {role: {**result, "role": role} for role, result in tree["results"].items()}
    except (AttributeError, TypeError):
        raise ValueError("its engines or results are no objects") from None
    return {**tree, "schema_version": SCHEMA_VERSION, "engines": engines, "results": results}
