"""Split trainer vs. candidate into what existed before the upgrade and what the upgrade added.

Per token Δ(t, c) = Δ(t, r) + Δ(r, c), with Δ(a, b) = logprob of a - logprob of b: trainer minus
candidate is trainer minus reference plus reference minus candidate. Means add up. Squares do not,
because the two legs are correlated. The share of a leg is therefore its projection onto the whole,

    share of (t, r) = Σ Δ(t, r) Δ(t, c) / Σ Δ(t, c)²,

and the two shares sum to exactly 1. A leg that is anticorrelated with the whole has a negative
share. If t, r and c have independent errors of equal size, the share is a half: t's own error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from parity_check.errors import TraceMismatchError
from parity_check.measure import invalid, stats
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.stats import Estimate, Floats

LEGS = ("whole", "already", "added")
"""Δ(t, c), Δ(t, r) and Δ(r, c)."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One of the three differences; `share` is its share of Σ Δ(whole)²."""

    evaluating: str
    behaviour: str
    mean: Estimate
    rms: Estimate
    share: Estimate | None


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Trainer vs. candidate: what existed before the upgrade, and what the upgrade added.

    `tokens` counts the tokens with a usable logprob on all three engines. `share` is None if
    trainer and candidate are bit-identical.
    """

    trainer: str
    sampled_by: str
    tokens: int
    whole: Leg
    already: Leg
    added: Leg


def decompose(
    chunks: Iterable[tuple[PairedChunk, PairedChunk]],
    trainer: str,
    *,
    sampled_by: str,
    level: float,
    reference: str = "reference",
    candidate: str = "candidate",
) -> Decomposition:
    """Decompose trainer vs. candidate in one pass.

    In each pair of chunks the behaviour side is the candidate. The first chunk is evaluated by the
    trainer, the second by the reference. Raises TraceMismatchError if no token is usable.
    """
    sums = np.zeros((0, 1 + 3 * len(LEGS)))
    for left, right in chunks:
        rows = int(left.cluster.max(initial=-1)) + 1
        if rows > len(sums):
            sums = np.concatenate([sums, np.zeros((rows - len(sums), sums.shape[1]))])
        owner = np.repeat(left.cluster, np.diff(left.starts))
        sides = (left.evaluating_logprob, right.evaluating_logprob, left.behaviour_logprob)
        usable = np.logical_and.reduce([invalid.usable_values(side) for side in sides])
        t, r, c = (side[usable].astype(np.float64) for side in sides)
        whole, legs = t - c, (t - c, t - r, r - c)
        columns = [
            np.ones(len(t)),
            *legs,
            *(leg**2 for leg in legs),
            *(leg * whole for leg in legs),
        ]
        np.add.at(sums, owner[usable], np.stack(columns, axis=1))
    present = sums[:, 0] > 0
    if not present.any():
        raise TraceMismatchError(
            "nothing was compared: no token has a usable logprob on all three engines"
        )
    count = sums[present, 0]
    names = ((trainer, candidate), (trainer, reference), (reference, candidate))
    delta, squares, shared = (sums[present, i : i + 3].T for i in (1, 4, 7))
    found = [
        Leg(
            *pair,
            stats.mean_estimate(
                "mean_log_ratio", "nats", delta[leg], count, sampled_by=sampled_by, level=level
            ),
            stats.mean_estimate(
                "rms_log_ratio",
                "nats",
                squares[leg],
                count,
                sampled_by=sampled_by,
                level=level,
                lowest=0.0,
                interval=stats.long_tailed_interval,
            ).map(math.sqrt),
            _share(shared[leg], squares[0], round(count.sum()), sampled_by, level),
        )
        for leg, pair in enumerate(names)
    ]
    return Decomposition(trainer, sampled_by, round(count.sum()), *found)


def _share(
    products: Floats, squares: Floats, tokens: int, sampled_by: str, level: float
) -> Estimate | None:
    """A ratio of sums over clusters, with its interval."""
    present = squares > 0
    if not present.any():
        return None
    products, squares = products[present], squares[present]
    estimate = stats.mean_estimate(
        "squared_share", "share", products, squares, sampled_by=sampled_by, level=level
    )
    return replace(estimate, n=tokens)
