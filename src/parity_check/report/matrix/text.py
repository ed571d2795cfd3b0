"""A comparison of many engines for a terminal: engines, pairs, what was there already, verdict."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check.report.matrix import sentences, table
from parity_check.report.matrix.model import MatrixReport
from parity_check.report.numbers import columns
from parity_check.report.text import wrapped


def render(report: MatrixReport) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: MatrixReport) -> Iterator[str]:
    model = report.model["name"]
    yield f"parity-check {report.parity_check}   run {report.run_id}   model {model}"
    yield ""
    yield from columns(table.engine_rows(report), "<<<<<<<>")
    if floors := table.floor_rows(report):
        yield ""
        yield from columns(floors, "<>>>>>>>")
    for rollouts in report.rollouts:
        yield ""
        yield from wrapped(sentences.title(rollouts))
        yield from columns(table.pair_rows(report, rollouts), "<>>>>>>><")
        for found in rollouts.decompositions:
            yield ""
            yield from columns(table.decomposition_rows(found), "<>>>><")
        yield ""
        yield "the first step, before any update of the policy"
        for step in rollouts.first_steps:
            yield from wrapped(f"  {sentences.first_step(step)}", indent=4)
    yield ""
    yield f"good practices ({report.trainer} learning from the {report.rollout}'s rollouts)"
    for practice in report.practices:
        mark = sentences.OUTCOMES[practice.status]
        told = f"  {mark} {practice.name}: {practice.status}: {practice.evidence}"
        yield from wrapped(told, indent=6)
    yield ""
    for sentence in sentences.legend(report):
        yield from wrapped(sentence)
    for title, reasons in sentences.reasons(report):
        yield ""
        yield from wrapped(f"not parity: {title}")
        for reason in reasons:
            yield from wrapped(f"  {reason}", indent=4)
    for warning in report.warnings:
        yield ""
        yield from wrapped(f"note [{warning.id}]: {warning.message}")
    yield ""
    yield sentences.verdict_line(report)
