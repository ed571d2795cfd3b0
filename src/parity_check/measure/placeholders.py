"""Logprobs that say nothing of their tokens: 0 on both sides, constants, those of other samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parity_check.measure.metrics import F32, I32, PairedChunk
from parity_check.measure.stats import Ints

Bools = NDArray[np.bool_]

CERTAIN = -5e-7
"""Logprobs above this are 0 but for float32's rounding of a probability near 1."""

BEGINNING = 16
"""Tokens at the beginning of each sample whose logprobs are compared with other samples'."""
TELLING, UNSURE = 8, -0.05
"""So many of them must be below this: in a template the model is sure of its tokens, and their
logprobs are alike in every sample."""
STEPS = 1000
"""They are compared to 1/1000 nat: two logprobs of bf16 are equal by chance once in 100 tokens, of
eight tokens never, and noise on top of a constant stays a constant."""
LEAST = -1e6
"""Nats. What is lower is no logprob, and is compared as this."""


class Placeholders:
    """Counts them over the chunks so far. Keeps four numbers of each sample."""

    def __init__(self) -> None:
        self.certain = 0
        self.repeated = 0
        self._last: tuple[float, float, int] | None = None
        self._factors = np.random.default_rng(0).integers(0, 2**64, BEGINNING, dtype=np.uint64)
        self._lengths: list[Ints] = []
        self._tokens: list[Ints] = []
        self._logprobs: list[tuple[Ints, Ints]] = []

    def add_usable(self, behaviour: F32, evaluating: F32, owner: Ints, cluster: I32) -> None:
        """Count tokens [n] without an alternative, or with the logprobs of the token before them.

        `owner` [n] numbers their samples, `cluster` [samples] the clusters of these. The first
        token of a sample counts where the one before it is of another cluster, because samples of
        one prompt may begin alike.
        """
        certain = np.minimum(behaviour, evaluating) > CERTAIN
        self.certain += int(np.count_nonzero(certain))
        same = (behaviour[1:] == behaviour[:-1]) & (evaluating[1:] == evaluating[:-1])
        after = np.flatnonzero(same) + 1
        after = after[~certain[after]]
        here, before = owner[after], owner[after - 1]
        self.repeated += int(
            np.count_nonzero((here == before) | (cluster[here] != cluster[before]))
        )
        if self._last is not None and not certain[0]:
            *pair, last = self._last
            same_pair = pair == [behaviour[0], evaluating[0]]
            self.repeated += same_pair and bool(cluster[owner[0]] != last)
        self._last = behaviour[-1], evaluating[-1], int(cluster[owner[-1]])

    def add_samples(self, chunk: PairedChunk) -> None:
        """Remember how each sample begins."""
        if chunk.token_ids is None or not len(chunk.token_ids):
            return
        lengths = np.diff(chunk.starts)
        place = np.arange(BEGINNING)
        there = place < lengths[:, None]
        where = np.where(there, chunk.starts[:-1, None] + place, 0)
        self._lengths.append(lengths)
        self._tokens.append(self._hashes(chunk.token_ids[where] + 1, there))
        behaviour, evaluating = (
            self._rows(side[where], there)
            for side in (chunk.behaviour_logprob, chunk.evaluating_logprob)
        )
        self._logprobs.append((behaviour, evaluating))

    def copied(self) -> int:
        """The tokens of samples that have other tokens than another one, but its logprobs."""
        if not self._tokens:
            return 0
        tokens, lengths = np.concatenate(self._tokens), np.concatenate(self._lengths)
        found = np.zeros(len(tokens), np.bool_)
        for side in zip(*self._logprobs, strict=True):
            rows = np.concatenate(side)
            _, name = np.unique(rows, return_inverse=True)
            first, last = np.full(len(rows), tokens.max()), np.full(len(rows), tokens.min())
            np.minimum.at(first, name, tokens)
            np.maximum.at(last, name, tokens)
            found |= (rows != 0) & (first != last)[name]
        return int(lengths[found].sum())

    def _rows(self, logprobs: F32, there: Bools) -> Ints:
        """A number for the logprobs of each sample; 0 where they are too few to tell."""
        finite = np.isfinite(logprobs)
        known = np.clip(np.where(finite, logprobs, 0.0).astype(np.float64), LEAST, -LEAST)
        rounded = np.rint(known * STEPS)
        telling = np.count_nonzero(there & (known < UNSURE), axis=1) >= TELLING
        whole = (finite | ~there).all(axis=1)
        return np.where(telling & whole, self._hashes(rounded.astype(np.int64), there), 0)

    def _hashes(self, values: Ints | I32, there: Bools) -> Ints:
        products = values.astype(np.int64).view(np.uint64) * self._factors
        sums: Ints = np.where(there, products, np.uint64(0)).sum(axis=1).view(np.int64)
        return sums
