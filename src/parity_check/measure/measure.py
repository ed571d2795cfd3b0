"""Measure one sampling direction in one pass over its tokens: from sums to estimates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from parity_check.errors import TraceMismatchError
from parity_check.measure import invalid, stats
from parity_check.measure.accumulator import Accumulator
from parity_check.measure.breakdowns import breakdowns, range_label
from parity_check.measure.estimator import Estimator
from parity_check.measure.metrics import COLUMN, COLUMNS, I32, METRICS, RATIO_CAP, PairedChunk
from parity_check.measure.objectives import OBJECTIVES, Objective
from parity_check.measure.results import ClipEstimate, FirstDivergence, Measurement
from parity_check.measure.stats import Estimate, Floats, Ints

TAIL_THRESHOLDS = (0.1, 0.5, 1.0, 2.0, 5.0)
LENGTH_EDGES = (0, 128, 512, 2048, 8192)
QUANTILES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class _Sequences:
    """One row per sample with usable tokens: prompt, token count, sum of Δ."""

    cluster: I32
    length: Ints
    total: Floats
    first: Ints
    clusters: int

    def sums(self, values: Floats | NDArray[np.bool_] | Ints) -> Floats:
        sums = np.bincount(self.cluster, weights=values, minlength=self.clusters)
        return sums.astype(np.float64, copy=False)

    def effective(self) -> float:
        """Number of sequences over the design effect of their |mean Δ|."""
        size = np.abs(self.total / self.length)
        counts = self.sums(np.ones(len(size)))
        present = counts > 0
        deff = stats.design_effect(
            self.sums(size)[present], self.sums(size * size)[present], counts[present]
        )
        return len(size) / deff

    def clip(self, estimator: Estimator, row: Objective) -> ClipEstimate:
        value = self.total if row.level == "sequence-sum" else self.total / self.length
        weight = np.ones(len(value)) if row.averaging == "sequence" else self.length.astype(float)
        low, high = row.log_edges()
        return estimator.clip(
            row,
            self.sums(weight * (value < low)),
            self.sums(weight * (value > high)),
            self.sums(weight),
            self.effective(),
        )

    def between(self, low: int, high: float) -> _Sequences:
        where = (self.length >= low) & (self.length < high)
        return _Sequences(
            self.cluster[where], self.length[where], self.total[where], self.first[where],
            self.clusters,
        )  # fmt: skip


def measure(
    chunks: Iterable[PairedChunk],
    *,
    sampled_by: str,
    objective: Objective | None = None,
    level: float = 0.95,
    tail_threshold: float = 1.0,
    positive_share: float = 0.5,
    groups: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure one sampling direction in one pass over its chunks.

    `objective` is the one that `clip_fraction` reports (default: GRPO as TRL counts it); all rows
    of OBJECTIVES are estimated too. `positive_share` is the share of tokens with a positive
    advantage, which an engine comparison cannot measure. `groups` maps names to numbers of the
    prompt groups and is read after the last chunk. `seed` only seeds the bootstrap of `ess`. Raises
    TraceMismatchError if no token could be compared.
    """
    objective = OBJECTIVES["grpo"] if objective is None else objective
    rows = {**OBJECTIVES, objective.name: objective}
    thresholds = sorted({*TAIL_THRESHOLDS, tail_threshold})
    sums = Accumulator(rows.values(), thresholds)
    for chunk in chunks:
        sums.add(chunk)
    column = {name: sums.part("totals")[:, index] for index, name in enumerate(COLUMNS)}
    count = column["count"]
    tokens = round(count.sum())
    if tokens == 0:
        raise TraceMismatchError(
            "nothing was compared: no token has a usable logprob on both sides",
            hint=f"all {sums.excluded} tokens have an invalid logprob on at least one side",
        )
    estimator = Estimator(sampled_by, level, positive_share)
    sequences = _sequences(sums)
    present = count > 0
    clusters = int(present.sum())
    deff = stats.design_effect(
        column["abs_log_ratio"][present], column["squared_log_ratio"][present], count[present]
    )
    clips = {
        name: _token_clip(estimator, sums, sequences, row, tokens / deff)
        if row.level == "token"
        else sequences.clip(estimator, row)
        for name, row in rows.items()
    }
    tails = tuple(
        (threshold, _tail(estimator, sums, threshold, tokens / deff)) for threshold in thresholds
    )
    estimates = [
        *_token_means(estimator, column),
        dict(tails)[tail_threshold],
        replace(clips[objective.name].counted, name="clip_fraction"),
        stats.effective_sample_size(
            count, column["ratio"], column["squared_ratio"],
            sampled_by=sampled_by, level=level, seed=seed,
        ),
        *_sequence_means(estimator, sequences),
        estimator.share("identical_fraction", column["identical"], count, tokens / deff),
        *_alternative_means(estimator, sums.part("alternatives")),
    ]  # fmt: skip
    order = list(METRICS)
    by_length = OBJECTIVES["gspo"] if objective.level == "token" else objective
    return Measurement(
        sampled_by=sampled_by,
        level=level,
        tokens=tokens,
        excluded=sums.excluded,
        samples=len(sequences.length),
        clusters=clusters,
        estimates=tuple(sorted(estimates, key=lambda estimate: order.index(estimate.name))),
        tails=tails,
        quantiles={
            f"{probability:g}": stats.quantile_estimate(
                probability, sums.histogram, sums.largest, clusters,
                sampled_by=sampled_by, level=level,
            )
            for probability in QUANTILES
        },
        largest=sums.largest,
        first_divergence=_first_divergence(sequences),
        clips=tuple(clips.values()),
        breakdowns=breakdowns(estimator, sums, groups or {}),
        clips_by_length=tuple(
            (f"{range_label(low, high)} tokens", part.clip(estimator, by_length))
            for low, high in zip(LENGTH_EDGES, (*LENGTH_EDGES[1:], math.inf), strict=True)
            if len((part := sequences.between(low, high)).length)
        ),
        invalid=tuple(
            entry
            for side, counts in sums.defects.items()
            for entry in invalid.invalid_counts(side, counts)
        ),
    )  # fmt: skip


