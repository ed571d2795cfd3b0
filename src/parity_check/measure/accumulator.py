"""Accumulate sums over the tokens of one sampling direction, per prompt, in one pass.

Memory does not grow with the number of tokens: it keeps one row of sums per prompt, one row per
sample, and one histogram. The turns of a rollout may lie in different chunks: their rows are put
together when the last chunk is there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from parity_check.measure import invalid, stats
from parity_check.measure.alternatives import Alternatives
from parity_check.measure.metrics import COLUMN, COLUMNS, F32, I32, PairedChunk, token_columns
from parity_check.measure.objective import STATISTICS, Objective, Side, Statistic, count_beyond
from parity_check.measure.placeholders import Placeholders
from parity_check.measure.sequences import SEQUENCE_SUMS, SampleRows
from parity_check.measure.stats import Floats, Ints

TURN_EDGES = (0, 1, 2, 3, 4, 6, 8, 16, 32)
POSITION_EDGES = (0, 16, 64, 256, 1024, 4096, 16384)
BROKEN_DOWN = [COLUMN[name] for name in ("count", "log_ratio", "abs_log_ratio", "k3")]
SIDES: tuple[Side, Side] = ("up", "down")
_BLOCK = 1 << 15  # tokens at a time: the columns of a block stay in the processor's cache


class Thresholds:
    """What one statistic of a token is counted against: ascending, of the value and its negative.

    If the mean of each sequence's share is requested, `shares` names the columns kept per sample.
    """

    def __init__(
        self, statistic: Statistic, rows: Iterable[Objective], tails: Iterable[float] = ()
    ) -> None:
        own = [row for row in rows if row.level == "token" and row.statistic == statistic]
        edges = [row.edges() for row in own]
        self.statistic = statistic
        self.ups = np.array(sorted({*tails, *(high for _, high in edges if high < math.inf)}))
        self.downs = np.array(sorted({*tails, *(-low for low, _ in edges if low > -math.inf)}))
        self.shares = [
            column
            for column, (side, edge) in enumerate(self._columns())
            if any(
                row.averaging == "sequence" and edge == (high if side == "up" else -low)
                for row, (low, high) in zip(own, edges, strict=True)
            )
        ]

    def _columns(self) -> list[tuple[Side, float]]:
        return [("up", edge) for edge in self.ups] + [("down", edge) for edge in self.downs]

    @property
    def width(self) -> int:
        return len(self.ups) + len(self.downs)

    def column(self, side: Side, edge: float) -> int:
        """The column of an edge."""
        if side == "up":
            return int(np.searchsorted(self.ups, edge))
        return len(self.ups) + int(np.searchsorted(self.downs, edge))

    def least_move(self) -> float:
        """No token whose |Δ| is smaller is beyond any of the thresholds.

        |p - p'| ≤ exp |Δ| - 1, and a binary KL of x nats needs a Δ of more than x / 20: its second
        term grows with -log(1 - p), which is 18 at most.
        """
        least = float(min((edge for _, edge in self._columns()), default=math.inf))
        if self.statistic == "probability difference":
            return math.log1p(least)
        return least / 20 if self.statistic == "binary KL" else least


IMPOSSIBLE = ("all", "excluded", "excluded and identical")
"""What is counted of impossible tokens. Those excluded from means count as differing or not."""


class Accumulator:
    """The sums over the chunks so far: per prompt, per sample, and a histogram."""

    def __init__(
        self,
        objectives: Iterable[Objective],
        tail_thresholds: Iterable[float],
        tail_threshold: float = 1.0,
    ) -> None:
        rows = list(objectives)
        tails = [*tail_thresholds, tail_threshold]
        self.tail_threshold = tail_threshold
        self.thresholds = [
            Thresholds(name, rows, tails if name == "log ratio" else ()) for name in STATISTICS
        ]
        widths: dict[str, int] = {
            "totals": len(COLUMNS),
            "position": len(POSITION_EDGES) * len(BROKEN_DOWN),
            "probability": PROBABILITY_BINS * len(BROKEN_DOWN),
            "turn": len(TURN_EDGES) * len(BROKEN_DOWN),
            "alternatives": 3,
            "impossible": len(IMPOSSIBLE),
        }
        widths |= {str(each.statistic): each.width for each in self.thresholds}
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
        self.placeholders = Placeholders()
        self.excluded = 0
        self.turns = 1
        self.defects = {"behaviour": Counter[str](), "evaluating": Counter[str]()}
        self.samples: list[SampleRows] = []
        self._seen = 0

    def add(self, chunk: PairedChunk) -> None:
        """Add the tokens of some whole samples."""
        self._grow(chunk)
        self.placeholders.add_samples(chunk)
        usable = self._inspect(chunk)
        for first, last in _blocks(chunk.starts):
            tokens = slice(int(chunk.starts[first]), int(chunk.starts[last]))
            alternatives = self._inspect_alternatives(chunk, tokens)
            keep = None if usable is None else usable[tokens]
            self._add_block(chunk, first, last, alternatives, keep)

    def part(self, name: str) -> Floats:
        """One group of columns of the sums, [clusters, width]."""
        return self.sums[:, self.parts[name]]

    def _grow(self, chunk: PairedChunk) -> None:
        rows = int(chunk.cluster.max(initial=-1)) + 1
        if rows > len(self.sums):
            # Unwritten rows take no memory, so allocate in large steps.
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

    def _inspect_alternatives(self, chunk: PairedChunk, tokens: slice) -> list[Alternatives]:
        """Those of the behaviour and of the evaluating engine; none if they were not recorded."""
        sampled = None if chunk.token_ids is None else chunk.token_ids[tokens]
        found = []
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
                found.append(Alternatives(ids[tokens], top[tokens]))
                self.defects[side].update(found[-1].defects(sampled, logprobs[tokens]))
        return found

    def _add_block(
        self,
        chunk: PairedChunk,
        first: int,
        last: int,
        alternatives: Sequence[Alternatives],
        keep: NDArray[np.bool_] | None,
    ) -> None:
        """Add samples `first` to `last`; `keep` says which of their tokens are usable."""
        size = last - first
        cluster = chunk.cluster[first:last]
        starts = chunk.starts[first : last + 1] - chunk.starts[first]
        tokens = slice(int(chunk.starts[first]), int(chunk.starts[last]))
        behaviour, evaluating = chunk.behaviour_logprob[tokens], chunk.evaluating_logprob[tokens]
        impossible = _impossible(behaviour, evaluating, starts, keep)
        begin, sample, position = _segments(starts)
        origin = starts[:-1]
        if keep is not None:
            behaviour, evaluating = behaviour[keep], evaluating[keep]
            before = np.concatenate([[0], np.cumsum(keep)])
            begin = before[begin]
            filled = np.diff(begin, append=len(behaviour)) > 0
            begin, sample, position = begin[filled], sample[filled], position[filled]
            starts = before[starts]
        lengths = np.diff(starts)
        rows = np.zeros((size, self.width))
        rows[:, self.parts["impossible"]] = impossible
        first_differing = np.full(size, -1, np.int64)
        smallest, largest = np.full(size, np.inf), np.full(size, -np.inf)
        if len(behaviour):
            columns = token_columns(behaviour, evaluating)
            segments = np.add.reduceat(columns, begin, axis=1).T
            owner = np.repeat(np.arange(size), lengths)
            self.placeholders.add_usable(behaviour, evaluating, owner, cluster)
            np.add.at(rows[:, self.parts["totals"]], sample, segments)
            by_position = rows[:, self.parts["position"]].reshape(size, len(POSITION_EDGES), -1)
            by_position[sample, position] = segments[:, BROKEN_DOWN]
            rows[:, self.parts["position"]] = by_position.reshape(size, -1)
            rows[:, self.parts["probability"]] = _by_probability(behaviour, columns, owner, size)
            self._count_thresholds(rows, columns, behaviour, evaluating, owner)
            self._count_magnitudes(columns[COLUMN["abs_log_ratio"]], cluster, lengths)
            same = columns[COLUMN["identical"]]
            first_differing = _first_differing(same, starts, origin, keep)
            if alternatives:
                own = _compared(alternatives, keep, owner, size)
                rows[:, self.parts["alternatives"]] = own
            delta = columns[COLUMN["log_ratio"]]
            np.minimum.at(smallest, sample, np.minimum.reduceat(delta, begin))
            np.maximum.at(largest, sample, np.maximum.reduceat(delta, begin))
        self._add_turns(chunk, rows, first, last)
        np.add.at(self.sums, cluster, rows)
        self.samples.append(
            SampleRows(
                rollout=self._rollouts(chunk, first, last),
                prompt=(chunk.cluster if chunk.prompt is None else chunk.prompt)[first:last],
                cluster=cluster,
                sums=rows[:, [COLUMN[name] for name in SEQUENCE_SUMS]],
                smallest=smallest,
                largest=largest,
                beyond=self._shares(rows),
                tail=self._tail(rows),
                first=first_differing,
            )
        )

    def _rollouts(self, chunk: PairedChunk, first: int, last: int) -> Ints:
        """The numbers of the samples' rollouts; where a chunk has none, each is one."""
        if chunk.rollout is not None:
            return chunk.rollout[first:last].astype(np.int64)
        self._seen += last - first
        return np.arange(self._seen - (last - first), self._seen)

    def _shares(self, rows: Floats) -> NDArray[np.int32]:
        """The counts of each sample that are averaged sequence by sequence."""
        counts = [rows[:, self.parts[each.statistic]][:, each.shares] for each in self.thresholds]
        return np.concatenate(counts, axis=1).astype(np.int32)

    def _tail(self, rows: Floats) -> NDArray[np.int32]:
        """The number of tokens of each sample with |Δ| above the tail threshold."""
        [found] = (each for each in self.thresholds if each.statistic == "log ratio")
        up, down = (found.column(side, self.tail_threshold) for side in SIDES)
        counts: Floats = rows[:, self.parts["log ratio"]]
        return (counts[:, up] + counts[:, down]).astype(np.int32)

    def share_column(self, statistic: Statistic, side: Side, edge: float) -> int:
        """Where the counts of an edge stand in a sample's `beyond`."""
        before = 0
        for each in self.thresholds:
            if each.statistic == statistic:
                return before + each.shares.index(each.column(side, edge))
            before += len(each.shares)
        raise KeyError(statistic)

    def beyond(self, statistic: Statistic, side: Side, edge: float) -> Floats:
        """Tokens of each cluster whose statistic is above an edge, or below its negative."""
        [found] = (each for each in self.thresholds if each.statistic == statistic)
        return self.part(statistic)[:, found.column(side, edge)]

    def _add_turns(self, chunk: PairedChunk, rows: Floats, first: int, last: int) -> None:
        turns = np.zeros(last - first, np.int32) if chunk.turn is None else chunk.turn[first:last]
        self.turns = max(self.turns, int(turns.max(initial=0)) + 1)
        place = np.searchsorted(TURN_EDGES, turns, side="right") - 1
        by_turn = np.zeros((len(turns), len(TURN_EDGES), len(BROKEN_DOWN)))
        by_turn[np.arange(len(turns)), place] = rows[:, self.parts["totals"]][:, BROKEN_DOWN]
        rows[:, self.parts["turn"]] = by_turn.reshape(len(turns), -1)

    def _count_thresholds(
        self, rows: Floats, columns: Floats, behaviour: F32, evaluating: F32, owner: Ints
    ) -> None:
        size, magnitude = len(rows), columns[COLUMN["abs_log_ratio"]]
        for each in self.thresholds:
            if not each.width:
                continue
            beyond = np.flatnonzero(magnitude > each.least_move())
            if each.statistic == "log ratio":
                values = columns[COLUMN["log_ratio"]][beyond]
            else:
                values = SIGNED[each.statistic](behaviour[beyond], evaluating[beyond])
            counts = [
                count_beyond(signed, owner[beyond], thresholds, size)
                for signed, thresholds in ((values, each.ups), (-values, each.downs))
            ]
            rows[:, self.parts[each.statistic]] = np.concatenate(counts, axis=1)

    def _count_magnitudes(self, magnitudes: Floats, cluster: I32, lengths: Ints) -> None:
        self.largest = max(self.largest, float(magnitudes.max()))
        bins = stats.magnitude_bins(magnitudes.astype(np.float32))
        fold = np.repeat(cluster % stats.FOLDS, lengths)
        np.add.at(self.histogram.reshape(-1), fold * stats.BINS + bins, 1)


