"""Markdown, for pull requests and step summaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parity_check.report import table
from parity_check.report.model import ParityReport


def render(report: ParityReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: ParityReport) -> Iterator[str]:
    yield f"## parity-check: {table.verdict_line(report)}"
    yield ""
    yield f"Run `{report.run_id}`, model `{report.model['name']}`; {table.workload(report)}."
    for direction in report.directions:
        yield ""
        yield f"### {table.direction_title(direction)}"
        yield ""
        yield from _table(table.direction_rows(report, direction))
        yield ""
        yield table.quantiles(direction)
    reasons = list(table.reasons(report))
    if reasons:
        yield ""
        yield "### Why"
        yield ""
        yield from (f"- {reason}" for reason in reasons)
    for warning in report.warnings:
        yield ""
        yield f"> **{warning.id}**: {warning.message}"
    yield ""
    yield "<details><summary>Engines and settings</summary>"
    yield ""
    yield from _table(table.engine_rows(report))
    yield ""
    yield "</details>"
    yield ""
    yield "<details><summary>How to read this</summary>"
    yield ""
    yield from (f"- {line}" for line in table.legend(report))
    yield ""
    yield "</details>"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    head, *body = rows
    yield _row(head)
    yield _row(["---"] * len(head))
    yield from map(_row, body)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
