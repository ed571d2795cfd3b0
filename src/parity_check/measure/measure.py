"""Measure one sampling direction in one pass over its tokens: from sums to estimates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from parity_check.errors import TraceMismatchError
from parity_check.measure import invalid, stats
from parity_check.measure.accumulator import Accumulator
from parity_check.measure.breakdowns import breakdowns, range_label
from parity_check.measure.estimator import Estimator
from parity_check.measure.metrics import COLUMN, COLUMNS, METRICS, RATIO_CAP, PairedChunk
from parity_check.measure.objective import Objective, Side
from parity_check.measure.objectives import OBJECTIVES
from parity_check.measure.results import ClipEstimate, FirstDivergence, Measurement
from parity_check.measure.sequences import Rollouts, rollouts_of
from parity_check.measure.stats import Estimate, Floats

TAIL_THRESHOLDS = (0.1, 0.5, 1.0, 2.0, 5.0)
LENGTH_EDGES = (0, 128, 512, 2048, 8192)
QUANTILES = (0.5, 0.9, 0.99, 0.999)


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

    Numbers of sequences are of whole rollouts: all turns of one together. `objective` is the one
    that `clip_fraction` reports (`grpo` by default); all rows of OBJECTIVES are estimated beside
    it. `positive_share` is the share of tokens with a positive advantage, unknown to an engine
    comparison. `groups` names the numbers of the prompt groups; it is read after the last chunk.
    `seed` feeds the bootstrap of the effective sample sizes, nothing else. Raises
    TraceMismatchError when not one token could be compared.
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
    sequences = rollouts_of(sums.samples, len(sums.sums))
    present = count > 0
    clusters = int(present.sum())
    deff = stats.design_effect(
        column["abs_log_ratio"][present], column["squared_log_ratio"][present], count[present]
    )
    clips = {
        name: _token_clip(estimator, sums, sequences, row, tokens / deff)
        if row.level == "token"
        else _sequence_clip(estimator, sequences, row)
        for name, row in rows.items()
    }
    tails = tuple(
        (threshold, _tail(estimator, sums, threshold, tokens / deff)) for threshold in thresholds
    )
    estimates = [
        *_token_means(estimator, column),
        dict(tails)[tail_threshold],
        replace(clips[objective.name].counted, name="clip_fraction"),
        *_effective_sample_sizes(estimator, column, sequences, seed),
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
        samples=sum(int(np.count_nonzero(each.sums[:, 0])) for each in sums.samples),
        rollouts=len(sequences.length),
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
        first_divergence=_first_divergence(sums),
        clips=tuple(clips.values()),
        breakdowns=breakdowns(estimator, sums, groups or {}),
        clips_by_length=tuple(
            (f"{range_label(low, high)} tokens", _sequence_clip(estimator, part, by_length))
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
        mean("truncated_importance_ratio", "ratio", column["truncated_ratio"], count, 0.0),
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


def _effective_sample_sizes(
    estimator: Estimator, column: dict[str, Floats], sequences: Rollouts, seed: int
) -> Iterator[Estimate]:
    product = np.exp(np.clip(sequences.sums["log_ratio"], -RATIO_CAP, RATIO_CAP))
    weights = {
        "ess": (column["count"], column["ratio"], column["squared_ratio"]),
        "ess_truncated": (
            column["count"], column["truncated_ratio"], column["squared_truncated_ratio"],
        ),
        "ess_sequence": (
            sequences.ones(), sequences.by_cluster(product), sequences.by_cluster(product**2),
        ),
    }  # fmt: skip
    for name, sums in weights.items():
        found = stats.effective_sample_size(
            *sums, sampled_by=estimator.sampled_by, level=estimator.level, seed=seed
        )
        yield replace(found, name=name)


def _sequence_means(estimator: Estimator, sequences: Rollouts) -> list[Estimate]:
    counts = sequences.ones()
    totals = np.clip(sequences.sums["log_ratio"], -RATIO_CAP, RATIO_CAP)
    means = np.clip(sequences.mean, -RATIO_CAP, RATIO_CAP)
    return [
        *(
            estimator.mean(name, "1", sequences.by_cluster(np.expm1(2 * each)), counts, -1.0)
            for name, each in (
                ("chi2_sequence_product", totals),
                ("chi2_sequence_geometric", means),
            )
        ),
        *(
            estimator.mean(
                name, "ratio", sequences.by_cluster(sequences.sums[ratio] / sequences.length),
                counts, 0.0,
            )
            for name, ratio in (
                ("sequence_importance_ratio", "ratio"),
                ("clamped_importance_ratio", "clamped_ratio"),
            )
        ),
    ]  # fmt: skip


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
    beyond = sums.beyond("log ratio", "up", threshold) + sums.beyond("log ratio", "down", threshold)
    count = sums.part("totals")[:, COLUMN["count"]]
    return estimator.share("tail_fraction", beyond, count, effective_n)


def _token_clip(
    estimator: Estimator,
    sums: Accumulator,
    sequences: Rollouts,
    row: Objective,
    effective_n: float,
) -> ClipEstimate:
    assert row.statistic is not None
    statistic, by_token = row.statistic, row.averaging == "token"

    def beyond(side: Side, edge: float) -> Floats:
        if edge == math.inf:
            return np.zeros(len(sums.sums))
        if by_token:
            return sums.beyond(statistic, side, edge)
        column = sums.share_column(statistic, side, edge)
        return sequences.by_cluster(sequences.beyond[:, column] / sequences.length)

    low, high = row.edges()
    weights = sums.part("totals")[:, COLUMN["count"]] if by_token else sequences.ones()
    return estimator.clip(row, beyond("down", -low), beyond("up", high), weights, effective_n)


def _sequence_clip(estimator: Estimator, sequences: Rollouts, row: Objective) -> ClipEstimate:
    low_edge, high_edge = row.edges()
    below, above = sequences.compared(row)
    low, high = (below < low_edge).astype(float), (above > high_edge).astype(float)
    both = low * high
    if row.moved:
        length, up = sequences.length, sequences.sums["increased"]
        low = high * (length - up - sequences.sums["identical"]) / length
        high = high * up / length
    weight = np.ones(len(low)) if row.averaging == "sequence" else sequences.length
    return estimator.clip(
        row,
        sequences.by_cluster(weight * low),
        sequences.by_cluster(weight * high),
        sequences.by_cluster(weight),
        sequences.effective(),
        both=sequences.by_cluster(weight * both),
    )


def _first_divergence(sums: Accumulator) -> FirstDivergence:
    """Of every sample: a turn of a rollout is replayed by itself."""
    first = np.concatenate([each.first[each.sums[:, 0] > 0] for each in sums.samples])
    where = first[first >= 0]
    return FirstDivergence(
        samples=len(first),
        diverged=len(where),
        earliest=int(where.min()) if len(where) else None,
        median=float(np.median(where)) if len(where) else None,
    )