def _impossible(
    behaviour: F32, evaluating: F32, starts: Ints, keep: NDArray[np.bool_] | None
) -> Floats:
    """[samples, 3]: the tokens that the behaviour engine cannot have sampled, as in IMPOSSIBLE."""
    found = np.zeros((len(starts) - 1, len(IMPOSSIBLE)))
    # NaN fails the comparison, because the minimum propagates it.
    if len(behaviour) == 0 or behaviour.min() >= invalid.IMPOSSIBLE:
        return found
    where = np.flatnonzero(invalid.impossible_values(behaviour))
    owner = np.searchsorted(starts, where, side="right") - 1
    excluded = np.zeros(len(where), np.bool_) if keep is None else ~keep[where]
    same = excluded & (behaviour[where] == evaluating[where])
    np.add.at(found, owner, np.stack([np.ones(len(where)), excluded, same], axis=1))
    return found


def probability_difference(behaviour: F32, evaluating: F32) -> Floats:
    """p - p' of each token, evaluating - behaviour."""
    return np.exp(evaluating.astype(np.float64)) - np.exp(behaviour.astype(np.float64))


def binary_kl(behaviour: F32, evaluating: F32) -> Floats:
    """KL of (p', 1 - p') against (p, 1 - p), nats, with the sign of p - p' (arXiv 2602.04879).

    Probabilities are rounded to float32, as in its frameworks: near 1 that decides what 1 - p is.
    A logprob that rounding puts above 0 is 0.
    """
    old, new = (np.minimum(side, 0.0).astype(np.float64) for side in (behaviour, evaluating))
    p_old, p_new = (np.exp(side).astype(np.float32).astype(np.float64) for side in (old, new))
    rest = np.log((1.0 - p_old + _TINY) / (1.0 - p_new + _TINY))
    kl: Floats = np.sign(new - old) * (p_old * (old - new) + (1.0 - p_old) * rest)
    return kl


