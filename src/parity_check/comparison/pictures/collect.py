"""Collect the plot data of one sampling direction in one pass over its tokens.

Memory grows with the number of samples (three numbers each), not with their tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from parity_check.comparison.pictures import spread
from parity_check.comparison.pictures.gaps import GapCounter, Gaps
from parity_check.comparison.pictures.hexagons import Hexagons, Lattice
from parity_check.comparison.pictures.samples import Candidate, WorstSamples
from parity_check.config.models import OTHER, Role
from parity_check.measure import invalid
from parity_check.measure.accumulator import SURPRISAL_EDGES
from parity_check.measure.metrics import RATIO_CAP, PairedChunk
from parity_check.measure.objectives import OBJECTIVES, Objective
from parity_check.measure.stats import Floats, Ints

WORST_SAMPLES = 20
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
DRAWN_SEQUENCES = 240
RATIO_BINS = 61
POSITION_EDGES = (0, 1, 2, 3, *(edge for k in range(2, 20) for edge in (2**k, 3 * 2 ** (k - 1))))
"""Two bins per octave, from the first token to the millionth."""
_FINE_STEP = 0.0025
_FINE_REACH = 2.5  # nats: beyond every edge of a token objective
_FINE_BINS = 2 * round(_FINE_REACH / _FINE_STEP) + 1
_FINE_EDGES = (np.arange(_FINE_BINS + 1) - _FINE_BINS / 2) * _FINE_STEP
_OTHER_REACH = 0.2  # nats, where the objective compares something else than the ratio
_WITHIN = 0.999  # share of the ratios that a histogram always covers


@dataclass(frozen=True, slots=True)
class QuantileBin:
    """Quantiles of Δ (QUANTILES, nats) over the `n` tokens from `low` up to below `high`."""

    low: float
    high: float
    n: int
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RatioHistogram:
    """Counts [bins] of the log of the ratio that an objective compares, between edges [bins + 1].

    `below` and `above` lie beyond the outer edges.
    """

    edges: Floats
    counts: Ints
    below: int
    above: int


@dataclass(frozen=True, slots=True)
class SequenceMeans:
    """Mean Δ of sequences, ascending: a selection, evenly spaced by rank, with both ends.

    `half_widths` are 1.96 standard errors over the sequence's tokens. `n` counts all sequences.
    """

    means: Floats
    half_widths: Floats
    n: int


@dataclass(frozen=True, slots=True)
class Pictures:
    """Plot data of one sampling direction."""

    sampled_by: Role
    evaluated_by: Role
    tokens: int
    log_ratio: Ints
    """Counts of Δ on the scale of `spread`."""
    by_position: tuple[QuantileBin, ...]
    by_probability: tuple[QuantileBin, ...]
    """`low` and `high` are surprisals, −logprob of the behaviour engine, in nats."""
    logprobs: Hexagons
    """x the reference's logprob, y the candidate's."""
    ratios: RatioHistogram
    sequences: SequenceMeans
    gspo_band: tuple[float, float]
    gaps: Gaps | None


class Collector:
    """Collects the plot data of a direction."""

    def __init__(self, sampled_by: Role, objective: Objective, scales: dict[Role, float]) -> None:
        self._sampled_by = sampled_by
        self._objective = objective
        self._positions = np.zeros((len(POSITION_EDGES), spread.BINS), np.int64)
        self._surprisals = np.zeros((len(SURPRISAL_EDGES) - 1, spread.BINS), np.int64)
        self._fine = np.zeros(len(_FINE_EDGES) + 1, np.int64)
        self._lattice = Lattice()
        self._gaps = GapCounter(sampled_by, scales)
        self._worst = WorstSamples(WORST_SAMPLES)
        self._rows: list[Floats] = []  # one [samples, 3] a chunk: usable tokens, Σ Δ, Σ Δ²
        self._rollouts: list[NDArray[np.integer]] = []

    def add(self, chunk: PairedChunk) -> None:
        """Add the tokens of some whole samples."""
        delta, usable = log_ratios(chunk)
        owner = np.repeat(np.arange(len(chunk.starts) - 1), np.diff(chunk.starts))
        kept, behaviour = delta[usable], chunk.behaviour_logprob[usable].astype(np.float64)
        bins = spread.bins_of(kept)
        positions = (np.arange(len(delta)) - chunk.starts[:-1][owner])[usable]
        for table, edges, values in (
            (self._positions, POSITION_EDGES, positions),
            (self._surprisals, SURPRISAL_EDGES[:-1], -behaviour),
        ):
            rows = np.maximum(np.searchsorted(edges, values, side="right") - 1, 0)
            table += np.bincount(rows * spread.BINS + bins, minlength=table.size).reshape(
                table.shape
            )
        self._fine += np.bincount(
            np.searchsorted(_FINE_EDGES, kept, side="right"), minlength=len(self._fine)
        )
        both = (behaviour, chunk.evaluating_logprob[usable].astype(np.float64))
        self._lattice.add(*(both if self._sampled_by == "reference" else both[::-1]))
        rows = _sums_per_sample(owner[usable], kept, len(chunk.starts) - 1)
        self._rows.append(rows)
        if chunk.rollout is not None:
            self._rollouts.append(chunk.rollout)
        self._worst.add(chunk, delta, rows[:, 2])
        self._gaps.add(chunk)

    def worst(self) -> tuple[Candidate, ...]:
        """The samples with the largest Σ Δ²."""
        return self._worst.largest()

    def squares(self) -> float:
        """Σ Δ² of all usable tokens."""
        return float(sum(rows[:, 2].sum() for rows in self._rows))

    def pictures(self) -> Pictures:
        rows = self._sequences()
        rows = rows[rows[:, 0] > 0]
        counts: Ints = self._positions.sum(axis=0)
        return Pictures(
            sampled_by=self._sampled_by,
            evaluated_by=OTHER[self._sampled_by],
            tokens=int(counts.sum()),
            log_ratio=counts,
            by_position=_quantile_bins(self._positions, (*POSITION_EDGES, math.inf)),
            by_probability=_quantile_bins(self._surprisals, SURPRISAL_EDGES),
            logprobs=self._lattice.found(),
            ratios=self._ratios(rows),
            sequences=_sequence_means(rows),
            gspo_band=self._gspo_band(),
            gaps=self._gaps.found(),
        )

    def _sequences(self) -> Floats:
        """The rows of whole rollouts: those of its turns added up."""
        rows = np.concatenate(self._rows)
        if not self._rollouts:
            return rows
        names, owner = np.unique(np.concatenate(self._rollouts), return_inverse=True)
        whole = np.zeros((len(names), rows.shape[1]))
        np.add.at(whole, owner, rows)
        return whole

    def _gspo_band(self) -> tuple[float, float]:
        """The run's own band if it compares sequence means, else the GSPO paper's."""
        own = self._objective
        means = own.level == "sequence-mean" and own.statistic == "log ratio"
        return (own if means else OBJECTIVES["gspo"]).log_edges()

    def _ratios(self, rows: Floats) -> RatioHistogram:
        edges_of_ratio = [abs(edge) for edge in self._objective.log_edges() if math.isfinite(edge)]
        band = max(edges_of_ratio, default=_OTHER_REACH)
        if self._objective.level in ("token", "sequence-extreme"):
            return _from_fine(self._fine, band)
        values = rows[:, 1] / rows[:, 0] if self._objective.level == "sequence-mean" else rows[:, 1]
        reach = max(2.0 * band, 1.02 * float(np.quantile(np.abs(values), _WITHIN)))
        reach = min(reach, RATIO_CAP)
        edges = reach * np.linspace(-1.0, 1.0, RATIO_BINS + 1)
        below, above = int((values < -reach).sum()), int((values > reach).sum())
        return RatioHistogram(edges, np.histogram(values, edges)[0], below, above)


def spread_of(chunk: PairedChunk) -> Ints:
    """Counts of a chunk's Δ on the scale of `spread`."""
    delta, usable = log_ratios(chunk)
    return np.bincount(spread.bins_of(delta[usable]), minlength=spread.BINS)


