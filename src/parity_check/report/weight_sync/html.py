"""The page of a weight update: its checks, its timeline as pictures, the report as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import tomli_w

from parity_check.report import html, svg
from parity_check.report.drawings import Drawing, Panel, figure
from parity_check.report.weight_sync import json, plots, sentences
from parity_check.weight_sync.report import WeightSyncReport
from parity_check.weight_sync.timeline import EngineResult

VERSION_HEALTHY = (
    "Healthy: every request switches at one token, all tokens before it lag by the update, and "
    "what is issued afterwards lags by none."
)
DISTANCE_HEALTHY = (
    "Healthy: before the update on the cold engine of version 0, after it on the line that was "
    "declared (kept KV, or the new version); re-issued and new requests on the new version."
)


def render(report: WeightSyncReport) -> str:
    page = {
        "title": f"parity-check weight-sync: {report.verdict}, {report.run_id}",
        "report": report,
        "outcome": sentences.verdict_line(report),
        "scenario": sentences.scenario(report),
        "checks": sentences.check_rows(report.checks),
        "reasons": list(sentences.reasons(report.checks)),
        "results": [
            (
                result.role,
                sentences.engine_line(report, result),
                list(sentences.update_lines(result)),
                sentences.timeline_rows(result),
                [sentences.lags(result), sentences.magnitudes(result)],
            )
            for result in report.results
        ],
        "drawings": tuple(_drawings(report)) if svg.available() else (),
        "without_pictures": not svg.available(),
        "as_v0_did": sentences.AS_V0_DID,
        "in_a_trainer": sentences.IN_A_TRAINER,
        "legend": list(sentences.legend()),
        "config": tomli_w.dumps(report.config),
        "json": json.render(report),
    }
    return html.finish("weight_sync.html", page)


def _drawings(report: WeightSyncReport) -> Iterator[Drawing]:
    panels = [_panels(report, result) for result in report.results]
    for number, (name, title, healthy) in enumerate(
        (
            ("version", "Policy version and lag by token", VERSION_HEALTHY),
            ("distance", "|Δ| to the cold engines by token", DISTANCE_HEALTHY),
        )
    ):
        yield Drawing(name, title, healthy, tuple(pair[number] for pair in panels))


def _panels(report: WeightSyncReport, result: EngineResult) -> tuple[Panel, Panel]:
    tokens = sum(step.tokens for step in result.timeline)
    caption = f"{result.role}, n = {tokens:,} tokens"
    version_alt = f"Policy version and lag by token, {result.role}: {sentences.lags(result)}."
    version = figure(
        f"version-{result.role}", partial(plots.version, steps=result.timeline), version_alt
    )
    distance_alt = (
        f"Mean |Δ| by token to an engine started with each version, {result.role}; "
        f"{sentences.magnitudes(result)}."
    )
    limit = next(check.limit for check in report.checks if check.unit == "nats")
    draw = partial(plots.distance, steps=result.timeline, limit=limit)
    distance = figure(f"distance-{result.role}", draw, distance_alt)
    return Panel(caption, version_alt, version), Panel(caption, distance_alt, distance)
