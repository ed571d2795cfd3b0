"""From sums to estimates: one sampling direction, measured in one pass over its tokens."""

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
from parity_check.measure.invalid import HygieneCount
from parity_check.measure.metrics import COLUMN, COLUMNS, I32, METRICS, RATIO_CAP, PairedChunk
from parity_check.measure.objectives import OBJECTIVES, Objective
from parity_check.measure.results import ClipEstimate, FirstDivergence, Measurement
from parity_check.measure.stats import Estimate, Floats, Ints

TAIL_THRESHOLDS = (0.1, 0.5, 1.0, 2.0, 5.0)
LENGTH_EDGES = (0, 128, 512, 2048, 8192)
QUANTILES = (0.5, 0.9, 0.99, 0.999)
BURST_SHARE = 1 / 20
"""A sample is a burst when this share of its tokens has |Δ| above the tail threshold."""


@dataclass(frozen=True, slots=True)
class _Sequences:
    """One row a sample that has usable tokens: its prompt, its tokens, its sum of Δ.

    `first` is the position of its first differing token, `beyond` how many are in the tail.
    """

    cluster: I32
    length: Ints
    total: Floats
    first: Ints
    beyond: Ints
    clusters: int

    def sums(self, values: Floats | NDArray[np.bool_] | Ints) -> Floats:
        sums = np.bincount(self.cluster, weights=values, minlength=self.clusters)
        return sums.astype(np.float64, copy=False)

    def clip(self, estimator: Estimator, row: Objective) -> ClipEstimate:
        value = self.total if row.level == "sequence-sum" else self.total / self.length
        weight = np.ones(len(value)) if row.averaging == "sequence" else self.length.astype(float)
        low, high = row.log_edges()
        return estimator.clip(
            row,
            self.sums(weight * (value < low)),
            self.sums(weight * (value > high)),
            self.sums(weight),
            len(value),
        )

    def between(self, low: int, high: float) -> _Sequences:
        return self.where((self.length >= low) & (self.length < high))

    def where(self, wanted: NDArray[np.bool_]) -> _Sequences:
        return _Sequences(
            self.cluster[wanted], self.length[wanted], self.total[wanted], self.first[wanted],
            self.beyond[wanted], self.clusters,
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
) -> Measurement:
    """Measure one sampling direction in one pass over its chunks.

    `objective` is the one that `clip_fraction` reports (GRPO as TRL counts it by default); all rows
    of OBJECTIVES are estimated beside it. `positive_share` is the share of tokens with a positive
    advantage, unknown to an engine comparison. `groups` names the numbers of the prompt groups; it
    is read after the last chunk. Where one side has not one usable logprob, every estimate is NaN
    and the hygiene counts say why. Raises TraceMismatchError when there was no token at all.
    """
    objective = OBJECTIVES["grpo"] if objective is None else objective
    rows = {**OBJECTIVES, objective.name: objective}
    thresholds = sorted({*TAIL_THRESHOLDS, tail_threshold})
    sums = Accumulator(rows.values(), thresholds, tail_threshold)
    for chunk in chunks:
        sums.add(chunk)
    column = {name: sums.part("totals")[:, index] for index, name in enumerate(COLUMNS)}
    count = column["count"]
    tokens = round(count.sum())
    if tokens == 0:
        return _nothing_usable(sums, sampled_by, level, rows.values(), positive_share)
    estimator = Estimator(sampled_by, level, positive_share)
    sequences = _sequences(sums)
    clusters = int(np.count_nonzero(count))
    clips = {
        name: _token_clip(estimator, sums, sequences, row, tokens)
        if row.level == "token"
        else sequences.clip(estimator, row)
        for name, row in rows.items()
    }
    tails = tuple((threshold, _tail(estimator, sums, threshold)) for threshold in thresholds)
    impossible = sums.part("impossible")[:, 0]
    sampled = count + impossible
    estimates = [
        *_token_means(estimator, column),
        dict(tails)[tail_threshold],
        replace(clips[objective.name].counted, name="clip_fraction"),
        stats.effective_sample_size(
            count, column["ratio"], column["squared_ratio"], sampled_by=sampled_by, level=level
        ),
        *_bursts(estimator, sequences),
        *_sequence_means(estimator, sequences),
        estimator.share("identical_fraction", column["identical"], count),
        estimator.share("impossible_fraction", impossible, sampled),
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
        effective_clusters=float(stats.effective_clusters(count)),
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
        hygiene=_hygiene(sums),
    )  # fmt: skip