_TINY = 1e-8  # as in verl and SkyRL
SIGNED: dict[Statistic, Callable[[F32, F32], Floats]] = {
    "probability difference": probability_difference,
    "binary KL": binary_kl,
}


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

    `starts` [S + 1] index the usable tokens; `origin` [S] is where samples begin among all tokens.
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
    """Split samples at the position edges: start, sample and bin of each piece."""
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
    exponent &= np.uint32(255)  # without the sign bit, which every logprob but 0 has
    index = owner * PROBABILITY_BINS
    index += _EXPONENT_TO_BIN.take(exponent)
    cells = size * PROBABILITY_BINS
    sums = np.empty((cells, len(BROKEN_DOWN)))
    sums[:, 0] = np.bincount(index, minlength=cells)
    for place, column in enumerate(BROKEN_DOWN[1:], start=1):
        sums[:, place] = np.bincount(index, weights=columns[column], minlength=cells)
    return sums.reshape(size, -1)


def _compared(
    sides: Sequence[Alternatives],
    keep: NDArray[np.bool_] | None,
    owner: Ints,
    size: int,
) -> Floats:
    """Per sample: tokens with alternatives on both sides, same top-1, entropy difference."""
    behaviour, evaluating = sides
    (ours, our_top), (theirs, their_top) = behaviour.top(), evaluating.top()
    both = (our_top > invalid.FLOOR) & (their_top > invalid.FLOOR)
    agree, gap = ours == theirs, evaluating.entropy() - behaviour.entropy()
    if keep is not None:
        both, agree, gap = both[keep], agree[keep], gap[keep]
    if not both.all():
        owner, agree, gap = owner[both], agree[both], gap[both]
    counts = np.bincount(owner, minlength=size).astype(np.float64)
    agreeing = np.bincount(owner, weights=agree, minlength=size)
    return np.stack([counts, agreeing, np.bincount(owner, weights=gap, minlength=size)], axis=1)
