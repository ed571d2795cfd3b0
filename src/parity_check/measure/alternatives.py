"""The alternatives of a block of tokens, on one side: their defects, the likeliest, the entropy."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from parity_check.measure import invalid

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

MOST_SUM = 1.05
"""Probabilities of alternatives sum to 1 at most; those of logprobs in bf16 are off by 1 %."""

NEGLIGIBLE = np.float32(-87.0)
"""Nats below the likeliest alternative: the exponential of less is subnormal, and slow."""


class Alternatives:
    """One engine's alternatives; `ids` and `logprobs` are [n, k].

    A missing entry has a negative id or a NaN; -inf is legitimate if the support was truncated.
    """

    def __init__(self, ids: I32, logprobs: F32) -> None:
        # One row per alternative: k is small, and numpy is slow along a short last axis.
        self._ids, self._logprobs = np.ascontiguousarray(ids.T), np.ascontiguousarray(logprobs.T)
        # NaN fails the comparison, because the minimum propagates it.
        if self._ids.min(initial=0) >= 0 and self._logprobs.min(initial=0.0) >= -np.inf:
            self._there = None  # every entry
        else:
            self._there = (self._ids >= 0) & ~np.isnan(self._logprobs)

    def defects(self, token_ids: I32 | None, sampled_logprobs: F32) -> Counter[str]:
        """Count the defects of n tokens.

        With `token_ids` [n], the sampled token must be among the alternatives if it is likelier
        than the least likely one.
        """
        twice = self._duplicates()
        too_likely = (self._mass() > MOST_SUM) & ~twice
        counts = Counter(
            top_duplicate=int(np.count_nonzero(twice)),
            top_sum_above_1=int(np.count_nonzero(too_likely)),
        )
        if self._there is not None:
            counts["top_missing"] = int(np.count_nonzero(~self._there.all(axis=0)))
        if token_ids is not None:
            found = self._only_there(self._ids == token_ids).any(axis=0)
            absent = np.flatnonzero(~found)
            least = self._logprobs[:, absent]
            if self._there is not None:
                least = np.where(self._there[:, absent], least, np.float32(np.inf))
            last = least.min(axis=0)
            # The two columns of a dump may be rounded differently: to bf16, or to two decimals.
            rounding = np.where(np.isfinite(last), np.maximum(np.abs(last) / 128, 0.01), 0.0)
            likelier = sampled_logprobs[absent] > last + rounding
            counts["sampled_not_returned"] = int(np.count_nonzero(likelier))
        return counts

    def top(self) -> tuple[I32, F32]:
        """The likeliest id [n], the first on a tie, and its logprob; -inf if there is none."""
        top = self._usable.max(axis=0)
        chosen: I32 = self._ids[-1].copy()
        for which, own in zip(self._ids[-2::-1], self._usable[-2::-1], strict=True):
            np.copyto(chosen, which, where=own == top)
        return chosen, top

    def entropy(self) -> F32:
        """Entropy [n] of the alternatives, renormalised. Nats, to 1e-6."""
        return self._weights.entropy()

    def _mass(self) -> F32:
        """The sum [n] of the probabilities."""
        mass: F32 = np.exp(self._weights.top) * self._weights.total
        return mass

    def _duplicates(self) -> NDArray[np.bool_]:
        """Which tokens [n] have an id that occurs twice."""
        twice = np.zeros(self._ids.shape[1], np.bool_)
        for one, other in combinations(range(len(self._ids)), 2):
            same = self._ids[one] == self._ids[other]
            if same.any():
                there = self._there
                twice |= same if there is None else same & there[one] & there[other]
        return twice

    def _only_there(self, flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return flags if self._there is None else flags & self._there

    @cached_property
    def _weights(self) -> Weights:
        return Weights.of(self._usable)

    @cached_property
    def _usable(self) -> F32:
        """The logprobs [k, n]; -inf where there is none."""
        if self._there is None and self._logprobs.max(initial=0.0) <= invalid.ROUNDING:
            return self._logprobs
        usable = self._only_there(self._logprobs <= invalid.ROUNDING)
        return np.where(usable, self._logprobs, np.float32(-np.inf))


class Weights(NamedTuple):
    """Probabilities of alternatives in units of the likeliest one's.

    `top` [n] is its logprob, `shifted` [k, n] are logprobs minus it, `total` [n] is their sum.
    """

    top: F32
    shifted: F32
    weights: F32
    total: F32

    @classmethod
    def of(cls, logprobs: F32) -> Weights:
        """Of logprobs [k, n], -inf for none."""
        top = np.maximum(logprobs.max(axis=0), np.float32(invalid.FLOOR))
        shifted = np.maximum(logprobs - top, NEGLIGIBLE)
        weights = np.exp(shifted)
        return cls(top, shifted, weights, weights.sum(axis=0))

    def entropy(self) -> F32:
        """Renormalised: [n], nats."""
        entropy: F32 = np.log(self.total) - (self.shifted * self.weights).sum(axis=0) / self.total
        return entropy
