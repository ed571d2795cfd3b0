"""A comparison of many engines in Markdown, for pull requests and notes."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check.report.markdown import details, table_of
from parity_check.report.matrix import sentences, table
from parity_check.report.matrix.model import MatrixReport


def render(report: MatrixReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: MatrixReport) -> Iterator[str]:
    yield f"## parity-check: {sentences.verdict_line(report)}"
    yield ""
    yield f"Run `{report.run_id}`, model `{report.model['name']}`."
    yield ""
    yield from table_of(table.engine_rows(report), "<<<<<<<>")
    if floors := table.floor_rows(report):
        yield ""
        yield from table_of(floors, "<>>>>>>>")
    for rollouts in report.rollouts:
        yield from ("", f"### {sentences.title(rollouts).capitalize()}", "")
        yield from table_of(table.pair_rows(report, rollouts), "<>>>>>>><")
        for found in rollouts.decompositions:
            yield ""
            yield from table_of(table.decomposition_rows(found), "<>>>><")
        yield from ("", "The first step, before any update of the policy:", "")
        yield from (f"- {sentences.first_step(step)}" for step in rollouts.first_steps)
    yield ""
    yield f"Good practices, {report.trainer} learning from the {report.rollout}'s rollouts:"
    yield ""
    for practice in report.practices:
        mark = sentences.OUTCOMES[practice.status]
        yield f"- {mark} `{practice.name}`, {practice.status}: {practice.evidence}"
    for title, reasons in sentences.reasons(report):
        yield from ("", f"**Not parity: {title}**", "", *(f"- {reason}" for reason in reasons))
    for warning in report.warnings:
        yield ""
        yield f"> **{warning.id}**: {warning.message}"
    yield from details("How to read this", (f"- {line}" for line in sentences.legend(report)))
