"""An ablation in Markdown, for pull requests and notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parity_check.ablation.report import AblationReport
from parity_check.config.models import OTHER, ROLES, Role
from parity_check.report.ablation import sentences, table
from parity_check.report.markdown import details, table_of


def render(report: AblationReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: AblationReport) -> Iterator[str]:
    yield f"## parity-check ablation: {sentences.verdict_line(report)}"
    yield ""
    yield f"Run `{report.run_id}`; {'; '.join(sentences.what_was_run(report))}."
    for title, steps in table.parts(report):
        yield ""
        yield f"### {title[0].upper()}{title[1:]}"
        yield ""
        yield from table_of(table.overview_rows(steps), "><<>><")
    notes = list(sentences.notes(report))
    if notes:
        yield ""
        yield from (f"- {note}" for note in notes)
    if report.finished():
        for role in ROLES:
            yield ""
            yield f"### Sampled by the {role}, replayed by the {OTHER[role]}"
            yield ""
            yield from table_of(_numbers(report, role), "><>>>>")
    yield from details("How to read this", (f"- {line}" for line in sentences.legend(report)))


def _numbers(report: AblationReport, role: Role) -> Sequence[Sequence[str]]:
    body = [
        (numbers, step.name, *(" ".join(cell) for cell in table.cells(step, role)))
        for numbers, step in table.configurations(report)
    ]
    floor = ("", "A/A floor", *table.floor_cells(report, role))
    return [("#", "setting", *table.headings(report)), *body, floor]
