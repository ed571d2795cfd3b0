"""How numbers are written: never without their unit, always with the interval that is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from parity_check.measure.limits import Kind, Limit
from parity_check.measure.metrics import METRICS
from parity_check.measure.stats import Estimate

SMALL = ("k2_kl", "k3_kl", "reverse_k3_kl")
RESOLVED = 5e-6
"""The least that five decimals show."""


def number(metric: str, value: float) -> str:
    """A value of a metric, in the metric's own notation."""
    row = METRICS.get(metric)
    return _notation(metric, row.unit if row else "nats")(value)


def value(estimate: Estimate) -> str:
    return _notation(estimate.name, estimate.unit)(estimate.value)


def magnitude(nats: float) -> str:
    """A |Δ| that is no estimate."""
    return _decimal(nats)


def interval(estimate: Estimate) -> str:
    """`[low, high]`, or a dash where there is no interval (the estimate's note says why)."""
    if estimate.ci_low is None or estimate.ci_high is None:
        return "–"
    notation = _notation(estimate.name, estimate.unit)
    low, high = (notation(end) for end in (estimate.ci_low, estimate.ci_high))
    return f"[{low}, {high}]"


def limit(limit: Limit) -> str:
    """The limit in its metric's notation."""
    written = number(limit.metric, limit.value).removeprefix("+")
    if limit.kind == "two_sided":
        return f"{limit.target:g} ± {limit.value:g}" if limit.target else f"± {limit.value:g}"
    return {"upper": "≤ ", "lower": "≥ ", "exact": "= "}[limit.kind] + written


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers of a metric beside its limit: shares in %, nats in 1e-3, digits that the limit needs.

    What is zero or exactly at its target is written without decimals.
    """

    limit: Limit
    unit: str

    @property
    def factor(self) -> float:
        return {"share": 100.0, "nats": 1000.0}.get(self.unit, 1.0)

    @property
    def decimals(self) -> int:
        """A hundredth of the distance from the target to the limit; of a ratio at most four."""
        target = METRICS[self.limit.metric].target if self.limit.metric in METRICS else 0.0
        two_sided = self.limit.kind == "two_sided"
        room = self.limit.value if two_sided else abs(self.limit.value - target)
        digits = 2 - math.floor(math.log10(self.factor * room)) if room else 2
        return min(max(digits, 1), 4 if self.unit == "ratio" else 6)

    def number(self, value: float) -> str:
        scaled = self.factor * value
        return f"{scaled:g}" if scaled in (0, 1, 100) else f"{scaled:z.{self.decimals}f}"

    def interval(self, estimate: Estimate) -> str:
        """`[low, high]`, or nothing where there is no interval."""
        if estimate.ci_low is None or estimate.ci_high is None:
            return ""
        return f"[{self.number(estimate.ci_low)}, {self.number(estimate.ci_high)}]"

    def edge(self) -> str:
        """The limit itself."""
        value, target = f"{self.factor * self.limit.value:g}", self.limit.target
        if self.limit.kind == "two_sided":
            return f"{target:g} ± {value}" if target else f"± {value}"
        sign = {"upper": "≤", "lower": "≥", "exact": "="}[self.limit.kind]
        return f"{sign} {value} %" if self.unit == "share" else f"{sign} {value}"


def passing(limit: float, kind: Kind) -> str:
    """The limit that just passes, to three digits, rounded so that it still does."""
    outward = ROUND_FLOOR if kind == "lower" else ROUND_CEILING
    return f"{float(Context(prec=3, rounding=outward).create_decimal(Decimal(limit))):g}"


def _notation(metric: str, unit: str) -> Callable[[float], str]:
    row = METRICS.get(metric)
    if metric in SMALL:
        return _scientific
    if unit == "share":
        return _percentage
    if unit == "nats" and row is not None and row.better == "target":
        return _signed
    return _decimal


def _scientific(value: float) -> str:
    return f"{value:.2e}" if value else "0"


def _signed(value: float) -> str:
    """Five decimals; what is not zero never looks like zero."""
    if not value:
        return "0"
    return f"{value:+.5f}" if abs(value) >= RESOLVED else f"{value:+.1e}"


def _decimal(value: float) -> str:
    if not value:
        return "0"
    return f"{value:.5f}" if abs(value) >= RESOLVED else f"{value:.1e}"


def _percentage(share: float) -> str:
    percent = 100 * share
    if percent in (0, 100):
        return f"{percent:g} %"
    return f"{percent:.3f} %" if percent >= 0.01 else f"{percent:.1e} %"
