"""report.json of a `weight-sync` run: a public, versioned form. Never a NaN."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from parity_check.report.weight_sync.model import WeightSyncReport
from parity_check.weight_sync.timeline import EngineResult

KIND = "weight-sync"


def render(report: WeightSyncReport) -> str:
    return json.dumps(to_dict(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every report keeps to."""
    text = files("parity_check.report.weight_sync").joinpath("schema.json").read_text("utf-8")
    tree: dict[str, Any] = json.loads(text)
    return tree


def to_dict(report: WeightSyncReport) -> dict[str, Any]:
    return {
        "schema_version": report.schema_version,
        "kind": KIND,
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
        "checkpoints": list(report.checkpoints),
        "host": report.host,
        "engines": {engine.role: asdict(engine) for engine in report.engines},
        "requests": report.requests,
        "results": {result.role: _result(result) for result in report.results},
        "timeline": [{"engine": role, **asdict(step)} for role, step in report.timeline],
        "checks": [asdict(check) for check in report.checks],
        "artifacts": list(report.artifacts),
    }


def _result(result: EngineResult) -> dict[str, Any]:
    tree = asdict(result)
    for elsewhere in ("role", "timeline", "checks"):
        del tree[elsewhere]
    return tree
