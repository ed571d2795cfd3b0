"""Signals of place: does Δ depend on the position, the prompt's prefix, or a few tokens?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity_check.diagnosis.evidence import Evidence, Flags, Floats, Ints

WINDOW = 16
"""Tokens before and after a position to compare for a jump."""
NEAR = 4
"""The same in a single sample, where a jump is sharp and a growth is not."""
FEWEST_TOKENS = 60
FEWEST_SAMPLES = 5
SMALLEST = 1e-7
"""Nats. Stands for "identical" in logarithms."""
LEAST_CHANCE = 0.05
"""A token that leaves less chance to all others says nothing of the size of an error: rounded to
two decimals, its logprob cannot move."""
LARGER = 2.0
"""Smallest ratio of `evened` |Δ| where errors are larger: equal ones differ by up to 1.4."""


@dataclass(frozen=True, slots=True)
class Onset:
    """The position at which |Δ| jumps and stays high.

    `context` is the number of prompt and completion tokens before the first such token. `before`
    and `after` are E|Δ| in nats; `jump` is the ratio of the geometric means across one window
    there, `score` its logarithm over its standard error. `jump_evened` is the ratio of `evened`, 1
    if there are too few.

    Of the `samples` with tokens on both sides, three in four have a ratio of `jump_within` or more
    of the tokens next to it. If their prompts have `lengths` different lengths, it is the context
    that counts, not the place in the completion.
    """

    context: int
    before: float
    after: float
    jump: float
    jump_evened: float
    score: float
    tokens: Flags
    samples: int
    jump_within: float
    lengths: int


@dataclass(frozen=True, slots=True)
class Contrast:
    """E|Δ| (nats) of the tokens of some samples against that of the others.

    `ratio` is of the geometric means over samples, `score` its logarithm over its standard error.
    """

    inside: float
    outside: float
    ratio: float
    score: float
    samples: int
    others: int


def onset(evidence: Evidence) -> Onset | None:
    """The sharpest jump of |Δ| along the position; None if no position has enough tokens."""
    size = np.abs(evidence.delta)
    usable = np.isfinite(size)
    place = context_length(evidence)[usable]
    size = size[usable]
    if len(size) < 2 * FEWEST_TOKENS:
        return None
    level = np.log(np.maximum(size, SMALLEST))
    bins = int(place.max()) + 2
    count, total, square = (
        np.concatenate([[0.0], np.cumsum(np.bincount(place, weights=w, minlength=bins))])
        for w in (np.ones_like(level), level, level**2)
    )
    edges = np.arange(1, bins)
    low, high = np.maximum(edges - WINDOW, 0), np.minimum(edges + WINDOW, bins)
    n_before, n_after = count[edges] - count[low], count[high] - count[edges]
    with np.errstate(divide="ignore", invalid="ignore"):
        before = (total[edges] - total[low]) / n_before
        after = (total[high] - total[edges]) / n_after
        spread = (square[edges] - square[low]) / n_before - before**2
        spread_after = (square[high] - square[edges]) / n_after - after**2
        error = np.sqrt(
            np.maximum(spread, 1e-4) / n_before + np.maximum(spread_after, 1e-4) / n_after
        )
        score = (after - before) / error
    score[(n_before < FEWEST_TOKENS) | (n_after < FEWEST_TOKENS) | ~np.isfinite(score)] = -np.inf
    if not np.isfinite(score).any():
        return None
    best = int(edges[score.argmax()])
    late = place >= best
    across, crossing = _across(evidence, best)
    return Onset(
        context=best,
        before=float(size[~late].mean()),
        after=float(size[late].mean()),
        jump=float(np.exp(after[score.argmax()] - before[score.argmax()])),
        jump_evened=_evened_jump(evidence, best),
        score=float(score.max()),
        tokens=context_length(evidence) >= best,
        samples=len(across),
        jump_within=float(np.exp(np.quantile(across, 0.25))) if len(across) else 1.0,
        lengths=len(np.unique(evidence.prompt_length[crossing])),
    )


def evened(evidence: Evidence) -> Floats:
    """|Δ| [n] over the chance that the engines leave to other tokens, in nats.

    An error of the logits moves the logprob of a token in proportion to that chance, so that |Δ| is
    small wherever the model is sure, whatever the engines do there. NaN where it is too sure.
    """
    with np.errstate(invalid="ignore"):
        chance = -np.expm1(np.minimum(evidence.reference[:, 0], evidence.candidate[:, 0]))
        return np.where(
            chance >= LEAST_CHANCE,
            np.abs(evidence.delta) / np.maximum(chance, LEAST_CHANCE),
            np.nan,
        )


def times_evened(inside: Floats, outside: Floats) -> float:
    """The ratio of the means of two sets of `evened`; 1 if one has too few.

    Rounding makes many of them 0, but leaves their mean as it is.
    """
    left, right = inside[np.isfinite(inside)], outside[np.isfinite(outside)]
    if min(len(left), len(right)) < FEWEST_SAMPLES:
        return 1.0
    return float(left.mean() / max(right.mean(), SMALLEST))


def _evened_jump(evidence: Evidence, best: int) -> float:
    """Across one window at `best`."""
    size, from_best = evened(evidence), context_length(evidence) - best
    after = (from_best >= 0) & (from_best < WINDOW)
    before = (from_best < 0) & (from_best >= -WINDOW)
    return times_evened(size[after], size[before])


def _across(evidence: Evidence, best: int) -> tuple[Floats, Ints]:
    """log of the jump in each sample with tokens close to `best` on both sides, and the samples."""
    size = np.abs(evidence.delta)
    from_best = context_length(evidence) - best
    means = []
    for near in ((from_best < 0) & (from_best >= -NEAR), (from_best >= 0) & (from_best < NEAR)):
        usable = near & np.isfinite(size)
        level = np.log(np.maximum(size[usable], SMALLEST))
        owner = evidence.sample[usable]
        number = len(evidence.starts) - 1
        count = np.bincount(owner, minlength=number)
        with np.errstate(invalid="ignore"):
            means.append(np.bincount(owner, weights=level, minlength=number) / count)
    difference = means[1] - means[0]
    samples = np.flatnonzero(np.isfinite(difference))
    return difference[samples], samples


def median_by_sample(evidence: Evidence, usable: Flags) -> Floats:
    """The median |Δ| [S] of the usable tokens [n] of each sample; NaN if it has none."""
    size = np.abs(evidence.delta)[usable]
    owner = evidence.sample[usable]
    order = np.lexsort((size, owner))
    count = np.bincount(owner, minlength=len(evidence.starts) - 1)
    first = np.cumsum(count) - count
    found = np.full(len(count), np.nan)
    some = count > 0
    size = size[order]
    middle = (first + (count - 1) // 2, first + count // 2)
    found[some] = (size[middle[0][some]] + size[middle[1][some]]) / 2.0
    return found


def context_length(evidence: Evidence) -> Ints:
    """How many prompt and completion tokens precede each token [n]."""
    length: Ints = evidence.position + evidence.prompt_length[evidence.sample]
    return length


def contrast(evidence: Evidence, samples: Flags, size: Floats | None = None) -> Contrast | None:
    """|Δ| of the given samples [S] against that of the others; None if a group is too small.

    `size` [n] is what stands for |Δ|.
    """
    size = np.abs(evidence.delta) if size is None else size
    usable = np.isfinite(size)
    owner = evidence.sample[usable]
    count = np.bincount(owner, minlength=len(samples))
    mean = np.bincount(owner, weights=size[usable], minlength=len(samples)) / np.maximum(count, 1)
    inside, outside = mean[samples & (count > 0)], mean[~samples & (count > 0)]
    if min(len(inside), len(outside)) < FEWEST_SAMPLES:
        return None
    left, right = (np.log(np.maximum(each, SMALLEST)) for each in (inside, outside))
    error = np.sqrt(
        max(left.var(ddof=1), 1e-4) / len(left) + max(right.var(ddof=1), 1e-4) / len(right)
    )
    gap = float(left.mean() - right.mean())
    return Contrast(
        inside=float(inside.mean()),
        outside=float(outside.mean()),
        ratio=float(np.exp(gap)),
        score=gap / float(error),
        samples=len(inside),
        others=len(outside),
    )


def growth(evidence: Evidence) -> float | None:
    """Spearman's rank correlation of |Δ| with the position; None for too few tokens."""
    size = np.abs(evidence.delta)
    usable = np.isfinite(size)
    if usable.sum() < FEWEST_TOKENS:
        return None
    place = context_length(evidence)[usable]
    if len(np.unique(place)) < 2 or np.ptp(size[usable]) == 0.0:
        return None
    return float(np.corrcoef(_ranks(place), _ranks(size[usable]))[0, 1])


