"""Histogram of a signed quantity on a signed log scale, and its quantiles.

A figure must show Δ of 1e-7 (an engine against itself) and of 10 (a broken token) at once, from one
pass over the tokens. Bins are 4 % wide, so a quantile is accurate to 2 %.
"""

from __future__ import annotations

import numpy as np

from parity_check.measure.stats import Floats, Ints

LOWEST, HIGHEST = (
    -8,
    2,
)  # powers of ten; what is smaller counts as 0, what is larger as the last bin
PER_DECADE = 64
SIDE = (HIGHEST - LOWEST) * PER_DECADE
BINS = 2 * SIDE + 1
SIZES: Floats = 10.0 ** (LOWEST + np.arange(SIDE + 1) / PER_DECADE)
"""Edges of the bins of |x|, ascending: bin SIDE + 1 + i holds SIZES[i] up to SIZES[i + 1]."""


def bins_of(values: Floats) -> Ints:
    """The bin of each value: SIDE for 0, below it the negative ones, above it the positive."""
    with np.errstate(divide="ignore"):
        steps = np.floor(PER_DECADE * (np.log10(np.abs(values)) - LOWEST)) + 1
    bins: Ints = (SIDE + np.sign(values) * np.clip(steps, 0, SIDE)).astype(np.int64)
    return bins


def middles() -> Floats:
    """The representative value of each bin [BINS]: its geometric mean; 0 for the bin of 0."""
    upper = np.sqrt(SIZES[:-1] * SIZES[1:])
    return np.concatenate([-upper[::-1], [0.0], upper])


def quantiles(counts: Ints, probabilities: tuple[float, ...]) -> tuple[float, ...]:
    """Quantiles of a histogram [BINS], each the middle of its bin."""
    ranks = np.cumsum(counts)
    places = np.searchsorted(ranks, np.array(probabilities) * ranks[-1], side="left")
    return tuple(float(value) for value in middles()[np.minimum(places, BINS - 1)])


def shares_above(counts: Ints) -> Floats:
    """The share of |x| at or above each of SIZES [SIDE + 1], from a histogram [BINS]."""
    sizes = counts[SIDE + 1 :] + counts[SIDE - 1 :: -1]
    above = np.concatenate([np.cumsum(sizes[::-1])[::-1], [0]])
    shares: Floats = above / counts.sum()
    return shares


def coarser(counts: Ints, factor: int) -> tuple[Ints, Floats]:
    """Merge every `factor` bins of a side: counts, and the bin edges on one side."""
    upper = counts[SIDE + 1 :].reshape(-1, factor).sum(axis=1)
    lower = counts[SIDE - 1 :: -1].reshape(-1, factor).sum(axis=1)[::-1]
    return np.concatenate([lower, counts[SIDE : SIDE + 1], upper]), SIZES[::factor]
