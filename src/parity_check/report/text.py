"""The report for a terminal: what was compared, what differs, the numbers, why, where, verdict."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check.report import table
from parity_check.report.model import ParityReport
from parity_check.report.numbers import columns


def render(report: ParityReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: ParityReport) -> Iterator[str]:
    model = report.model["name"]
    yield f"parity-check {report.parity_check}   run {report.run_id}   model {model}"
    yield ""
    yield from columns(table.engine_rows(report), "<<<<")
    yield ""
    yield f"workload  {table.workload(report)}"
    for direction in report.directions:
        yield ""
        yield table.direction_title(direction)
        yield from columns(table.direction_rows(report, direction), "<>>>><")
        yield table.quantiles(direction)
    yield ""
    yield from table.legend(report)
    reasons = list(table.reasons(report))
    if reasons:
        yield ""
        yield from reasons
    for warning in report.warnings:
        yield ""
        yield f"warning [{warning.id}]: {warning.message}"
    if report.worst_tokens:
        yield ""
        yield from columns(table.worst_rows(report), "<>>><")
    yield ""
    yield table.verdict_line(report)