def _nothing_usable(
    sums: Accumulator,
    sampled_by: str,
    level: float,
    rows: Iterable[Objective],
    positive_share: float,
) -> Measurement:
    """What is known of a direction of which one side returned nothing that could be compared."""
    if not sums.excluded:
        raise TraceMismatchError("nothing was compared: the traces hold no completion token")
    note = f"not one of {sums.excluded:,} tokens has a usable logprob on both sides"

    def nothing(name: str, unit: str) -> Estimate:
        return Estimate(name, sampled_by, math.nan, None, None, level, 0, 0, unit, note)

    def no_clip(row: Objective) -> ClipEstimate:
        name = "clip_fraction" if row.kind == "clip" else "truncation_fraction"
        return ClipEstimate(row, positive_share, *[nothing(name, "share")] * 5)

    return Measurement(
        sampled_by=sampled_by,
        level=level,
        tokens=0,
        excluded=sums.excluded,
        samples=0,
        clusters=0,
        effective_clusters=0.0,
        estimates=tuple(nothing(row.name, row.unit) for row in METRICS.values()),
        tails=(),
        quantiles={},
        largest=math.nan,
        first_divergence=FirstDivergence(0, 0, None, None),
        clips=tuple(map(no_clip, rows)),
        breakdowns={},
        clips_by_length=(),
        hygiene=_hygiene(sums),
    )


def _hygiene(sums: Accumulator) -> tuple[HygieneCount, ...]:
    return tuple(
        entry
        for side, counts in sums.defects.items()
        for entry in invalid.hygiene_counts(side, counts)
    )


def _token_means(estimator: Estimator, column: dict[str, Floats]) -> list[Estimate]:
    count, mean, size = column["count"], estimator.mean, estimator.size
    delta, squares = column["log_ratio"], column["squared_log_ratio"]
    return [
        mean("mean_log_ratio", "nats", delta, count),
        size("rms_log_ratio", "nats", squares, count).map(math.sqrt),
        size("mean_abs_log_ratio", "nats", column["abs_log_ratio"], count),
        stats.allow_unseen(
            mean("mean_importance_ratio", "ratio", column["ratio"], count, 0.0),
            stats.UNSEEN["mean_importance_ratio"],
        ),
        mean("geometric_mean_ratio", "ratio", delta, count).map(_capped_exp),
        mean("k1_kl", "nats", -delta, count),
        size("k2_kl", "nats", squares / 2, count),
        stats.allow_unseen(size("k3_kl", "nats", column["k3"], count), stats.UNSEEN["k3_kl"]),
        size("reverse_k3_kl", "nats", column["reverse_k3"], count),
        size("multiplicative_error", "ratio", column["multiplicative"], count, 1.0),
        mean("chi2_token", "1", column["squared_ratio"] - count, count, -1.0),
        size("probability_difference", "probability", column["probability_difference"], count),
    ]


def _capped_exp(value: float) -> float:
    return math.exp(min(value, RATIO_CAP))


def _bursts(estimator: Estimator, sequences: _Sequences) -> list[Estimate]:
    """Shares of the samples, and of the prompts, that hold tokens of the tail.

    The bound on samples takes them to fail one by one, that on prompts the prompts.
    """
    samples = sequences.sums(np.ones(len(sequences.length)))
    hit = sequences.sums(sequences.beyond > 0)
    prompts = (samples > 0).astype(np.float64)
    burst = sequences.sums(sequences.beyond >= BURST_SHARE * sequences.length)
    return [
        estimator.share(name, (hits > 0).astype(float) if weights is prompts else hits, weights)
        for name, hits, weights in (
            ("burst_fraction", burst, samples),
            ("burst_prompt_fraction", burst, prompts),
            ("tail_sample_fraction", hit, samples),
            ("tail_prompt_fraction", hit, prompts),
        )
    ]


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


def _tail(estimator: Estimator, sums: Accumulator, threshold: float) -> Estimate:
    count = sums.part("totals")[:, COLUMN["count"]]
    beyond = sums.beyond(sums.sums, threshold)
    return estimator.share("tail_fraction", beyond, count)


def _token_clip(
    estimator: Estimator,
    sums: Accumulator,
    sequences: _Sequences,
    row: Objective,
    trials: float,
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
    return estimator.clip(row, low, high, weights, trials)


def _sequences(sums: Accumulator) -> _Sequences:
    cluster, length, total, first, beyond = (
        np.concatenate(column) for column in zip(*sums.sequences, strict=True)
    )
    return _Sequences(cluster, length, total, first, beyond, len(sums.sums)).where(length > 0)


def _first_divergence(sequences: _Sequences) -> FirstDivergence:
    where = sequences.first[sequences.first >= 0]
    return FirstDivergence(
        samples=len(sequences.first),
        diverged=len(where),
        earliest=int(where.min()) if len(where) else None,
        median=float(np.median(where)) if len(where) else None,
    )
