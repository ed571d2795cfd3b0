"""The report for a terminal: what was compared, what differs, the numbers, why, where, verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from parity_check.report import sentences, table
from parity_check.report.model import ParityReport
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
    yield from _wrapped(f"workload  {sentences.workload(report)}", indent=10)
    for direction in report.directions:
        yield ""
        yield from _wrapped(sentences.direction_title(direction))
        yield from columns(table.direction_rows(report, direction), "<>>>><")
        yield from _wrapped(sentences.first_divergence(direction))
    yield ""
    for sentence in sentences.legend(report):
        yield from _wrapped(sentence)
    for title, reasons in sentences.reasons(report):
        yield ""
        yield title
        for reason in reasons:
            yield from _wrapped(f"  {reason}", indent=4)
    for warning in report.warnings:
        yield ""
        yield from _wrapped(f"warning [{warning.id}]: {warning.message}")
    if report.worst_tokens:
        yield ""
        yield from columns(table.worst_rows(report), "<>>><")
    yield ""
    yield sentences.verdict_line(report)


def _wrapped(sentence: str, indent: int = 2) -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
