"""How far an arm's curve is from the reference's, judged against the reference's own seeds. Pure.

Steps of one run are not independent: what the policy has learned carries over. So the variance of a
mean over steps comes from blocks of consecutive steps (circular block bootstrap, Politis and Romano
1992), not from single ones; and because whole runs differ by more than their steps show, it is
never taken to be less than the reference's runs differ from one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from parity_check.measure.gates import Verdict
from parity_check.measure.stats import Floats

REPLICATES = 2000
IN_A_ROW = 2
"""So many steps must be outside before the first of them counts."""


@dataclass(frozen=True, slots=True)
class Band:
    """What the reference's seeds say about one curve.

    `run` is the standard deviation of a run's mean, `step` that of a single step; `half_width` is
    how far the mean of an arm's runs lies from the reference's in 95 % of cases, if the arm's
    engine is the reference's.
    """

    run: float
    step: float
    half_width: float


@dataclass(frozen=True, slots=True)
class Distance:
    """Mean distance of an arm's curve to the reference's, with its interval, and its verdict."""

    value: float
    ci_low: float
    ci_high: float
    limit: float
    verdict: Verdict
    first_outside: int | None
    """The first of two consecutive steps outside the band of single steps."""


def block_length(steps: int) -> int:
    """Steps of a block: the root of their number."""
    return max(1, round(math.sqrt(steps)))


def mean_variance(curve: Floats) -> float:
    """Variance of the mean of a curve [steps], by the circular block bootstrap."""
    steps = len(curve)
    length = block_length(steps)
    blocks = -(-steps // length)
    starts = np.random.default_rng(0).integers(0, steps, (REPLICATES, blocks))
    places = (starts[:, :, None] + np.arange(length)) % steps
    means = curve[places.reshape(REPLICATES, -1)[:, :steps]].mean(axis=1)
    return float(means.var())


def band(reference: Floats, runs: int, level: float) -> Band:
    """The reference's band from its curves [seeds, steps], for an arm with so many runs."""
    seeds = len(reference)
    pairs = [reference[i] - reference[j] for i in range(seeds) for j in range(i)]
    by_blocks = float(np.mean([mean_variance(pair) for pair in pairs])) / 2
    by_runs = float(np.mean([pair.mean() ** 2 for pair in pairs])) / 2
    run = math.sqrt(max(by_blocks, by_runs))
    rest = reference - reference.mean(axis=0)
    step = math.sqrt(float((rest**2).sum()) / (rest.shape[1] * (seeds - 1)))
    return Band(run, step, _z(level) * run * _both(runs, seeds))


def distance(
    arm: Floats,
    reference: Floats,
    found: Band,
    *,
    level: float,
    times: float,
    matters: float,
    most: float = math.inf,
    widest: float = math.inf,
) -> Distance:
    """Judge an arm's curves [runs, steps] against the reference's [seeds, steps].

    The limit is `times` the reference's band, and at least `matters`. Inside it is the whole
    interval (parity), outside it the whole interval (drift), else nothing is decided. No distance
    exceeds `most`. Parity needs a limit below that and not above `widest`, because seeds that
    differ by more show nothing; and no two consecutive steps outside, which a mean can hide.
    """
    steps = min(arm.shape[1], reference.shape[1])
    gap = arm[:, :steps].mean(axis=0) - reference[:, :steps].mean(axis=0)
    both = _both(len(arm), len(reference))
    error = math.sqrt(max(mean_variance(gap), (found.run * both) ** 2))
    value, half = float(gap.mean()), _z(level) * error
    limit = max(times * found.half_width, matters)
    low, high = value - half, value + half
    # Any of the steps may be the first, so the level is that of all steps together.
    edge = max(_z(1 - (1 - level) / steps) * found.step * both, matters)
    first = _first(np.abs(gap) > edge)
    verdict: Verdict = "inconclusive"
    if low > limit or high < -limit:
        verdict = "drift"
    elif -limit <= low and high <= limit and limit < most and limit <= widest and first is None:
        verdict = "parity"
    return Distance(value, max(low, -most), min(high, most), limit, verdict, first)


def _first(outside: np.ndarray) -> int | None:
    for place in range(len(outside) - IN_A_ROW + 1):
        if outside[place : place + IN_A_ROW].all():
            return place
    return None


def _z(level: float) -> float:
    return float(special.ndtri(0.5 + level / 2))


def _both(runs: int, seeds: int) -> float:
    """The error of a difference of two means of runs, in that of one run."""
    return math.sqrt(1 / runs + 1 / seeds)
