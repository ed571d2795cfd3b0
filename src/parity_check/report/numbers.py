"""How numbers are written: never without their unit, always with the interval that is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parity_check.gates import Limit
from parity_check.metrics import METRICS
from parity_check.stats import Estimate

SMALL = ("k2_kl", "k3_kl", "reverse_k3_kl")


def number(metric: str, value: float) -> str:
    """A value of a metric, in the metric's own notation."""
    return _notation(metric)(value)


def value(estimate: Estimate) -> str:
    return number(estimate.name, estimate.value)


def interval(estimate: Estimate) -> str:
    """`[low, high]`, or a dash where there is no interval (the estimate's note says why)."""
    if estimate.ci_low is None or estimate.ci_high is None:
        return "–"
    low, high = (number(estimate.name, end) for end in (estimate.ci_low, estimate.ci_high))
    return f"[{low}, {high}]"


def limit(limit: Limit) -> str:
    """The limit in its metric's notation."""
    written = number(limit.metric, limit.value).removeprefix("+")
    if limit.kind == "two_sided":
        return f"{limit.target:g} ± {limit.value:g}" if limit.target else f"± {limit.value:g}"
    return {"upper": "≤ ", "lower": "≥ ", "exact": "= "}[limit.kind] + written


def columns(rows: Sequence[Sequence[str]], alignment: str, gap: str = "  ") -> list[str]:
    """Pad cells to columns; `alignment` holds `<` or `>` for each."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(alignment))]
    return [
        gap.join(
            f"{cell:{side}{width}}"
            for cell, side, width in zip(row, alignment, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _notation(metric: str) -> Callable[[float], str]:
    row = METRICS.get(metric)
    unit = row.unit if row else "nats"
    if metric in SMALL:
        return "{:.2e}".format
    if unit == "share":
        return _percentage
    if unit == "nats" and row is not None and row.better == "target":
        return "{:+.5f}".format
    return "{:.5f}".format


def _percentage(share: float) -> str:
    percent = 100 * share
    return f"{percent:.3f} %" if percent == 0 or percent >= 0.01 else f"{percent:.1e} %"
