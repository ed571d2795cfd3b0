"""The content of report.json of `locate`, and how to read it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from parity_check.comparison.report import EngineReport
from parity_check.config.models import ROLES, Role
from parity_check.locate.differences import Difference, Processing
from parity_check.locate.report import LocateReport
from parity_check.report.document import Head
from parity_check.report.record import Record, opening


@dataclass(frozen=True, slots=True, kw_only=True)
class LocateRecord(Record):
    """`engines` and `processing` are by role; `first` is the module that differs first."""

    kind: Literal["locate"]
    engines: dict[Role, EngineReport]
    passes: int
    first: Difference | None
    differences: tuple[Difference, ...]
    unmatched: tuple[str, ...]
    processing: dict[Role, Processing | None]


def record(report: LocateReport) -> LocateRecord:
    """The content of report.json."""
    return LocateRecord(
        **opening(report.head, report.verdict, report.exit_code),
        engines=dict(zip(ROLES, report.engines, strict=True)),
        passes=report.passes,
        first=report.first,
        differences=report.differences,
        unmatched=report.unmatched,
        processing=dict(zip(ROLES, report.processing, strict=True)),
    )


def read(tree: Any) -> LocateReport:
    """A stored report. Raises ValueError for anything else."""
    if not isinstance(tree, dict) or tree.get("kind") != "locate":
        raise ValueError("not of this kind")
    found = TypeAdapter(LocateRecord).validate_python(tree)
    if found.engines.keys() != set(ROLES) or found.processing.keys() != set(ROLES):
        raise ValueError("its engines are not a reference and a candidate")
    if "name" not in found.model:
        raise ValueError("its model has no name")
    report = LocateReport(
        head=Head.of(found, found.kind),
        engines=(found.engines["reference"], found.engines["candidate"]),
        passes=found.passes,
        differences=found.differences,
        unmatched=found.unmatched,
        processing=(found.processing["reference"], found.processing["candidate"]),
    )
    if not report.differences or report.verdict != found.verdict:
        raise ValueError("its verdict does not fit its differences")
    return report
