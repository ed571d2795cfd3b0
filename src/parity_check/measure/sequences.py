"""Whole rollouts: what is kept of each sample, put together over the turns of a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity_check.measure.metrics import I32
from parity_check.measure.objective import Objective
from parity_check.measure.stats import Floats, Ints
from parity_check.measure.worth import Worth, worth

SEQUENCE_SUMS = (
    "count", "log_ratio", "squared_log_ratio", "k3", "deviation", "ratio", "clamped_ratio",
    "increased", "identical",
)  # fmt: skip
"""The columns of a token that are summed sample by sample."""


@dataclass(frozen=True, slots=True)
class SampleRows:
    """One row a sample [S]: its rollout, prompt and cluster, sums [S, SEQUENCE_SUMS], extremes of
    Δ, tokens beyond the edges that are averaged by sequence [S, T] and above the tail threshold,
    and its first differing token (-1: none).
    """

    rollout: Ints
    prompt: I32
    cluster: I32
    sums: Floats
    smallest: Floats
    largest: Floats
    beyond: NDArray[np.int32]
    tail: NDArray[np.int32]
    first: Ints

    def used_prompts(self) -> I32:
        """The prompts of the samples that have usable tokens."""
        return self.prompt[self.sums[:, 0] > 0]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """One row a rollout that has usable tokens [R]; `beyond` [R, T], `sums` by their names.

    `tail` [R] counts the tokens with |Δ| above the tail threshold.
    """

    cluster: I32
    sums: dict[str, Floats]
    smallest: Floats
    largest: Floats
    beyond: Ints
    tail: Ints
    clusters: int

    @property
    def length(self) -> Floats:
        """Usable tokens."""
        return self.sums["count"]

    @property
    def mean(self) -> Floats:
        """Mean Δ, nats."""
        return self.sums["log_ratio"] / self.length

    def by_cluster(self, values: Floats | NDArray[np.bool_]) -> Floats:
        """Sums [clusters] of one value a rollout."""
        sums = np.bincount(self.cluster, weights=values, minlength=self.clusters)
        return sums.astype(np.float64, copy=False)

    def ones(self) -> Floats:
        """Rollouts of each cluster."""
        return self.by_cluster(np.ones(len(self.cluster)))

    def worth(self, prompts: Floats, level: float) -> Worth:
        """How many equal rollouts and clusters, of so many prompts [clusters], these are worth."""
        there = prompts > 0
        tokens, rollouts = self.by_cluster(self.length)[there], self.ones()[there]
        return worth(self.length, tokens, rollouts, prompts[there], level)

    def between(self, low: int, high: float) -> Rollouts:
        """Those of at least `low` tokens, and fewer than `high`."""
        where = (self.length >= low) & (self.length < high)
        return Rollouts(
            self.cluster[where],
            {name: values[where] for name, values in self.sums.items()},
            self.smallest[where], self.largest[where], self.beyond[where], self.tail[where],
            self.clusters,
        )  # fmt: skip

    def compared(self, row: Objective) -> tuple[Floats, Floats]:
        """What `row` compares with its edges: below the low one, and above the high one."""
        if row.level == "sequence-extreme":
            return self.smallest, self.largest
        name = {"k2": "squared_log_ratio", "k3": "k3", "deviation": "deviation"}.get(
            row.unit, "log_ratio"
        )
        value = self.sums[name] / (2.0 if row.unit == "k2" else 1.0)
        value = value if row.level == "sequence-sum" else value / self.length
        return value, value


def rollouts_of(samples: Sequence[SampleRows], clusters: int) -> Rollouts:
    """Put the samples of each rollout together; a rollout's cluster is that of its first sample."""
    names, first, owner = np.unique(
        np.concatenate([each.rollout for each in samples]), return_index=True, return_inverse=True
    )
    size = len(names)
    whole = size == len(owner)  # every sample is a rollout, in the order of the trace

    def added(rows: NDArray[np.float64] | NDArray[np.int32]) -> NDArray[np.float64]:
        if whole:
            return rows[first].astype(np.float64)
        out = np.zeros((size, rows.shape[1]))
        np.add.at(out, owner, rows)
        return out

    sums = added(np.concatenate([each.sums for each in samples]))
    smallest, largest = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(smallest, owner, np.concatenate([each.smallest for each in samples]))
    np.maximum.at(largest, owner, np.concatenate([each.largest for each in samples]))
    beyond = added(np.concatenate([each.beyond for each in samples])).astype(np.int64)
    tail = added(np.concatenate([each.tail for each in samples])[:, None])[:, 0].astype(np.int64)
    cluster = np.concatenate([each.cluster for each in samples])[first]
    filled = sums[:, 0] > 0
    return Rollouts(
        cluster[filled],
        dict(zip(SEQUENCE_SUMS, sums[filled].T, strict=True)),
        smallest[filled], largest[filled], beyond[filled], tail[filled], clusters,
    )  # fmt: skip
