"""report.json of a `weight-sync` run: a public, versioned form. Never a NaN."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter

from parity_check.report.tree import dumps, origin, schema_of
from parity_check.weight_sync.report import WeightSyncReport
from parity_check.weight_sync.timeline import EngineResult

KIND = "weight-sync"


def render(report: WeightSyncReport) -> str:
    return dumps(to_dict(report))


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every report keeps to."""
    return schema_of("parity_check.report.weight_sync")


def to_dict(report: WeightSyncReport) -> dict[str, Any]:
    return {
        "schema_version": report.schema_version,
        "kind": KIND,
        **origin(report),
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


def parse(text: str) -> WeightSyncReport:
    """The report that was rendered. Raises ValueError for anything else."""
    tree = json.loads(text)
    if not isinstance(tree, dict) or tree.get("kind") != KIND:
        raise ValueError(f"not a {KIND} report")
    try:
        return TypeAdapter(WeightSyncReport).validate_python(_fields(tree))
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None


def _fields(tree: dict[str, Any]) -> dict[str, Any]:
    run = tree["run"]
    return {
        **{name: tree[name] for name in ("verdict", "model", "checkpoints", "host", "requests")},
        **{name: tree[name] for name in ("checks", "artifacts", "schema_version")},
        **{name: run[name] for name in ("created_utc", "command", "config")},
        "run_id": run["id"],
        "parity_check": tree["tool"]["version"],
        "engines": list(tree["engines"].values()),
        "results": [
            {
                **result,
                "role": role,
                "timeline": [_without_engine(s) for s in tree["timeline"] if s["engine"] == role],
                "checks": [check for check in tree["checks"] if check["engine"] == role],
            }
            for role, result in tree["results"].items()
        ],
    }


def _without_engine(step: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in step.items() if name != "engine"}


def _result(result: EngineResult) -> dict[str, Any]:
    tree = asdict(result)
    for elsewhere in ("role", "timeline", "checks"):
        del tree[elsewhere]
    return tree
