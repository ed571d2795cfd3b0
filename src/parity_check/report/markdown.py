"""Markdown, for pull requests and step summaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from parity_check.comparison.report import ParityReport
from parity_check.diagnosis.findings import Diagnosis
from parity_check.report import numbers, sentences, table
from parity_check.traces.provenance import Difference


def render(report: ParityReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: ParityReport) -> Iterator[str]:
    yield f"## parity-check: {sentences.verdict_line(report)}"
    yield ""
    yield f"Run `{report.run_id}`, model `{report.model['name']}`; {sentences.workload(report)}."
    yield ""
    yield _versions(report)
    differences = sentences.unrequested(report)
    if differences:
        yield ""
        yield f"Differs though nobody asked for it: {'; '.join(map(_difference, differences))}."
    for title, reasons in sentences.reasons(report):
        yield from ("", f"**{title}**", "", *(f"- {reason}" for reason in reasons))
    yield from _causes(report.diagnosis)
    for warning in report.warnings:
        yield ""
        yield f"> **{warning.id}**: {warning.message}"
    for direction in report.directions:
        yield ""
        yield f"### {sentences.direction_title(direction)}"
        yield ""
        yield from table_of(table.direction_rows(report, direction), "<>>>><")
        yield ""
        yield sentences.first_divergence(direction)
    yield from details("Engines and settings", table_of(table.engine_rows(report), "<<<<"))
    if report.worst_tokens:
        lines = numbers.columns(table.worst_rows(report), "<>>><")
        yield from details("Worst tokens", ["~~~text", *lines, "~~~"])
    yield from details("How to read this", (f"- {line}" for line in sentences.legend(report)))


def _causes(diagnosis: Diagnosis) -> Iterator[str]:
    yield ""
    yield "**Layers**"
    yield ""
    yield from table_of([("layer", "outcome", "why"), *sentences.stages(diagnosis)], "<<<")
    nothing = sentences.nothing_found(diagnosis)
    if diagnosis.findings or nothing:
        yield from ("", "**Likely causes**", "")
    if nothing:
        yield nothing
    for number, finding in enumerate(diagnosis.findings, 1):
        yield f"{number}. {sentences.finding_title(finding)}"
        yield from (f"   - {sentence}" for sentence in finding.evidence)
        yield f"   - fix: `{finding.fix}`"
        yield f"   - confirm: `{finding.confirm}`"


def _versions(report: ParityReport) -> str:
    names = (f"{each.role}: {sentences.engine(each)}" for each in report.engines)
    return "Engines: " + "; ".join(names) + "."


def _difference(difference: Difference) -> str:
    values = (table.plain(value) for value in (difference.reference, difference.candidate))
    return f"`{difference.key}` ({' → '.join(values)})"


def details(summary: str, lines: Iterable[str]) -> Iterator[str]:
    yield from ("", f"<details><summary>{summary}</summary>", "", *lines, "", "</details>")


def table_of(rows: Sequence[Sequence[str]], alignment: str) -> Iterator[str]:
    head, *body = rows
    yield _row(head)
    yield _row(["---:" if side == ">" else "---" for side in alignment])
    yield from map(_row, body)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
