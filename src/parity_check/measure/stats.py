"""Estimates with cluster-robust intervals: means, shares, quantiles, ESS, sample sizes.

Tokens of one prompt are not independent, so every interval here is clustered by prompt: the
sandwich error of a ratio of sums with t(G - 1) (Miller, arXiv 2411.00640), corrected for skewness
as by Hall (JRSS B 1992), Woodruff's interval for quantiles (JASA 1952), the BCa bootstrap for the
effective sample size, an exact bound for rare events.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

FEWEST_CLUSTERS = 8
"""Below this there is no interval: the error of G - 1 clusters is too uncertain."""

FOLDS = 128
"""Methods whose memory or time would grow with the clusters use at most this many random groups of
clusters; groups of whole clusters are independent too."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One number with its unit, sample size and uncertainty.

    `ci_low` and `ci_high` are None if there is no interval; `note` then says why. `n` counts the
    tokens or the sequences that the value averages, `clusters` the prompts they come from.
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


def ratio_of_sums(sums: Floats, weights: Floats) -> tuple[float, float]:
    """Mean and its cluster-robust standard error.

    `sums` [G] holds each cluster's sum and `weights` [G] its size; mean M = sum(s) / sum(w) and
    SE^2 = G / (G - 1) * sum((s - M w)^2) / sum(w)^2. The error is NaN for a single cluster.
    """
    total = float(weights.sum())
    mean = float(sums.sum()) / total
    clusters = len(sums)
    if clusters < 2:
        return mean, math.nan
    squares = float(np.square(sums - mean * weights).sum())
    return mean, math.sqrt(clusters / (clusters - 1) * squares) / total


Interval: TypeAlias = Callable[[Floats, Floats, float], tuple[float, float]]
"""Computes the interval of a mean from each cluster's sum and weight, and the level."""


def t_interval(sums: Floats, weights: Floats, level: float) -> tuple[float, float]:
    """M ± t(G - 1) SE."""
    mean, error = ratio_of_sums(sums, weights)
    half = t_quantile(len(sums), level) * error
    return mean - half, mean + half


def skewed_interval(sums: Floats, weights: Floats, level: float) -> tuple[float, float]:
    """Interval of the mean with t(G - 1) and Hall's correction for skewness, wide enough for both.

    `sums` and `weights` [G] are per cluster. Means of squares (k2, k3) are dominated by few
    clusters: the upper end of M ± t SE is then too low in one of ten runs. Hall's monotone
    transformation of the studentized mean (JRSS B 1992, eq. 2.3) moves both ends towards the long
    tail. The end on the other side is never moved inwards, because the skewness is itself estimated
    from few clusters.
    """
    mean, error = ratio_of_sums(sums, weights)
    clusters = len(sums)
    edge = t_quantile(clusters, level)
    low, high = t_interval(sums, weights, level)
    residuals = sums - mean * weights
    variance = float(np.square(residuals).mean())
    if not variance > 0.0:
        return low, high
    skewness = float((residuals**3).mean()) / variance**1.5
    skewness *= math.sqrt(clusters * (clusters - 1)) / (clusters - 2)
    a, shift = skewness / (3 * math.sqrt(clusters)), skewness / (6 * math.sqrt(clusters))
    if abs(a) < 1e-6:
        return low, high
    upper, lower = ((math.cbrt(1 + 3 * a * (y - shift)) - 1) / a for y in (-edge, edge))
    return min(low, mean - lower * error), max(high, mean - upper * error)


def design_effect(sums: Floats, squares: Floats, weights: Floats) -> float:
    """The factor by which clustering inflates the variance of a token mean; at least 1.

    `sums` and `squares` [G] are each cluster's sum of a value and of its square.
    """
    mean, error = ratio_of_sums(sums, weights)
    total = float(weights.sum())
    variance = float(squares.sum()) / total - mean * mean
    if not (variance > 0.0 and error > 0.0):
        return 1.0
    return max(1.0, error * error / (variance / total))


def mean_estimate(
    name: str,
    unit: str,
    sums: Floats,
    weights: Floats,
    *,
    sampled_by: str,
    level: float,
    lowest: float = -math.inf,
    highest: float = math.inf,
    interval: Interval = skewed_interval,
) -> Estimate:
    """Estimate a mean with its interval, clamped to the range of the metric.

    `sums` and `weights` [G] are per cluster; clusters without weight do not count. Raises
    ValueError if no cluster has any.
    """
    present = weights > 0
    sums, weights = sums[present], weights[present]
    clusters = len(weights)
    if clusters == 0:
        raise ValueError(f"{name}: mean of no tokens")
    mean, _ = ratio_of_sums(sums, weights)
    low = high = None
    note = too_few_clusters(clusters)
    if not note:
        low, high = interval(sums, weights, level)
        low, high = max(low, lowest), min(high, highest)
    return Estimate(
        name, sampled_by, mean, low, high, level, round(weights.sum()), clusters, unit, note
    )


