"""report.html: one self-contained page, readable without network, JavaScript or pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import tomli_w

from parity_check import visible
from parity_check.comparison.pictures.samples import MOST_TOKENS, SHADES
from parity_check.comparison.report import Direction, ParityReport
from parity_check.measure.gates import GateResult
from parity_check.measure.metrics import METRICS, Metric
from parity_check.measure.stats import Estimate
from parity_check.report import fingerprints, numbers, sentences, svg, table
from parity_check.report import json as json_report
from parity_check.report.drawings import drawings
from parity_check.report.strips import strip

if TYPE_CHECKING:
    from jinja2 import Environment

BREAKDOWNS = {
    "position": "By position in the completion",
    "behaviour_probability": "By the probability that the behaviour engine gave",
    "prompt_group": "By prompt group",
}


def render(report: ParityReport) -> str:
    """The page of a comparison."""
    tree = json_report.to_dict(report)
    page = {
        "title": f"parity-check: {report.verdict}, {report.model['name']}, {report.run_id}",
        "report": report,
        "outcome": sentences.outcome(report),
        "lead": sentences.lead(report),
        "workload": sentences.workload(report),
        "engines": table.engine_rows(report),
        "directions": [_direction(report, direction) for direction in report.directions],
        "nothing_found": sentences.nothing_found(report.diagnosis),
        "drawings": drawings(report),
        "without_pictures": not svg.available(),
        "samples": () if report.illustration is None else report.illustration.worst_samples,
        "shades": SHADES,
        "most_tokens": MOST_TOKENS,
        "settings": fingerprints.rows(report),
        "provenance": fingerprints.provenance(report),
        "config": tomli_w.dumps(report.config),
        "whole": "model" in report.config,
        "legend": list(sentences.legend(report)),
        "metrics": list(_metrics(report)),
        "json": json.dumps(tree, ensure_ascii=False, allow_nan=False),
    }
    return finish("parity.html", page)


def finish(template: str, page: dict[str, Any]) -> str:
    """Fill in a template; the page is valid UTF-8 whatever the tokens are."""
    return visible.document(_environment().get_template(template).render(page))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("parity_check.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "token": visible.token,
        "data": _data,
        "plain": table.plain,
        "signed": lambda value: f"{value:+.4f}",
    }
    environment.globals |= {
        "marks": sentences.MARKS,
        "stage_marks": sentences.STAGE_MARKS,
        "finding_title": sentences.finding_title,
    }
    return environment


def _data(text: str) -> Any:
    """JSON for a script element, which must not hold what ends or changes one."""
    from markupsafe import Markup

    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _direction(report: ParityReport, direction: Direction) -> dict[str, Any]:
    return {
        "role": direction.sampled_by,
        "title": sentences.direction_title(direction),
        "level": f"{100 * direction.measurement.level:g} % interval",
        "gates": [_gate(report, gate) for gate in direction.gates],
        "rows": table.direction_rows(report, direction),
        "divergence": sentences.first_divergence(direction),
        "breakdowns": list(_breakdowns(direction)),
        "objectives": _objective_rows(direction),
    }


def _gate(report: ParityReport, gate: GateResult) -> dict[str, Any]:
    estimate = gate.estimate
    return {
        "name": gate.metric,
        "label": sentences.label(report, gate.metric),
        "defined": gate.metric in METRICS,
        "verdict": gate.verdict,
        "value": "–" if estimate is None else _with_unit(estimate),
        "interval": "–" if estimate is None else numbers.interval(estimate),
        "floor": "–" if gate.floor is None else numbers.value(gate.floor),
        "limit": numbers.limit(gate.limit),
        "source": gate.limit.source,
        "n": "–" if estimate is None else f"{estimate.n:,}",
        "reason": sentences.reason(gate),
        "strip": strip(gate),
    }


def _with_unit(estimate: Estimate) -> str:
    unit = " nats" if estimate.unit == "nats" else ""
    return numbers.value(estimate) + unit


def _breakdowns(direction: Direction) -> Iterator[tuple[str, list[table.Row]]]:
    for name, title in BREAKDOWNS.items():
        bins = direction.measurement.breakdowns[name]
        rows: list[table.Row] = [
            ("", "n", "mean Δ, nats", "interval", "mean |Δ|, nats", "k3, nats")
        ]
        for each in bins:
            mean, size, k3 = each.estimates
            rows.append(
                (
                    each.label,
                    f"{mean.n:,}",
                    numbers.value(mean),
                    numbers.interval(mean),
                    numbers.value(size),
                    numbers.value(k3),
                )
            )
        yield title, rows


def _objective_rows(direction: Direction) -> list[table.Row]:
    rows: list[table.Row] = [("objective", "n", "as counted", "interval", "low", "high", "active")]
    for clip in direction.measurement.clips:
        shares = (clip.low, clip.high, clip.active)
        rows.append(
            (
                f"{clip.objective.name}: {clip.objective.label}",
                f"{clip.counted.n:,}",
                numbers.value(clip.counted),
                numbers.interval(clip.counted),
                *map(numbers.value, shares),
            )
        )
    return rows


def _metrics(report: ParityReport) -> Iterator[Metric]:
    """The definitions of the metrics that were measured."""
    measured = {
        each.name for direction in report.directions for each in direction.measurement.estimates
    }
    return (row for name, row in METRICS.items() if name in measured)
