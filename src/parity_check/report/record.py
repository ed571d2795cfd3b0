"""What the JSON of every kind of report begins with; each kind adds its own fields.

Records are typed, so that each kind's schema.json is made from its record
(`scripts/make_schemas.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from parity_check.errors import InputError
from parity_check.measure.gates import Verdict
from parity_check.reading import parse_json, read_text

if TYPE_CHECKING:
    from parity_check.errors import ExitCode
    from parity_check.report.document import Head

T = TypeVar("T")

SCHEMA_VERSION: Literal[2] = 2
"""Of every kind's report.json. Within a version no name changes its meaning or goes away."""


@dataclass(frozen=True, slots=True)
class Tool:
    name: Literal["parity-check"]
    version: str


@dataclass(frozen=True, slots=True)
class Run:
    id: str
    created_utc: str
    command: str
    config: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The tool, the run and the verdict."""

    kind: str
    schema_version: Literal[2]
    tool: Tool
    run: Run
    verdict: Verdict | None
    exit_code: int
    model: dict[str, Any]
    host: dict[str, Any]


def opening(head: Head, verdict: Verdict | None, exit_code: ExitCode) -> dict[str, Any]:
    """The fields of a Record, for the constructor of a kind's own."""
    return {
        "kind": head.kind,
        "schema_version": SCHEMA_VERSION,
        "tool": Tool("parity-check", head.parity_check),
        "run": Run(head.run_id, head.created_utc, head.command, head.config),
        "verdict": verdict,
        "exit_code": int(exit_code),
        "model": head.model,
        "host": head.host,
    }


def stored(path: Path, kind: str, make: Callable[[Any], T]) -> T:
    """What `make` makes of a stored report; it may raise ValueError or KeyError. Raises InputError.

    A report is whole only if all of it can be shown, so `make` goes as far as the document.
    """
    tree = parse_json(read_text(path, "the report"), str(path))
    try:
        return make(tree)
    except (ValueError, KeyError) as error:
        missing = isinstance(error, KeyError)
        reason = f"{error} is missing" if missing else str(error).splitlines()[0]
        raise InputError(f"{path}: not a {kind} report: {reason}") from None