def share_estimate(
    name: str,
    sums: Floats,
    weights: Floats,
    *,
    sampled_by: str,
    level: float,
    effective_n: float,
) -> Estimate:
    """Estimate a share; the interval is never narrower than the exact one of `effective_n`.

    `effective_n` is the count over its design effect. With few events, the sandwich error is too
    small (its upper end misses a share of 3 / n in one of five runs), and with none it is zero. So
    the exact binomial interval of an effective n is a lower bound of the width (Korn and Graubard
    1998). With zero events it is the rule of three, at 2.5 % per side like every other interval:
    3.7 / n at a level of 95 %.
    """
    estimate = mean_estimate(
        name, "share", sums, weights, sampled_by=sampled_by, level=level,
        lowest=0.0, highest=1.0, interval=t_interval,
    )  # fmt: skip
    if estimate.ci_low is None or estimate.ci_high is None:
        return estimate
    low, high = exact_interval(estimate.value * effective_n, effective_n, level)
    note = ""
    if estimate.value in (0.0, 1.0):
        what = "no instance" if estimate.value == 0.0 else "no exception"
        note = f"{what} in {estimate.n:,}: rule of three with an effective n of {effective_n:,.0f}"
    return replace(
        estimate,
        ci_low=min(estimate.ci_low, low),
        ci_high=max(estimate.ci_high, high),
        note=note,
    )


def exact_interval(seen: float, n: float, level: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of the share of `seen` in `n`; both may be fractional."""
    tail = (1.0 - level) / 2
    low = 0.0 if seen <= 0.0 else float(special.betaincinv(seen, n - seen + 1.0, tail))
    high = 1.0 if seen >= n else float(special.betaincinv(seen + 1.0, n - seen, 1.0 - tail))
    return low, high


def too_few_clusters(clusters: int) -> str:
    """The reason why there is no interval; empty if there are enough clusters."""
    if clusters >= FEWEST_CLUSTERS:
        return ""
    return f"no interval: {clusters} prompts, at least {FEWEST_CLUSTERS} needed"


def fold(rows: Floats) -> Floats:
    """Sum the clusters (rows of [G, …]) in at most FOLDS groups."""
    folded = np.zeros((min(len(rows), FOLDS), *rows.shape[1:]))
    for start in range(0, len(rows), FOLDS):
        part = rows[start : start + FOLDS]
        folded[: len(part)] += part
    return folded


def effective_sample_size(
    counts: Floats, ratios: Floats, squares: Floats, *, sampled_by: str, level: float, seed: int
) -> Estimate:
    """ESS as a share, (sum r)^2 / (n sum r^2) (Kish 1965), with a BCa interval over clusters.

    The arguments [G] are each cluster's token count, sum of ratios and sum of squared ratios.
    """
    present = counts > 0
    folded = fold(np.stack([counts[present], ratios[present], squares[present]], axis=1))
    clusters = int(present.sum())

    def share(n: Floats, r: Floats, rr: Floats, axis: int = -1) -> Floats:
        of_axis: Floats = r.sum(axis) ** 2 / (n.sum(axis) * rr.sum(axis))
        return of_axis

    # Rounding may lift a share of exactly 1 above 1.
    value = min(1.0, float(share(*folded.T)))
    n = round(counts.sum())
    note = too_few_clusters(clusters)
    low = high = None
    if not note and np.ptp(folded[:, 1] / folded[:, 0]) == 0 and value == 1.0:
        low = high = 1.0
    elif not note:
        low, high = _bca(folded, share, level, seed)
        note = "" if low is not None else "no interval: the bootstrap is degenerate"
    return Estimate("ess", sampled_by, value, low, high, level, n, clusters, "share", note)


def _bca(
    rows: Floats, statistic: Callable[..., Floats], level: float, seed: int
) -> tuple[float | None, float | None]:
    # Imported here: scipy.stats takes longer to import than everything else together.
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate bootstrap is reported as NaN, seen below
        result = bootstrap(
            tuple(rows.T),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=1999,
            confidence_level=level,
            method="BCa",
            random_state=np.random.default_rng(seed),
        )
    low, high = (float(edge) for edge in result.confidence_interval)
    if math.isnan(low) or math.isnan(high):
        return None, None
    return max(0.0, low), min(1.0, high)


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
    note = too_few_clusters(clusters)
    low = high = None
    if not note:
        sizes = histogram.sum(axis=1).astype(np.float64)
        below = histogram[:, : index + 1].sum(axis=1).astype(np.float64)
        present = sizes > 0
        _, error = ratio_of_sums(below[present], sizes[present])
        # No token lies above the last bin, so the clusters show no spread: fall back on the error
        # of independent tokens, which is a lower bound.
        error = max(error, math.sqrt(probability * (1.0 - probability) / n))
        half = t_quantile(int(present.sum()), level) * error
        low, high = at(max(0.0, probability - half)), at(probability + half)
        if probability + half >= 1.0:
            note = "the upper end is the largest observed value: the tail has too few tokens"
    return Estimate(
        f"abs_log_ratio_p{100 * probability:g}", sampled_by, at(probability), low, high,
        level, n, clusters, "nats", note,
    )  # fmt: skip


def prompts_needed(spread: float, distance: float) -> int | None:
    """Prompts needed for a verdict: (3.6 s / d)^2, for a 90 % chance of parity at zero drift.

    `spread` is the standard deviation of a cluster's mean, `distance` how far the estimate is from
    its limit; 3.6 = 1.96 + 1.645 (two one-sided tests). None if the estimate is at the limit: no
    number of prompts is enough.
    """
    if distance <= 0.0:
        return None
    needed = (3.6 * spread / distance) ** 2
    return math.ceil(needed) if needed < 1e9 else None
