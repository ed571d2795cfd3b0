"""Signals of alignment: do the engines' logprobs belong to the same tokens of the same text?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity_check.diagnosis.evidence import Evidence, Flags, Floats, Ints

LAGS = (-3, -2, -1, 1, 2, 3)
FEWEST_TOKENS = 64
TAIL = 8
"""Tokens at the end of a sample to compare at every lag."""
APART = 0.3
"""Nats. Tails that differ by less than this on average are not shifted."""
FEWEST_APART = 2
"""Tokens of a tail that must differ by more than that each."""
AGREES = 0.1
"""Nats. Tails that differ by less agree; those that are near by chance differ by more."""


@dataclass(frozen=True, slots=True)
class Lag:
    """The lag at which the engines' logprob series agree best.

    `best`: the candidate's row t + best matches the reference's row t. The two Pearson
    correlations, over all samples, are at that lag and at lag 0.
    """

    best: int
    correlation: float
    unshifted: float


@dataclass(frozen=True, slots=True)
class Shifted:
    """Samples that are aligned at their start and shifted at their end: a different tokenization.

    `tokens` [n] marks the shifted tokens.
    """

    samples: int
    of: int
    tokens: Flags


def lag(evidence: Evidence) -> Lag | None:
    """The best lag over all samples; None if there are too few tokens."""
    found = {0: _correlation(evidence, 0)} | {each: _correlation(evidence, each) for each in LAGS}
    usable = {each: value for each, value in found.items() if value is not None}
    if 0 not in usable or len(usable) < 2:
        return None
    best = max(usable, key=lambda each: usable[each])
    return Lag(best, usable[best], usable[0])


def lag_by_prompt(evidence: Evidence) -> tuple[Ints, Lag] | None:
    """The best lag by each token's prompt length [n], a token more or less, in either direction.

    `best` is the sign: 1 if the candidate's row t + prompt length matches the reference's row t.
    """
    unshifted = _correlation(evidence, 0)
    lengths = evidence.prompt_length[evidence.sample]
    found = [
        (correlation, sign, by)
        for sign in (1, -1)
        for more in (-1, 0, 1)
        for by in [sign * (lengths + more)]
        if (correlation := _correlation(evidence, by)) is not None
    ]
    if not found or unshifted is None:
        return None
    correlation, sign, by = max(found, key=lambda each: each[0])
    return by, Lag(sign, correlation, unshifted)


def _correlation(evidence: Evidence, by: int | Ints) -> float | None:
    reference, candidate = evidence.reference[:, 0], shifted(evidence, by)
    both = np.isfinite(reference) & np.isfinite(candidate)
    if both.sum() < FEWEST_TOKENS:
        return None
    left, right = reference[both], candidate[both]
    if left.std() == 0.0 or right.std() == 0.0:
        return None
    return float(np.corrcoef(left, right)[0, 1])


def shifted(evidence: Evidence, by: int | Ints) -> Floats:
    """The candidate's logprob of token t + by of the same sample, at index t; NaN outside.

    `by` is one number, or one for each token [n].
    """
    values = evidence.candidate[:, 0]
    places = np.arange(len(values)) + by
    inside = (places >= 0) & (places < len(values))
    sample = evidence.sample
    places = np.clip(places, 0, max(0, len(values) - 1))
    return np.where(inside & (sample[places] == sample), values[places], np.nan)


def realigned(evidence: Evidence, by: int | Ints) -> Evidence:
    """The evidence with the candidate's series shifted back, without its alternatives."""
    candidate = np.full_like(evidence.candidate, np.nan)
    candidate[:, 0] = shifted(evidence, by)
    return evidence.with_candidate(candidate)


def shifted_tails(evidence: Evidence) -> Shifted:
    """Samples that are aligned at lag 0 at their start, and at another lag at their end."""
    lengths = np.diff(evidence.starts)
    at_zero = np.abs(evidence.delta)
    moved = {each: np.abs(shifted(evidence, each) - evidence.reference[:, 0]) for each in LAGS}
    marked = np.zeros(len(at_zero), np.bool_)
    samples = 0
    long_enough = np.flatnonzero(lengths >= 2 * TAIL)
    for number in long_enough:
        first, last = int(evidence.starts[number]), int(evidence.starts[number + 1])
        # The last rows of a shifted sample are padding: exclude them.
        tail = slice(last - max(LAGS) - TAIL, last - max(LAGS))
        straight = _mean(at_zero[tail])
        best = min(LAGS, key=lambda each: _mean(moved[each][tail]))
        if not APART < straight < np.inf or _mean(moved[best][tail]) > min(0.2 * straight, AGREES):
            continue
        if np.count_nonzero(at_zero[tail] > APART) < FEWEST_APART:
            continue  # one token at the edge of the tail
        if _mean(at_zero[first : first + TAIL]) > APART:
            continue  # it does not agree at its start either
        gain = at_zero[first:last] - moved[best][first:last]
        gain = np.where(np.isfinite(gain), gain, 0.0)
        # The token after which the shifted series fits better for the rest of the sample.
        onset = first + int(np.cumsum(gain[::-1])[::-1].argmax())
        samples += 1
        marked[onset:last] = True
    return Shifted(samples, len(long_enough), marked)


def _mean(values: Floats) -> float:
    usable = values[np.isfinite(values)]
    return float(usable.mean()) if len(usable) > TAIL // 2 else np.inf


def doubled_bos(evidence: Evidence) -> tuple[int, float]:
    """The first id of most prompts, and the share of prompts that begin with it twice."""
    firsts: Ints = evidence.first_ids.astype(np.int64)
    ids, counts = np.unique(firsts[:, 0], return_counts=True)
    common = int(ids[counts.argmax()])
    twice = (firsts == common).all(axis=1)
    return common, float(twice.mean())
