"""The report for a terminal: what was compared, what differs, the numbers, why, where, verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from parity_check.comparison.report import ParityReport
from parity_check.diagnosis.findings import Diagnosis
from parity_check.report import sentences, table
from parity_check.report.numbers import columns

WIDTH = 100
"""Sentences are wrapped at this; tables and tokens keep their own width."""


def render(report: ParityReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: ParityReport) -> Iterator[str]:
    model = report.model["name"]
    yield f"parity-check {report.parity_check}   run {report.run_id}   model {model}"
    yield ""
    yield from columns(table.engine_rows(report), "<<<<")
    yield ""
    yield from wrapped(f"workload  {sentences.workload(report)}", indent=10)
    for direction in report.directions:
        yield ""
        yield from wrapped(sentences.direction_title(direction))
        yield from columns(table.direction_rows(report, direction), "<>>>><")
        yield from wrapped(sentences.first_divergence(direction))
    yield ""
    for sentence in sentences.legend(report):
        yield from wrapped(sentence)
    for title, reasons in sentences.reasons(report):
        yield ""
        yield title
        for reason in reasons:
            yield from wrapped(f"  {reason}", indent=4)
    yield from _diagnosis(report.diagnosis)
    for warning in report.warnings:
        yield ""
        yield from wrapped(f"warning [{warning.id}]: {warning.message}")
    if report.worst_tokens:
        yield ""
        yield from columns(table.worst_rows(report), "<>>><")
    yield ""
    yield sentences.verdict_line(report)


def _diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    yield ""
    yield "layers, in this order"
    for line in columns(list(sentences.stages(diagnosis)), "<<<"):
        yield from wrapped(f"  {line}", indent=4)
    nothing = sentences.nothing_found(diagnosis)
    if diagnosis.findings or nothing:
        yield ""
        yield "likely causes"
    if nothing:
        yield from wrapped(f"  {nothing}", indent=4)
    for number, finding in enumerate(diagnosis.findings, 1):
        yield from wrapped(f"  {number}  {sentences.finding_title(finding)}", indent=5)
        for sentence in finding.evidence:
            yield from wrapped(f"     - {sentence}", indent=7)
        yield from wrapped(f"     fix: {finding.fix}", indent=10)
        yield f"     confirm: {finding.confirm}"  # in one line: it is to be copied


def wrapped(sentence: str, indent: int = 2) -> list[str]:
    """A sentence as lines of a terminal's width."""
    return textwrap.wrap(
        sentence, WIDTH, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
