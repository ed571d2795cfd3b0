"""Estimates with intervals: cluster-robust means, shares, quantiles, ESS, sample sizes.

Tokens of one prompt are not independent, so every interval here is clustered by prompt. The error
is the sandwich error of a ratio of sums (Miller, arXiv 2411.00640) with the correction for few and
unequal clusters that econometrics calls CR2 (Bell and McCaffrey 2002), Satterthwaite's degrees of
freedom (Imbens and Kolesár 2016) and Hall's correction for skewness (JRSS B 1992). Shares also have
an exact bound for rare events, and quantiles have Woodruff's interval (JASA 1952).

The last axis of all sums and weights is the cluster. Functions that return arrays keep the other
axes, so a simulation can pass many runs at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

from parity_check import words

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

FEWEST_CLUSTERS = 8
"""Below this effective number there is no interval: simulated coverage is too low."""

FOLDS = 128
"""A histogram is kept for at most this many groups of whole clusters, which bounds its memory."""

SKEWNESS_BIAS = 4.0
"""Samples underestimate skewness, so it is scaled by 1 + 4 / sqrt(degrees + 1)."""

LONG_TAIL_DEGREES = 2.75
"""The error of a quantity with one long tail is uncertain, and small when the mean is small. The
end on that side therefore divides the degrees of freedom by this. Both constants were chosen by
simulation, see docs/reference/metrics.md."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number with its unit, sample size and uncertainty.

    `ci_low` and `ci_high` are None if there is no interval; `note` then says why. `n` counts the
    tokens or the sequences that the value averages, `clusters` the independent units (prompts,
    unless clustered otherwise) they come from, and `effective_clusters` how many equal ones these
    are worth, (Σn)² / Σn². `unseen` is the part of the interval's far end that stands for events of
    which the sample holds none.
    """

    name: str
    sampled_by: str
    value: float
    ci_low: float | None
    ci_high: float | None
    level: float
    n: int
    clusters: int
    unit: str
    note: str = ""
    effective_clusters: float = 0.0
    unseen: float = 0.0

    def map(self, function: Callable[[float], float]) -> Estimate:
        """The estimate of an increasing `function` of this value."""
        return replace(
            self,
            value=function(self.value),
            ci_low=None if self.ci_low is None else function(self.ci_low),
            ci_high=None if self.ci_high is None else function(self.ci_high),
        )


def t_quantile(clusters: int, level: float) -> float:
    """Half-width of a two-sided interval in standard errors, with `clusters` - 1 degrees."""
    return float(special.stdtrit(clusters - 1, 0.5 + level / 2))


def effective_clusters(weights: Floats) -> Floats:
    """The number of equal clusters that the `weights` [..., G] are worth: (Σw)² / Σw²."""
    number: Floats = np.square(weights.sum(axis=-1)) / np.square(weights).sum(axis=-1)
    return number


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean over clusters and its uncertainty; arrays [...] over runs.

    `error` is the standard error, `degrees` its degrees of freedom, `skewness` that of the mean.
    """

    mean: Floats
    error: Floats
    degrees: Floats
    skewness: Floats


def spread(sums: Floats, weights: Floats) -> Spread:
    """Mean, error, degrees of freedom and skewness of a ratio of sums.

    `sums` [..., G] holds each cluster's sum and `weights` [..., G] its size. M = Σs / Σw, with
    residuals s - M w; a cluster of share h = w / Σw pulls M towards itself, so CR2 divides its
    residual by sqrt(1 - h): SE² = Σ (s - M w)² / (1 - h) / (Σw)². With equal clusters this is the
    familiar factor G / (G - 1). The error of a single cluster is 0.
    """
    total = weights.sum(axis=-1, keepdims=True)
    mean = sums.sum(axis=-1, keepdims=True) / total
    share = weights / total
    residuals = (sums - mean * weights) / np.sqrt(_left(share))
    length = np.sqrt(np.square(residuals).sum(axis=-1, keepdims=True))
    unit = residuals / np.where(length > 0.0, length, 1.0)
    skewness = (unit * unit * unit).sum(axis=-1)  # numpy's ** 3 is slow
    return Spread(mean[..., 0], (length / total)[..., 0], _satterthwaite(share), skewness)


