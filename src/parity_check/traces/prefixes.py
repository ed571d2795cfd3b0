"""Prompts that begin alike: what makes samples of different prompts depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity_check.traces.batch import SampleBatch

SHORTEST_PREFIX = 16
"""Tokens: shorter common beginnings, such as a chat template's, are ignored."""
FINER = 32
"""Beginnings are compared at so many lengths for each doubling, but not at every token."""
LONGEST = 1 << 22
"""Tokens of a beginning that are compared at most."""


def _lengths() -> NDArray[np.int64]:
    """The lengths at which beginnings are compared."""
    found, length = [], SHORTEST_PREFIX
    while length <= LONGEST:
        found.append(length)
        length += max(4, (1 << (length.bit_length() - 1)) // FINER)
    return np.array(found, np.int64)


LENGTHS = _lengths()


@dataclass(frozen=True, slots=True)
class Alike:
    """How many prompts share their beginning with a prompt of another cluster, `of` how many.

    `most` is the largest number of them that have one beginning.
    """

    prompts: int
    of: int
    most: int


class Prefixes:
    """Finds prompts that begin with the same tokens, for half of their length or more.

    A beginning of more than half of all prompts, such as a system prompt, does not count, and the
    length is then that of the rest. Keeps some hashes of each prompt.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._factors = np.zeros(0, np.uint64)
        self._hashes: list[NDArray[np.uint64]] = []
        self._lengths: list[int] = []
        self._clusters: list[int] = []

    def add(self, batch: SampleBatch, clusters: NDArray[np.int32]) -> None:
        """Add the prompts of a batch, whose samples are of these clusters [S]."""
        starts = batch.prompt_starts
        for number, prompt in enumerate(batch.prompt_ids):
            ids = batch.prompt_token_ids[starts[number] : starts[number + 1]]
            if prompt in self._seen or not len(ids):
                continue
            self._seen.add(prompt)
            self._hashes.append(self._beginnings(ids))
            self._lengths.append(len(ids))
            self._clusters.append(int(clusters[number]))

    def _beginnings(self, ids: NDArray[np.int32]) -> NDArray[np.uint64]:
        """Hashes of the beginnings of a prompt, the shortest first, and of all of it."""
        if len(ids) > len(self._factors):
            # Of more of them, the first ones are the same.
            random = np.random.default_rng(0)
            self._factors = random.integers(0, 2**64, 2 * len(ids), dtype=np.uint64)
        sums = np.cumsum((ids.astype(np.uint64) + np.uint64(1)) * self._factors[: len(ids)])
        return np.append(sums[_compared(len(ids)) - 1], ~sums[-1])

    def alike(self) -> Alike:
        """The prompts that begin alike, and are counted apart."""
        prompts = len(self._hashes)
        if not prompts:
            return Alike(0, 0, 0)
        points = [np.append(_compared(length), length) for length in self._lengths]
        sizes = np.array([len(each) for each in points])
        owner, at = np.repeat(np.arange(prompts), sizes), np.concatenate(points)
        whole = np.zeros(len(owner), np.bool_)
        whole[np.cumsum(sizes) - 1] = True
        _, name, count = np.unique(
            np.concatenate(self._hashes), return_inverse=True, return_counts=True
        )
        cluster = np.array(self._clusters)[owner]
        first, last = np.full(len(count), cluster.max()), np.zeros(len(count), cluster.dtype)
        np.minimum.at(first, name, cluster)
        np.maximum.at(last, name, cluster)
        apart, having = (first != last)[name], count[name]
        template = np.zeros(prompts, np.int64)
        everyone = (2 * having > prompts) & ~whole
        np.maximum.at(template, owner[everyone], at[everyone])
        rest = np.array(self._lengths) - template
        enough = (template + np.maximum(SHORTEST_PREFIX, rest / 2))[owner]
        found = apart & (whole | ((at >= enough) & ~everyone))
        return Alike(len(np.unique(owner[found])), prompts, int(having[found].max(initial=0)))


def _compared(tokens: int) -> NDArray[np.int64]:
    """Those up to the length of a prompt of so many tokens."""
    return LENGTHS[: np.searchsorted(LENGTHS, tokens, side="right")]
