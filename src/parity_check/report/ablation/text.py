"""An ablation for a terminal: what was changed, what it removed, the numbers, where it ends."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from parity_check.ablation.report import AblationReport
from parity_check.config.models import OTHER, ROLES, Role
from parity_check.report.ablation import sentences, table
from parity_check.report.numbers import columns

WIDTH = 100


def render(report: AblationReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: AblationReport) -> Iterator[str]:
    name = f"   model {report.model['name']}" if report.model else ""
    yield f"parity-check {report.parity_check}   ablation {report.run_id}{name}"
    for sentence in sentences.what_was_run(report):
        yield from _wrapped(sentence)
    for title, steps in table.parts(report):
        yield ""
        yield title
        yield from columns(table.overview_rows(steps), "><<>><")
    notes = list(sentences.notes(report))
    if notes:
        yield ""
        for note in notes:
            yield from _wrapped(note, indent=4)
    if report.finished():
        for role in ROLES:
            yield ""
            yield f"sampled by the {role}, replayed by the {OTHER[role]}"
            yield from columns(list(_numbers(report, role)), ">>>>>")
    yield ""
    for sentence in sentences.legend(report):
        yield from _wrapped(sentence)
    yield ""
    yield sentences.verdict_line(report)


def _numbers(report: AblationReport, role: Role) -> Iterator[tuple[str, ...]]:
    """Two lines a configuration: the values, and their intervals below them."""
    yield ("#", *table.headings(report))
    for numbers, step in table.configurations(report):
        values, intervals = zip(*table.cells(step, role), strict=True)
        yield (numbers, *values)
        yield ("", *intervals)
    yield ("A/A floor", *table.floor_cells(report, role))


def _wrapped(sentence: str, indent: int = 2) -> list[str]:
    return textwrap.wrap(
        sentence, WIDTH, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