def _ranks(values: Floats | Ints) -> Floats:
    """The rank of each value; equal ones share the middle of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    middle: Floats = np.cumsum(count) - (count - 1) / 2
    return middle[place]


def first_token(evidence: Evidence) -> float | None:
    """E|Δ| of the first completion tokens over that of the others; None if there are too few."""
    size = np.abs(evidence.delta)
    usable = np.isfinite(size)
    first = usable & (evidence.position == 0)
    later = usable & (evidence.position > 0)
    if min(first.sum(), later.sum()) < FEWEST_SAMPLES or not size[later].any():
        return None
    return float(size[first].mean() / size[later].mean())


def unlikely(evidence: Evidence) -> float | None:
    """Share of Σ|Δ| on tokens with a reference probability below one half; None if Σ|Δ| = 0."""
    size = np.abs(evidence.delta)
    usable = np.isfinite(size)
    total = float(size[usable].sum())
    if not total:
        return None
    return float(size[usable & (evidence.reference[:, 0] < np.log(0.5))].sum() / total)


def held_by_the_largest(evidence: Evidence, share: float) -> float:
    """The part of Σ|Δ| in the given share of tokens with the largest |Δ|."""
    size = np.abs(evidence.delta)
    sizes: Floats = np.sort(size[np.isfinite(size)])
    total = float(sizes.sum())
    return float(sizes[-max(1, int(len(sizes) * share)) :].sum() / total) if total else 0.0


def without_tokens(evidence: Evidence, tokens: Flags) -> Evidence:
    """The evidence without some tokens [n]."""
    return evidence.with_candidate(np.where(tokens[:, None], np.nan, evidence.candidate))
