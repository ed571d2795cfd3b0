"""The page of an ablation: the ladder as a waterfall, the tables, the report as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import tomli_w

from parity_check.ablation.report import AblationReport
from parity_check.config.models import OTHER, ROLES, Role
from parity_check.report import html, numbers, svg
from parity_check.report.ablation import json, plots, sentences, table
from parity_check.report.drawings import Draw, Drawing, Panel, figure

MARGINS = {"left": 0.36, "right": 0.97, "top": 0.97}
ROW, REST = 0.3, 0.75  # inches
LADDER_HEALTHY = (
    "Every rung starts where the one above it ended. Healthy: one long bar that removes the drift, "
    "and nothing left below it."
)
FLIPS_HEALTHY = (
    "Each setting on its own, from the candidate as configured. Healthy: nothing to the left of 0, "
    "where a change adds drift."
)


def render(report: AblationReport) -> str:
    page = {
        "title": f"parity-check ablation: {report.verdict or 'failed'}, {report.run_id}",
        "report": report,
        "outcome": sentences.verdict_line(report),
        "run": list(sentences.what_was_run(report)),
        "parts": [(title, table.overview_rows(steps)) for title, steps in table.parts(report)],
        "notes": list(sentences.notes(report)),
        "drawings": tuple(_drawings(report)) if svg.available() else (),
        "without_pictures": not svg.available(),
        "numbers": [(role, OTHER[role], _numbers(report, role)) for role in ROLES]
        if report.finished()
        else [],
        "legend": list(sentences.legend(report)),
        "config": tomli_w.dumps(report.config),
        "json": json.render(report),
    }
    return html.finish("ablation.html", page)


def _drawings(report: AblationReport) -> Iterator[Drawing]:
    ladder = report.finished("ladder")
    if len(ladder) > 1:
        values = [(step, step.estimate("k3_kl", "reference")) for step in ladder]
        told = "; ".join(f"{step.name} {numbers.value(value)}" for step, value in values)
        alt = f"Waterfall of k3 down the ladder, nats: {told}."
        draw = partial(plots.waterfall, steps=ladder)
        panel = Panel(_caption(report), alt, _figure("waterfall", draw, alt, len(ladder)))
        yield Drawing("waterfall", "The ladder", LADDER_HEALTHY, (panel,))
    flips = tuple(step for step in report.finished("flip") if step.removed is not None)
    if flips:
        told = "; ".join(
            f"{step.key} {sentences.share(step.removed.value)}" for step in flips if step.removed
        )
        alt = f"Share of the drift that each single flip removes: {told}."
        draw = partial(plots.flips, steps=flips)
        panel = Panel(_caption(report), alt, _figure("flips", draw, alt, len(flips)))
        yield Drawing("flips", "Single flips", FLIPS_HEALTHY, (panel,))


def _caption(report: AblationReport) -> str:
    assert report.workload is not None
    return f"sampled by the reference, n = {report.workload.tokens:,} tokens in every step"


def _figure(name: str, draw: Draw, alt: str, rows: int) -> str:
    height = REST + ROW * rows
    margins = {**MARGINS, "bottom": (REST - 0.25) / height}
    return figure(name, draw, alt, margins, height)


def _numbers(report: AblationReport, role: Role) -> Sequence[table.Row]:
    body = [
        (number, step.name, *(" ".join(cell) for cell in table.cells(step, role)))
        for number, step in table.configurations(report)
    ]
    floor = ("", "A/A floor", *table.floor_cells(report, role))
    return [("#", "setting", *table.headings(report)), *body, floor]
