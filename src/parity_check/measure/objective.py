"""One objective: the quantity, its edges, and how its framework counts crossings.

A row compares one of three things: the ratio (of a token, or a whole sequence's mean or product),
an estimate of a divergence, or the difference of the two probabilities. Frameworks count strictly:
a value exactly on an edge is inside (except in SkyRL's `rollout_is`). Bands and caps of ratios are
compared as logs, on the exact difference of the two float32 logprobs. A sequence is a whole
rollout: all its turns, without the tokens that the policy did not sample.

The wiring determines what the number means for a run. In a `bypass` loss the ratio is trainer over
rollout engine, so mismatch between engines enters the ratio and the number is the objective's own
clip rate at the first step. In a `recompute` loss the ratio is 1 at the first step, and mismatch
only enters through an importance weight: the number is the share of weights that would be changed.
A clip of a recompute loss (TRL's) counts nothing at the first step: the number is then what the
same edges would clip if the rollout's logprobs were the old ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from parity_check.measure.stats import Floats, Ints

Kind: TypeAlias = Literal["clip", "truncation", "mask"]
Wiring: TypeAlias = Literal["bypass", "recompute"]
Level: TypeAlias = Literal["token", "sequence-mean", "sequence-sum", "sequence-extreme"]
Unit: TypeAlias = Literal[
    "ratio", "log ratio", "inverse ratio", "k2", "k3", "deviation", "probability difference",
    "binary KL",
]  # fmt: skip
Statistic: TypeAlias = Literal["log ratio", "probability difference", "binary KL"]
Side: TypeAlias = Literal["up", "down"]
Advantage: TypeAlias = Literal["any", "positive", "negative"]
Averaging: TypeAlias = Literal["token", "sequence"]

STATISTICS: tuple[Statistic, ...] = ("log ratio", "probability difference", "binary KL")
"""What a token is compared by: Δ, p - p' (evaluating - behaviour), and the binary KL of
(p', 1 - p') against (p, 1 - p), in nats, with the sign of p - p'."""


@dataclass(frozen=True, slots=True)
class Counter:
    """Where a framework counts: its metric, and the function and file that compute it."""

    framework: str
    metric: str
    function: str
    file: str
    difference: str = ""
    """How the row's number differs from the framework's; empty if they are equal."""

    def __str__(self) -> str:
        return f"{self.framework} {self.metric}"


@dataclass(frozen=True, slots=True)
class Objective:
    """One row: an objective, as one framework counts it.

    `level` says what is compared: a token's value, or a sequence's mean, sum, or extreme (its
    largest value above, its smallest below). `low` and `high` are edges in `unit`; None is an open
    side. `unit` is the ratio trainer over rollout, its log, its inverse, an estimate of a
    divergence (k2, k3: nats), the deviation |ratio - 1|, or a difference of probabilities.
    `high_counts` and `low_counts` are the sign of the advantage for which the framework counts a
    crossing. `averaging`: over tokens, or with the same weight for each sequence. With `moved`, a
    sequence beyond its edge counts with the share of its tokens that moved away: up at
    `high_counts`, down at `low_counts`.
    """

    name: str
    label: str
    kind: Kind
    wiring: Wiring
    level: Level
    low: float | None
    high: float | None
    high_counts: Advantage
    low_counts: Advantage
    averaging: Averaging
    counters: tuple[Counter, ...]
    source: str
    sentence: str
    unit: Unit = "ratio"
    moved: bool = False

    @property
    def counter(self) -> Counter:
        """The framework counter that defines the row."""
        return self.counters[0]

    @property
    def statistic(self) -> Statistic | None:
        """The statistic of its tokens; None if it compares sums over a sequence."""
        if self.unit == "probability difference" or self.unit == "binary KL":
            return self.unit
        divergence = self.unit in ("k2", "k3", "deviation")
        return (
            None if divergence and self.level in ("sequence-mean", "sequence-sum") else "log ratio"
        )

    def edges(self) -> tuple[float, float]:
        """Edges of the compared value; an open side is infinite.

        Of Δ (nats) where the statistic is the log ratio, else in `unit`.
        """
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if self.statistic != "log ratio" or self.unit == "log ratio":
            return low, high
        if self.unit == "k2":
            return -math.sqrt(2 * high), math.sqrt(2 * high)
        if self.unit == "k3":
            return _roots_of_k3(high)
        low, high = (_log(edge) for edge in (low, high))
        return (-high, -low) if self.unit == "inverse ratio" else (low, high)

    def log_edges(self) -> tuple[float, float]:
        """Edges of the log ratio, nats; infinite if a side is open or the row has no log ratio."""
        return self.edges() if self.statistic == "log ratio" else (-math.inf, math.inf)

    def counted(self, low: Floats, high: Floats, positive_share: float) -> Floats:
        """The expected count of the framework's counter, from `low` and `high` counts."""
        weight = {"any": 1.0, "positive": positive_share, "negative": 1.0 - positive_share}
        return weight[self.low_counts] * low + weight[self.high_counts] * high

    def edges_in_words(self) -> str:
        """The compared value and its edges, in words."""
        what = {
            "token": "",
            "sequence-mean": "geometric mean " if self.statistic == "log ratio" else "mean ",
            "sequence-sum": "product of " if self.unit == "ratio" else "sum of ",
            "sequence-extreme": "any ",
        }[self.level]
        name = f"{what}{self.unit}{'s' if what.endswith('of ') else ''}"
        if self.low is None:
            return f"{name} above {self.high:g}"
        if self.high is None:
            return f"{name} below {self.low:g}"
        return f"{name} outside {self.low:g} to {self.high:g}"


def _log(edge: float) -> float:
    return math.log(edge) if edge > 0.0 else -math.inf


def _roots_of_k3(value: float) -> tuple[float, float]:
    """Where e^x - 1 - x is `value`, below 0 and above: x = -(1 + v) - W(-e^-(1 + v))."""
    if math.isinf(value):
        return -math.inf, math.inf
    below, above = (
        float(-(1 + value) - special.lambertw(-math.exp(-(1 + value)), branch).real)
        for branch in (0, -1)
    )
    return below, above


def count_beyond(
    values: NDArray[np.floating], samples: Ints, thresholds: Floats, size: int
) -> Ints:
    """Count, for each of `size` samples, the values strictly above each threshold.

    `values` [n] belong to `samples` [n]; `thresholds` [T] ascend. Returns [size, T].
    """
    steps = len(thresholds) + 1
    # For few thresholds, comparing with each is several times faster than binary search.
    passed = np.zeros(len(values), np.int8)
    for threshold in thresholds:
        passed += values > threshold
    histogram = np.bincount(samples * steps + passed, minlength=size * steps)
    above: Ints = histogram.reshape(size, steps)[:, ::-1].cumsum(axis=1)[:, -2::-1]
    return above
