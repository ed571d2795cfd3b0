"""What the JSON of every kind of report shares: who made it, from what, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Protocol

from parity_check import visible


class Made(Protocol):
    """A report that knows the run it is of."""

    @property
    def run_id(self) -> str: ...
    @property
    def created_utc(self) -> str: ...
    @property
    def command(self) -> str: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def parity_check(self) -> str: ...


def origin(report: Made) -> dict[str, Any]:
    """The tool and the run."""
    return {
        "tool": {"name": "parity-check", "version": report.parity_check},
        "run": {
            "id": report.run_id,
            "created_utc": report.created_utc,
            "command": report.command,
            "config": report.config,
        },
    }


def dumps(tree: Mapping[str, Any]) -> str:
    """JSON as it lies in a run directory, safe to any reader. Raises ValueError for a NaN."""
    text = json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False)
    return visible.document(text) + "\n"


def schema_of(package: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) beside a kind of report."""
    tree: dict[str, Any] = json.loads(files(package).joinpath("schema.json").read_text("utf-8"))
    return tree
