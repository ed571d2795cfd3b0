"""Sums over the tokens of one sampling direction, kept per prompt while the tokens stream by.

Memory does not grow with the number of tokens: what is kept is one row of sums a prompt, one row a
sample, and one histogram.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from parity_check.measure import invalid, stats
from parity_check.measure.metrics import COLUMN, COLUMNS, F32, I32, PairedChunk, token_columns
from parity_check.measure.objectives import Objective, count_beyond
from parity_check.measure.stats import Floats, Ints

POSITION_EDGES = (0, 16, 64, 256, 1024, 4096, 16384)
BROKEN_DOWN = [COLUMN[name] for name in ("count", "log_ratio", "abs_log_ratio", "k3")]
_BLOCK = 1 << 15  # tokens at a time: the columns of a block stay in the processor's cache


class Accumulator:
    """What is kept of the chunks seen so far: sums a prompt, a row a sample, a histogram."""

    def __init__(
        self,
        objectives: Iterable[Objective],
        tail_thresholds: Iterable[float],
        tail_threshold: float = 1.0,
    ) -> None:
        edges = [row.log_edges() for row in objectives if row.level == "token"]
        tails = [*tail_thresholds, tail_threshold]
        self.tail_threshold = tail_threshold
        self.ups = np.array(sorted({*tails, *(high for _, high in edges if high < math.inf)}))
        self.downs = np.array(sorted({*tails, *(-low for low, _ in edges if low > -math.inf)}))
        widths = {
            "totals": len(COLUMNS),
            "position": len(POSITION_EDGES) * len(BROKEN_DOWN),
            "probability": PROBABILITY_BINS * len(BROKEN_DOWN),
            "ups": len(self.ups),
            "downs": len(self.downs),
            "up_shares": len(self.ups),
            "down_shares": len(self.downs),
            "alternatives": 3,
            "impossible": 1,
        }
        ends = np.cumsum(list(widths.values())).tolist()
        self.parts = {
            name: slice(end - width, end)
            for (name, width), end in zip(widths.items(), ends, strict=True)
        }
        self.width = ends[-1]
        self.sums = np.zeros((0, self.width))
        self.group = np.zeros(0, np.int32)
        self.histogram = np.zeros((stats.FOLDS, stats.BINS), np.int64)
        self.largest = 0.0
        self.excluded = 0
        self.defects = {"behaviour": Counter[str](), "evaluating": Counter[str]()}
        self.sequences: list[tuple[I32, Ints, Floats, Ints, Ints]] = []

    def add(self, chunk: PairedChunk) -> None:
        """Add the tokens of some whole samples."""
        self._grow(chunk)
        usable = self._inspect(chunk)
        for first, last in _blocks(chunk.starts):
            tokens = slice(int(chunk.starts[first]), int(chunk.starts[last]))
            self._inspect_alternatives(chunk, tokens)
            self._add_block(chunk, first, last, None if usable is None else usable[tokens])

    def part(self, name: str) -> Floats:
        """One group of columns of the sums, [clusters, width]."""
        return self.sums[:, self.parts[name]]

    def _grow(self, chunk: PairedChunk) -> None:
        rows = int(chunk.cluster.max(initial=-1)) + 1
        if rows > len(self.sums):
            # Rows that are not written to yet take no memory, so room can be made in large steps.
            sums, group = np.zeros((2 * rows, self.width)), np.zeros(2 * rows, np.int32)
            sums[: len(self.sums)], group[: len(self.group)] = self.sums, self.group
            self.sums, self.group = sums, group
        self.group[chunk.cluster] = chunk.group

    def _inspect(self, chunk: PairedChunk) -> NDArray[np.bool_] | None:
        logprobs = {"behaviour": chunk.behaviour_logprob, "evaluating": chunk.evaluating_logprob}
        nulls = {"behaviour": chunk.behaviour_nulls, "evaluating": chunk.evaluating_nulls}
        voided = {"behaviour": chunk.behaviour_voided, "evaluating": chunk.evaluating_voided}
        usable = invalid.inspect_logprobs(logprobs, nulls, chunk.starts, self.defects, voided)
        self.defects["behaviour"]["wrong_length"] += chunk.behaviour_wrong_lengths
        self.defects["evaluating"]["wrong_length"] += chunk.evaluating_wrong_lengths
        if usable is not None:
            self.excluded += int(np.count_nonzero(~usable))
        return usable

    def _inspect_alternatives(self, chunk: PairedChunk, tokens: slice) -> None:
        sampled = None if chunk.token_ids is None else chunk.token_ids[tokens]
        for side, ids, top, logprobs in (
            (
                "behaviour",
                chunk.behaviour_top_ids,
                chunk.behaviour_top_logprobs,
                chunk.behaviour_logprob,
            ),
            (
                "evaluating",
                chunk.evaluating_top_ids,
                chunk.evaluating_top_logprobs,
                chunk.evaluating_logprob,
            ),
        ):
            if ids is not None and top is not None:
                counts = invalid.count_alternatives(
                    ids[tokens], top[tokens], sampled, logprobs[tokens]
                )
                self.defects[side].update(counts)

    def _add_block(
        self, chunk: PairedChunk, first: int, last: int, keep: NDArray[np.bool_] | None
    ) -> None:
        """Add samples `first` to `last`; `keep` says which of their tokens are usable."""
        size = last - first
        cluster = chunk.cluster[first:last]
        starts = chunk.starts[first : last + 1] - chunk.starts[first]
        tokens = slice(int(chunk.starts[first]), int(chunk.starts[last]))
        behaviour, evaluating = chunk.behaviour_logprob[tokens], chunk.evaluating_logprob[tokens]
        impossible = np.zeros(size)
        begin, sample, position = _segments(starts)
        origin = starts[:-1]
        if keep is not None:
            where = np.flatnonzero(invalid.impossible_values(behaviour))
            np.add.at(impossible, np.searchsorted(starts, where, side="right") - 1, 1.0)
            behaviour, evaluating = behaviour[keep], evaluating[keep]
            before = np.concatenate([[0], np.cumsum(keep)])
            begin = before[begin]
            filled = np.diff(begin, append=len(behaviour)) > 0
            begin, sample, position = begin[filled], sample[filled], position[filled]
            starts = before[starts]
        lengths = np.diff(starts)
        rows = np.zeros((size, self.width))
        rows[:, self.parts["impossible"]] = impossible[:, None]
        first_differing = np.full(size, -1, np.int64)
        if len(behaviour):
            columns = token_columns(behaviour, evaluating)
            segments = np.add.reduceat(columns, begin, axis=1).T
            owner = np.repeat(np.arange(size), lengths)
            np.add.at(rows[:, self.parts["totals"]], sample, segments)
            by_position = rows[:, self.parts["position"]].reshape(size, len(POSITION_EDGES), -1)
            by_position[sample, position] = segments[:, BROKEN_DOWN]
            rows[:, self.parts["position"]] = by_position.reshape(size, -1)
            rows[:, self.parts["probability"]] = _by_probability(behaviour, columns, owner, size)
            self._count_thresholds(rows, columns, owner, lengths)
            self._count_magnitudes(columns[COLUMN["abs_log_ratio"]], cluster, lengths)
            same = columns[COLUMN["identical"]]
            first_differing = _first_differing(same, starts, origin, keep)
            rows[:, self.parts["alternatives"]] = _alternatives(chunk, tokens, keep, owner, size)
        np.add.at(self.sums, cluster, rows)
        total = rows[:, COLUMN["log_ratio"]].copy()
        self.sequences.append((cluster, lengths, total, first_differing, self._beyond(rows)))

    def _beyond(self, rows: Floats) -> Ints:
        """The tokens of each sample with |Δ| above the tail threshold."""
        counts = self.beyond(rows, self.tail_threshold)
        return counts.astype(np.int64)

    def beyond(self, rows: Floats, threshold: float) -> Floats:
        """How many tokens of each row of sums have |Δ| above a tail threshold."""
        counts: Floats = (
            rows[:, self.parts["ups"]][:, np.searchsorted(self.ups, threshold)]
            + rows[:, self.parts["downs"]][:, np.searchsorted(self.downs, threshold)]
        )
        return counts

    def _count_thresholds(self, rows: Floats, columns: Floats, owner: Ints, lengths: Ints) -> None:
        beyond = np.flatnonzero(columns[COLUMN["abs_log_ratio"]] > min(self.ups[0], self.downs[0]))
        delta, owner = columns[COLUMN["log_ratio"]][beyond], owner[beyond]
        size = np.maximum(lengths, 1)[:, None]
        for name, share, signed, thresholds in (
            ("ups", "up_shares", delta, self.ups),
            ("downs", "down_shares", -delta, self.downs),
        ):
            counts = count_beyond(signed, owner, thresholds, len(lengths))
            rows[:, self.parts[name]] = counts
            rows[:, self.parts[share]] = counts / size

    def _count_magnitudes(self, magnitudes: Floats, cluster: I32, lengths: Ints) -> None:
        self.largest = max(self.largest, float(magnitudes.max()))
        bins = stats.magnitude_bins(magnitudes.astype(np.float32))
        fold = np.repeat(cluster % stats.FOLDS, lengths)
        np.add.at(self.histogram.reshape(-1), fold * stats.BINS + bins, 1)


def _blocks(starts: Ints) -> Iterator[tuple[int, int]]:
    """Runs of whole samples of about _BLOCK tokens, as (first, last + 1)."""
    first, samples = 0, len(starts) - 1
    while first < samples:
        last = int(np.searchsorted(starts, starts[first] + _BLOCK, side="right")) - 1
        last = max(first + 1, last)
        yield first, last
        first = last


def _first_differing(
    same: Floats, starts: Ints, origin: Ints, keep: NDArray[np.bool_] | None
) -> Ints:
    """Position of each sample's first token that is not the same, -1 for none.

    `starts` [S + 1] are those of the usable tokens, `origin` [S] where samples begin among all.
    """
    differing = np.flatnonzero(same == 0.0)
    found = np.searchsorted(differing, starts)
    has = found[:-1] < found[1:]
    where = differing[found[:-1][has]]
    if keep is not None:
        where = np.flatnonzero(keep)[where]
    position = np.full(len(origin), -1, np.int64)
    position[has] = where - origin[has]
    return position


def _segments(starts: Ints) -> tuple[Ints, Ints, Ints]:
    """Cut samples at the position edges: where each piece begins, its sample and its bin."""
    sample, position = np.nonzero(np.diff(starts)[:, None] > np.array(POSITION_EDGES))
    return starts[sample] + np.array(POSITION_EDGES)[position], sample, position


# Bins of the behaviour engine's surprisal -logprob, found through the exponent of the float32:
# nats 0, 1/128, 1/8, 1/2, 1, 2, 4, 8 and more.
SURPRISAL_EDGES = (0.0, 1 / 128, 1 / 8, 1 / 2, 1.0, 2.0, 4.0, 8.0, math.inf)
PROBABILITY_BINS = len(SURPRISAL_EDGES) - 1
_OCTAVE_TO_BIN = (0, 1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7)
_EXPONENT_TO_BIN = np.array([_OCTAVE_TO_BIN[min(max(e - 127 + 8, 0), 11)] for e in range(256)])


def _by_probability(behaviour: F32, columns: Floats, owner: Ints, size: int) -> Floats:
    exponent = behaviour.view(np.uint32) >> np.uint32(23)
    exponent &= np.uint32(255)  # without the sign, which every logprob but 0 has
    index = owner * PROBABILITY_BINS
    index += _EXPONENT_TO_BIN.take(exponent)
    cells = size * PROBABILITY_BINS
    sums = np.empty((cells, len(BROKEN_DOWN)))
    sums[:, 0] = np.bincount(index, minlength=cells)
    for place, column in enumerate(BROKEN_DOWN[1:], start=1):
        sums[:, place] = np.bincount(index, weights=columns[column], minlength=cells)
    return sums.reshape(size, -1)


def _alternatives(
    chunk: PairedChunk, tokens: slice, keep: NDArray[np.bool_] | None, owner: Ints, size: int
) -> Floats:
    """Per sample: tokens with alternatives on both sides, agreeing ones, sum of the entropy gap."""
    best, entropy, there = [], [], []
    for ids, logprobs in (
        (chunk.behaviour_top_ids, chunk.behaviour_top_logprobs),
        (chunk.evaluating_top_ids, chunk.evaluating_top_logprobs),
    ):
        if ids is None or logprobs is None:
            return np.zeros((size, 3))
        which, values = ids[tokens], logprobs[tokens]
        if keep is not None:
            which, values = which[keep], values[keep]
        # One row an alternative: k is small, and numpy is slow along a short last axis.
        which, values = np.ascontiguousarray(which.T), np.ascontiguousarray(values.T)
        values = np.where((which >= 0) & (values <= invalid.ROUNDING), values, np.float32(-np.inf))
        top = values.max(axis=0)
        best.append(_id_of(top, which, values))
        there.append(top > invalid.FLOOR)
        entropy.append(renormalised_entropy(values))
    both = there[0] & there[1]
    owner, agree, gap = owner[both], (best[0] == best[1])[both], (entropy[1] - entropy[0])[both]
    counts = np.bincount(owner, minlength=size).astype(np.float64)
    agreeing = np.bincount(owner, weights=agree, minlength=size)
    return np.stack([counts, agreeing, np.bincount(owner, weights=gap, minlength=size)], axis=1)


def _id_of(top: F32, ids: I32, logprobs: F32) -> I32:
    """The id that holds the largest logprob, the first where several do."""
    chosen: I32 = ids[-1].copy()
    for which, values in zip(ids[-2::-1], logprobs[-2::-1], strict=True):
        np.copyto(chosen, which, where=values == top)
    return chosen


def renormalised_entropy(logprobs: F32) -> Floats:
    """Entropy [n] of recorded alternatives (logprobs [k, n], -inf for none), renormalised. Nats."""
    shifted = (logprobs - np.maximum(logprobs.max(axis=0), np.float32(invalid.FLOOR))).astype(
        np.float64
    )
    weights = np.exp(shifted)
    total = weights.sum(axis=0)
    total[total == 0.0] = 1.0  # no alternative at all: such tokens are left out by the caller
    np.maximum(shifted, invalid.FLOOR, out=shifted)  # keeps 0 * -inf from being NaN
    entropy: Floats = np.log(total) - (weights * shifted).sum(axis=0) / total
    return entropy