def _token_means(estimator: Estimator, column: dict[str, Floats]) -> list[Estimate]:
    count, mean = column["count"], estimator.mean
    delta, squares = column["log_ratio"], column["squared_log_ratio"]
    return [
        mean("mean_log_ratio", "nats", delta, count),
        mean("rms_log_ratio", "nats", squares, count, 0.0).map(math.sqrt),
        mean("mean_abs_log_ratio", "nats", column["abs_log_ratio"], count, 0.0),
        mean("mean_importance_ratio", "ratio", column["ratio"], count, 0.0),
        mean("geometric_mean_ratio", "ratio", delta, count).map(_capped_exp),
        mean("k1_kl", "nats", -delta, count),
        mean("k2_kl", "nats", squares / 2, count, 0.0),
        mean("k3_kl", "nats", column["k3"], count, 0.0),
        mean("reverse_k3_kl", "nats", column["reverse_k3"], count, 0.0),
        mean("multiplicative_error", "ratio", column["multiplicative"], count, 1.0),
        mean("chi2_token", "1", column["squared_ratio"] - count, count, -1.0),
        mean("probability_difference", "probability", column["probability_difference"], count, 0.0),
    ]


def _capped_exp(value: float) -> float:
    return math.exp(min(value, RATIO_CAP))


def _sequence_means(estimator: Estimator, sequences: _Sequences) -> list[Estimate]:
    counts = sequences.sums(np.ones(len(sequences.length)))
    totals = np.clip(sequences.total, -RATIO_CAP, RATIO_CAP)
    means = np.clip(sequences.total / sequences.length, -RATIO_CAP, RATIO_CAP)
    return [
        estimator.mean(name, "1", sequences.sums(np.expm1(2 * values)), counts, -1.0)
        for name, values in (("chi2_sequence_product", totals), ("chi2_sequence_geometric", means))
    ]


def _alternative_means(estimator: Estimator, cells: Floats) -> list[Estimate]:
    count, agree, gap = cells.T
    if not count.any():
        return []
    return [
        estimator.share("top1_agreement", agree, count, count.sum()),
        estimator.mean("entropy_difference", "nats", gap, count),
    ]


def _tail(
    estimator: Estimator, sums: Accumulator, threshold: float, effective_n: float
) -> Estimate:
    beyond = (
        sums.part("ups")[:, np.searchsorted(sums.ups, threshold)]
        + sums.part("downs")[:, np.searchsorted(sums.downs, threshold)]
    )
    count = sums.part("totals")[:, COLUMN["count"]]
    return estimator.share("tail_fraction", beyond, count, effective_n)


def _token_clip(
    estimator: Estimator,
    sums: Accumulator,
    sequences: _Sequences,
    row: Objective,
    effective_n: float,
) -> ClipEstimate:
    by_token = row.averaging == "token"
    ups, downs = ("ups", "downs") if by_token else ("up_shares", "down_shares")
    low_edge, high_edge = row.log_edges()
    nothing = np.zeros(len(sums.sums))
    low = high = nothing
    if high_edge < math.inf:
        high = sums.part(ups)[:, np.searchsorted(sums.ups, high_edge)]
    if low_edge > -math.inf:
        low = sums.part(downs)[:, np.searchsorted(sums.downs, -low_edge)]
    weights = (
        sums.part("totals")[:, COLUMN["count"]]
        if by_token
        else sequences.sums(np.ones(len(sequences.length)))
    )
    return estimator.clip(row, low, high, weights, effective_n)


def _sequences(sums: Accumulator) -> _Sequences:
    cluster, length, total, first = (
        np.concatenate(column) for column in zip(*sums.sequences, strict=True)
    )
    filled = length > 0
    return _Sequences(cluster[filled], length[filled], total[filled], first[filled], len(sums.sums))


def _first_divergence(sequences: _Sequences) -> FirstDivergence:
    where = sequences.first[sequences.first >= 0]
    return FirstDivergence(
        samples=len(sequences.first),
        diverged=len(where),
        earliest=int(where.min()) if len(where) else None,
        median=float(np.median(where)) if len(where) else None,
    )