def log_ratios(chunk: PairedChunk) -> tuple[Floats, NDArray[np.bool_]]:
    """Δ of every token (NaN where unusable) and which are usable, as in every mean."""
    sides = {"behaviour": chunk.behaviour_logprob, "evaluating": chunk.evaluating_logprob}
    defects = {side: Counter[str]() for side in sides}
    usable = invalid.inspect_logprobs(sides, dict.fromkeys(sides, 0), chunk.starts, defects)
    if usable is None:
        usable = np.ones(len(chunk.behaviour_logprob), np.bool_)
    with np.errstate(invalid="ignore"):
        delta = chunk.evaluating_logprob.astype(np.float64) - chunk.behaviour_logprob
    return np.where(usable, delta, np.nan), usable


def _sums_per_sample(owner: Ints, delta: Floats, samples: int) -> Floats:
    columns = (None, delta, delta * delta)
    return np.stack(
        [np.bincount(owner, weights=weights, minlength=samples) for weights in columns], axis=1
    ).astype(np.float64)


def _quantile_bins(table: Ints, edges: tuple[float, ...]) -> tuple[QuantileBin, ...]:
    return tuple(
        QuantileBin(low, high, int(counts.sum()), spread.quantiles(counts, QUANTILES))
        for counts, (low, high) in zip(table, pairwise(edges), strict=True)
        if counts.any()
    )


def _from_fine(fine: Ints, band: float) -> RatioHistogram:
    """Merge fine bins into few, covering the band and nearly all ratios."""
    inner = fine[1:-1]
    middle = len(inner) // 2
    sizes = inner[middle:] + inner[middle::-1]
    needed = int(np.searchsorted(np.cumsum(sizes), _WITHIN * fine.sum())) + 1
    needed = max(needed, math.ceil(1.6 * band / _FINE_STEP))
    factor = math.ceil(needed / (RATIO_BINS // 2)) | 1  # odd, so that 1 is the middle of a bin
    bins = min((middle - factor // 2) // factor, RATIO_BINS // 2)
    half = factor // 2 + bins * factor
    shown = inner[middle - half : middle + half + 1].reshape(-1, factor).sum(axis=1)
    edges = (np.arange(-half, half + 2, factor, dtype=np.float64) - 0.5) * _FINE_STEP
    below, above = fine[: middle - half + 1].sum(), fine[middle + half + 2 :].sum()
    return RatioHistogram(edges, shown, int(below), int(above))


def _sequence_means(rows: Floats) -> SequenceMeans:
    count, total, squares = rows.T
    means = total / count
    variances = np.maximum(squares / count - means * means, 0.0)
    order = np.argsort(means, kind="stable")
    drawn = order[np.unique(np.linspace(0, len(order) - 1, DRAWN_SEQUENCES).astype(np.int64))]
    errors = np.sqrt(variances[drawn] / np.maximum(count[drawn] - 1, 1))
    return SequenceMeans(means[drawn], 1.96 * errors, len(means))
