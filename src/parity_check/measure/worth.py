"""How many equal samples and clusters those of unequal length are worth against unseen bursts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity_check.measure.stats import Floats

SMALL_PART = 0.1
"""Of the tokens. Large clusters that hold less are not counted by themselves: four families among
thousands of single prompts can never show how many in a thousand families are off."""
MANY = 1000.0
"""So many times the samples are as good as an endless number, for what each further set adds."""


def burst_trials(
    sizes: Floats, lengths: Floats, level: float, times: float = 1.0, smallest: float = 0.0
) -> Floats:
    """How many equal trials [...] these samples or clusters are worth against unseen bursts.

    `sizes` [..., G] are their tokens, `lengths` [..., G] the tokens of a sample of theirs. A fault
    may strike only samples that are longer than some length. Those hold a part of all tokens and
    are worth (Σn)² / Σn² trials, which bound their share that is off; the part times this share is
    what stays unseen of all tokens. The length for which this is most decides. `times` as many of
    the same lengths are worth no more than so many times as much, because few long ones leave less
    unseen than 3.7 / their number. Parts of under the `smallest` share of all tokens are left out.
    """
    order = np.argsort(-lengths, axis=-1)
    longest = np.take_along_axis(lengths, order, axis=-1)
    tokens, squares = (
        np.take_along_axis(each, order, axis=-1).cumsum(axis=-1) for each in (sizes, sizes**2)
    )
    tail, total = (1.0 - level) / 2, tokens[..., -1]
    unseen = tokens / total[..., None] * (1.0 - tail ** (squares / tokens**2 / times))
    unseen[tokens < smallest * total[..., None]] = 0.0
    unseen[..., :-1][longest[..., 1:] == longest[..., :-1]] = 0.0
    most = unseen.max(axis=-1)
    every = times * total**2 / squares[..., -1]
    # The same, but exact: as many as there are where all are equal.
    trials: Floats = np.where(
        most == unseen[..., -1], every, math.log(tail) / np.log1p(-np.minimum(most, 1.0 - tail))
    )
    return trials


@dataclass(frozen=True, slots=True)
class Worth:
    """How many equal samples and clusters those of unequal length are worth: `burst_trials`.

    `lasting` is what each further set of the same lengths adds in the end. Of equal ones that is as
    many as there are, of unequal ones fewer than the first set is worth.
    """

    samples: float
    clusters: float
    lasting_samples: float
    lasting_clusters: float


def worth(lengths: Floats, tokens: Floats, samples: Floats, prompts: Floats, level: float) -> Worth:
    """Of samples of these lengths [S], in clusters of so many tokens, samples and prompts [G].

    A fault of whole clusters may strike those with long samples, or with many of each prompt, or
    those that are large, unless these are a SMALL_PART.
    """

    def of_samples(times: float) -> float:
        return float(burst_trials(lengths, lengths, level, times)) / times

    def of_clusters(times: float) -> float:
        kinds = ((tokens / samples, 0.0), (tokens / prompts, 0.0), (tokens, SMALL_PART))
        trials = [burst_trials(tokens, each, level, times, least) for each, least in kinds]
        return float(min(trials)) / times

    return Worth(of_samples(1.0), of_clusters(1.0), of_samples(MANY), of_clusters(MANY))


def different(groups: NDArray[np.int32], items: NDArray[np.int32], size: int) -> Floats:
    """How many different items each of the groups 0 to `size` - 1 has [size]."""
    _, first = np.unique(groups.astype(np.int64) << 32 | items, return_index=True)
    return np.bincount(groups[first], minlength=size).astype(np.float64)