def _satterthwaite(share: Floats) -> Floats:
    """Degrees of freedom of the CR2 variance for clusters of these shares [..., G] of the weight.

    2 E[V]² / Var[V] of the quadratic form V = Σ a (s - M w)², a = 1 / (1 - h), under normal sums
    whose variance grows as the square of the size: clusters with an effect of their own, which is
    the least favourable for unequal sizes. G equal clusters have G - 1.
    """
    scale, variance = 1.0 / _left(share), np.square(share)
    cross = scale * share
    corner = (cross * share).sum(axis=-1, keepdims=True)
    diagonal = scale - 2.0 * cross + corner
    # The trace of the squared form: all pairs, then a correction of the diagonal.
    one, two, three = (
        (variance * power).sum(axis=-1) for power in (np.ones_like(cross), cross, np.square(cross))
    )
    k = corner[..., 0]
    pairs = np.square(k * one) + 2.0 * (three * one + np.square(two)) - 4.0 * k * one * two
    pairs += (np.square(variance) * (np.square(diagonal) - np.square(corner - 2.0 * cross))).sum(
        axis=-1
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        degrees: Floats = np.square((variance * diagonal).sum(axis=-1)) / pairs
    # At most G - 1, and 1 where one cluster has all of the weight and rounding has the rest.
    return np.minimum(np.fmax(degrees, 1.0), max(1.0, share.shape[-1] - 1.0))


def _left(share: Floats) -> Floats:
    """The share of the other clusters; 1 if there is only one, whose residual is 0."""
    return np.where(share < 1.0, 1.0 - share, 1.0)


def skewed_interval(sums: Floats, weights: Floats, level: float) -> tuple[Floats, Floats]:
    """Both ends [...] of the interval of a mean with similar tails, such as mean Δ."""
    return _ends(spread(sums, weights), level, long_tail=1.0)


def long_tailed_interval(sums: Floats, weights: Floats, level: float) -> tuple[Floats, Floats]:
    """Both ends [...] of the interval of a mean with a long upper tail such as k3, or a share."""
    return _ends(spread(sums, weights), level, long_tail=LONG_TAIL_DEGREES)


def _ends(seen: Spread, level: float, long_tail: float) -> tuple[Floats, Floats]:
    """M ± t SE, moved outwards on the side of the longer tail by Hall's transformation.

    A mean carried by few clusters is small where its error is small, and M ± t SE misses an upper
    truth in one run of ten. The studentized mean is made symmetric by Hall's cubic (JRSS B 1992,
    eq. 2.3), whose inverse gives the ends; the end on the other side stays where t has it.
    """
    clusters = seen.degrees + 1.0
    skewness = seen.skewness * (1.0 + SKEWNESS_BIAS / np.sqrt(clusters))
    skewness *= np.sqrt(clusters * seen.degrees) / np.maximum(clusters - 2.0, 0.5)
    a, shift = skewness / 3.0, skewness / 6.0
    flat = np.abs(a) < 1e-6

    def hall(edge: Floats) -> Floats:
        moved = (np.cbrt(1.0 + 3.0 * a * (edge - shift)) - 1.0) / np.where(flat, 1.0, a)
        return np.where(flat, edge, moved)

    edge, above = (
        np.asarray(
            special.stdtrit(np.maximum(seen.degrees / divisor, 1.0), 0.5 + level / 2), np.float64
        )
        for divisor in (1.0, long_tail)
    )
    # Always for the upper end: a sample without tail tokens shows no skewness.
    below = np.where(skewness < 0.0, above, edge)
    low: Floats = seen.mean - np.maximum(below, hall(below)) * seen.error
    high: Floats = seen.mean + np.maximum(above, -hall(-above)) * seen.error
    return low, high


Interval: TypeAlias = Callable[[Floats, Floats, float], tuple[Floats, Floats]]
"""Computes the interval of a mean from each cluster's sum and weight, and the level."""


def mean_estimates(
    names: Sequence[str],
    unit: str,
    sums: Floats,
    weights: Floats,
    *,
    sampled_by: str,
    level: float,
    lowest: float = -math.inf,
    highest: float = math.inf,
    interval: Interval = skewed_interval,
) -> list[Estimate]:
    """Estimate means with their intervals, clamped to the range of the metric.

    `sums` [names, G] and `weights` [G] are per cluster; clusters without weight do not count.
    Raises ValueError if no cluster has any.
    """
    present = weights > 0
    sums, weights = sums[:, present], weights[present]
    if len(weights) == 0:
        raise ValueError(f"{names[0]}: mean of no tokens")
    note = too_few_clusters(weights)
    ends: list[tuple[float | None, float | None]] = [(None, None)] * len(names)
    if not note:
        low, high = interval(sums, weights, level)
        low, high = np.maximum(low, lowest), np.minimum(high, highest)
        ends = list(zip(low.tolist(), high.tolist(), strict=True))
    total, effective = weights.sum(), float(effective_clusters(weights))
    return [
        Estimate(
            name, sampled_by, value, low, high, level, round(total), len(weights), unit, note,
            effective,
        )
        for name, value, (low, high) in zip(
            names, (sums.sum(axis=-1) / total).tolist(), ends, strict=True
        )
    ]  # fmt: skip


def mean_estimate(
    name: str,
    unit: str,
    sums: Floats,
    weights: Floats,
    *,
    sampled_by: str,
    level: float,
    lowest: float = -math.inf,
    interval: Interval = skewed_interval,
) -> Estimate:
    """One of them: `sums` and `weights` are [G]."""
    [estimate] = mean_estimates(
        [name], unit, sums[None], weights,
        sampled_by=sampled_by, level=level, lowest=lowest, interval=interval,
    )  # fmt: skip
    return estimate


def share_estimates(
    names: Sequence[str],
    sums: Floats,
    weights: Floats,
    *,
    sampled_by: str,
    level: float,
    trials: float | None = None,
) -> list[Estimate]:
    """Estimate shares of one total; an interval is never narrower than the exact one.

    `sums` [names, G] and `weights` [G] are per cluster. A few instances show too little spread for
    the sandwich, and none show no spread at all: the exact interval then takes them to come one by
    one, in so many `trials` (the total weight unless given). Where nothing was seen it is the rule
    of three, at 2.5 % a side like every other interval: 3.7 / n at a level of 95 %.
    """
    total = float(weights.sum()) if trials is None else trials
    estimates = mean_estimates(
        names, "share", sums, weights, sampled_by=sampled_by, level=level, lowest=0.0, highest=1.0,
        interval=lambda sums, weights, level: share_interval(sums, weights, level, total),
    )  # fmt: skip
    return [_with_unseen(estimate, total) for estimate in estimates]


def _with_unseen(share: Estimate, trials: float) -> Estimate:
    """A share of which nothing was seen, or nothing else, with the reason for its interval."""
    if share.ci_low is None or share.ci_high is None or share.value not in (0.0, 1.0):
        return share
    what = "no instance" if share.value == 0.0 else "no exception"
    worth = f", worth {trials:,.0f}" if round(trials) < share.n else ""
    return replace(
        share,
        note=f"{what} in {share.n:,}{worth}: rule of three, if they are independent",
        unseen=share.ci_high - share.ci_low,
    )


def share_interval(
    sums: Floats, weights: Floats, level: float, trials: Floats | float
) -> tuple[Floats, Floats]:
    """Both ends [...] of a share's interval: of a mean with one long tail, or the exact ones.

    Fewer `trials` than weight bound what was not seen; what was seen counts in full.
    """
    low, high = long_tailed_interval(sums, weights, level)
    total = weights.sum(axis=-1)
    value, counted = sums.sum(axis=-1) / total, np.maximum(trials, total)
    least = exact_interval(value * counted, counted, level)[0]
    most = exact_interval(value * trials, trials, level)[1]
    return np.minimum(low, least), np.maximum(high, most)


def exact_interval(seen: Floats | float, n: Floats | float, level: float) -> tuple[Floats, Floats]:
    """Clopper and Pearson's interval of the share of `seen` in `n`; both may be fractional."""
    tail = (1.0 - level) / 2
    seen, n = np.asarray(seen, np.float64), np.asarray(n, np.float64)
    low = special.betaincinv(np.maximum(seen, 1e-300), n - seen + 1.0, tail)
    high = special.betaincinv(seen + 1.0, np.maximum(n - seen, 1e-300), 1.0 - tail)
    return np.where(seen <= 0.0, 0.0, low), np.where(seen >= n, 1.0, high)


def too_few_clusters(weights: Floats) -> str:
    """The reason why there is no interval; empty if there are enough clusters.

    `weights` [G] are the clusters' sizes, none of them 0. What counts is their effective number.
    """
    number = float(effective_clusters(weights))
    if number >= FEWEST_CLUSTERS - 1e-9:
        return ""
    worth = "" if number > len(weights) - 0.05 else f" of unequal size, worth {number:.1f}"
    clusters = words.count(len(weights), "cluster")
    return f"no interval: {clusters}{worth}, at least {FEWEST_CLUSTERS} needed"


UNSEEN_LOG_RATIO = 3.0
"""The assumed |Δ| of a token that the sample does not contain, nats: a factor of twenty. The
profiles allow a k3 of ten times the tail fraction, which tokens with |Δ| = 2.6 nats produce."""

UNSEEN_TOKEN = {
    "mean_importance_ratio": math.expm1(UNSEEN_LOG_RATIO),
    "k3_kl": math.expm1(UNSEEN_LOG_RATIO) - UNSEEN_LOG_RATIO,
    "ess": math.expm1(UNSEEN_LOG_RATIO) ** 2,
}
"""What one unseen token adds to the sum of a metric; for ESS, to the sum of 1 / ESS - 1."""

UNSEEN_CLUSTER = {"mean_importance_ratio": math.expm1(0.5), "k3_kl": math.expm1(0.5)}
"""The same of each token of an unseen cluster with a burst, whose Δ is N(0, 1). For ESS it would be
5.1, which a cluster of 71 unseen tokens adds as well."""


def unseen_share(trials: float, level: float) -> float:
    """The largest share of what so many independent trials may contain none of."""
    return float(exact_interval(0.0, trials, level)[1])


def allow_unseen(estimate: Estimate, trials: float) -> Estimate:
    """Raise the upper end by what unseen tokens or unseen bursts can add, if that is bounded.

    A sample alone cannot bound a mean: a tail that it does not contain may dominate. The number of
    tokens bounds the share of bad ones that come alone, UNSEEN_LOG_RATIO their size; so many
    `trials` (`burst_trials`) bound the share of the tokens that are in a burst.
    """
    if estimate.ci_high is None:
        return estimate
    unseen = max(
        size.get(estimate.name, 0.0) * unseen_share(number, estimate.level)
        for size, number in ((UNSEEN_TOKEN, estimate.n), (UNSEEN_CLUSTER, trials))
    )
    return replace(estimate, ci_high=estimate.ci_high + unseen, unseen=unseen)


def variation_sums(counts: Floats, ratios: Floats, squares: Floats) -> Floats:
    """Sums [..., G] whose mean over the tokens is 1 / ESS - 1 = mean r² / (mean r)² - 1.

    The arguments [..., G] are each cluster's token count, sum of ratios and of squared ratios. Each
    cluster's sum is its share of the first-order expansion, which is what an error needs.
    """
    total = counts.sum(axis=-1, keepdims=True)
    first = ratios.sum(axis=-1, keepdims=True) / total
    second = squares.sum(axis=-1, keepdims=True) / total
    variation = second / first**2 - 1.0
    linear = (squares - second * counts) / first**2
    linear -= 2.0 * second / first**3 * (ratios - first * counts)
    sums: Floats = linear + variation * counts
    return sums


def effective_sample_size(
    name: str, counts: Floats, ratios: Floats, squares: Floats, *, sampled_by: str, level: float
) -> Estimate:
    """ESS as a share, (Σr)² / (n Σr²) (Kish 1965), with its interval.

    The arrays [G] are each cluster's token count, sum of ratios and sum of squared ratios. The
    interval is that of 1 / ESS - 1, the squared coefficient of variation of the ratios: linearised,
    it is a mean over tokens with one long tail.
    """
    present = counts > 0
    n = counts[present]
    estimate = mean_estimate(
        name, "share", variation_sums(n, ratios[present], squares[present]), n,
        sampled_by=sampled_by, level=level, lowest=0.0, interval=long_tailed_interval,
    )  # fmt: skip
    estimate = allow_unseen(estimate, estimate.effective_clusters)
    # Rounding may bring the variation of equal ratios below zero.
    value = 1.0 / (1.0 + max(0.0, estimate.value))
    if estimate.ci_low is None or estimate.ci_high is None:
        return replace(estimate, value=value)
    low, high = 1.0 / (1.0 + estimate.ci_high), 1.0 / (1.0 + estimate.ci_low)
    seen = 1.0 / (1.0 + estimate.ci_high - estimate.unseen)
    return replace(estimate, value=value, ci_low=low, ci_high=high, unseen=seen - low)


# A magnitude's bin is its float32 without the lowest 16 bits (128 bins an octave): no logarithm,
# the same on every machine, mergeable, and the middle of a bin is within 0.4 % of its members.
_BIN_SHIFT = 16
_FIRST_BIN = ((127 - 32) << 7) - 1
BINS = ((32 + 14) << 7) + 1


def magnitude_bins(magnitudes: NDArray[np.float32]) -> NDArray[np.int32]:
    """Histogram bin of each |x| (float32 [n]); everything below 2^-32 shares bin 0, as zero."""
    bits = magnitudes.view(np.int32) >> _BIN_SHIFT
    bins: NDArray[np.int32] = np.clip(bits - _FIRST_BIN, 0, BINS - 1)
    return bins


def bin_middle(index: int) -> float:
    """The representative value of a bin; 0 for the lowest."""
    if index == 0:
        return 0.0
    edges = (np.array([index, index + 1], np.int32) + np.int32(_FIRST_BIN)) << _BIN_SHIFT
    return float(edges.view(np.float32).mean(dtype=np.float64))


def quantile_estimate(
    probability: float,
    histogram: Ints,
    maximum: float,
    clusters: int,
    *,
    sampled_by: str,
    level: float,
) -> Estimate:
    """A quantile of |Δ| from histograms, with Woodruff's interval.

    `histogram` [folds, BINS] counts the tokens of each group of clusters; `maximum` is the exact
    largest magnitude. The interval is that of the share below the quantile, read back through
    the distribution; no random numbers.
    """
    total = histogram.sum(axis=0)
    cumulative = np.cumsum(total)
    n = int(cumulative[-1])

    def at(share: float) -> float:
        if share >= 1.0:
            return maximum
        rank = max(1, math.ceil(share * n))
        return min(bin_middle(int(np.searchsorted(cumulative, rank))), maximum)

    index = int(np.searchsorted(cumulative, max(1, math.ceil(probability * n))))
    sizes = histogram.sum(axis=1).astype(np.float64)
    present = sizes > 0
    note = too_few_clusters(sizes[present])
    low = high = None
    if not note:
        below = histogram[:, : index + 1].sum(axis=1).astype(np.float64)
        seen = spread(below[present], sizes[present])
        # No token lies above the last bin, so the clusters show no spread: fall back on the error
        # of independent tokens, which is a lower bound.
        error = max(float(seen.error), math.sqrt(probability * (1.0 - probability) / n))
        half = float(special.stdtrit(seen.degrees, 0.5 + level / 2)) * error
        low, high = at(max(0.0, probability - half)), at(probability + half)
        if probability + half >= 1.0:
            note = "the upper end is the largest observed value: the tail has too few tokens"
    return Estimate(
        f"abs_log_ratio_p{100 * probability:g}", sampled_by, at(probability), low, high,
        level, n, clusters, "nats", note, float(effective_clusters(sizes[present])),
    )  # fmt: skip


SETTLING_ERRORS = 4.4
"""Standard errors from an estimate to its limit at which 90 % of runs settle every gate. One gate
whose estimate is exact needs 3.6 = 1.96 + 1.645 (two one-sided tests); the estimate that the
distance is taken from is noisy, and there are many gates (simulated, docs/reference/metrics.md)."""


ONE_SIDED = 1.28
"""Standard errors that an estimate exceeds in one run of ten."""


def clusters_needed(
    spread: float, distance: float, unseen: float = 0.0, noise: float = 0.0
) -> int | None:
    """Clusters that settle a verdict in nine runs of ten.

    `spread` is the standard deviation of a cluster's mean, `distance` how far the estimate is from
    its limit, `unseen` what events that a single cluster does not show could add. G clusters are
    enough when SETTLING_ERRORS spread / sqrt(G) + unseen / G is within the distance. Where unseen
    events ask for most of them, the first term does not cover that the distance comes from an
    estimate; `noise` is the standard error of that. None when the estimate is on the limit: no
    number of clusters will do.
    """
    if unseen and distance > ONE_SIDED * noise:
        distance -= ONE_SIDED * noise
    if distance <= 0.0:
        return None
    width = SETTLING_ERRORS * spread
    root = (width + math.sqrt(width * width + 4.0 * unseen * distance)) / (2.0 * distance)
    needed = root * root
    return math.ceil(needed) if needed < 1e9 else None
