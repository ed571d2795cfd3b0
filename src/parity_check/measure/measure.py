"""Measure one sampling direction in one pass over its tokens: from sums to estimates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from parity_check.errors import TraceMismatchError
from parity_check.measure import invalid, stats
from parity_check.measure.accumulator import IMPOSSIBLE, Accumulator
from parity_check.measure.breakdowns import breakdowns, range_label
from parity_check.measure.estimator import Estimator
from parity_check.measure.invalid import InvalidCount
from parity_check.measure.metrics import COLUMN, COLUMNS, METRICS, RATIO_CAP, PairedChunk
from parity_check.measure.objective import Objective, Side
from parity_check.measure.objectives import OBJECTIVES
from parity_check.measure.results import ClipEstimate, FirstDivergence, Measurement
from parity_check.measure.sequences import Rollouts, rollouts_of
from parity_check.measure.stats import Estimate, Floats
from parity_check.measure.worth import Worth, burst_trials, different

TAIL_THRESHOLDS = (0.1, 0.5, 1.0, 2.0, 5.0)
LENGTH_EDGES = (0, 128, 512, 2048, 8192)
QUANTILES = (0.5, 0.9, 0.99, 0.999)
BURST_SHARE = 1 / 20
"""A sequence is a burst if this share of its tokens has |Δ| above the tail threshold."""


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

    Numbers of sequences are of whole rollouts: all turns of one together. `objective` is the one
    that `clip_fraction` reports (`grpo` by default); all rows of OBJECTIVES are estimated beside
    it. `positive_share` is the share of tokens with a positive advantage, unknown to an engine
    comparison. `groups` names the numbers of the prompt groups; it is read after the last chunk.
    If no token has a usable logprob on both sides, every estimate of them is NaN and `invalid` has
    the counts.
    Raises TraceMismatchError if there is no token.
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
    estimator = Estimator(sampled_by, level, positive_share)
    if tokens == 0:
        return _nothing_usable(estimator, sums, rows.values())
    sequences = rollouts_of(sums.samples, len(sums.sums))
    clusters = int(np.count_nonzero(count))
    clips = {
        name: _token_clip(estimator, sums, sequences, row)
        if row.level == "token"
        else _sequence_clip(estimator, sequences, row)
        for name, row in rows.items()
    }
    tails = tuple((threshold, _tail(estimator, sums, threshold)) for threshold in thresholds)
    same = sums.part("impossible")[:, IMPOSSIBLE.index("excluded and identical")]
    excluded = sums.part("impossible")[:, IMPOSSIBLE.index("excluded")]
    used = np.concatenate([each.used_prompts() for each in sums.samples])
    owner = np.concatenate([each.cluster[each.sums[:, 0] > 0] for each in sums.samples])
    worth = sequences.worth(different(owner, used, len(sums.sums)), level)
    estimates = [
        *_token_means(estimator, column, min(worth.samples, worth.clusters)),
        dict(tails)[tail_threshold],
        replace(clips[objective.name].counted, name="clip_fraction"),
        *_effective_sample_sizes(estimator, column, sequences),
        *_bursts(estimator, sequences, worth),
        *_sequence_means(estimator, sequences),
        estimator.share("identical_fraction", column["identical"] + same, count + excluded),
        _impossible(estimator, sums),
        *_alternative_means(estimator, sums.part("alternatives")),
    ]  # fmt: skip
    order = list(METRICS)
    by_length = OBJECTIVES["gspo"] if objective.level == "token" else objective
    return Measurement(
        sampled_by=sampled_by,
        level=level,
        tokens=tokens,
        excluded=sums.excluded,
        certain=sums.placeholders.certain,
        repeated=sums.placeholders.repeated,
        copied=sums.placeholders.copied(),
        samples=sum(int(np.count_nonzero(each.sums[:, 0])) for each in sums.samples),
        rollouts=len(sequences.length),
        prompts=len(np.unique(used)),
        clusters=clusters,
        worth=worth,
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
        invalid=_invalid(sums),
    )  # fmt: skip


def _nothing_usable(
    estimator: Estimator, sums: Accumulator, rows: Iterable[Objective]
) -> Measurement:
    """The measurement of a direction without a token that has usable logprobs on both sides.

    Only what the behaviour engine itself calls impossible is counted.
    """
    if not sums.excluded:
        raise TraceMismatchError("nothing was compared: the traces have no completion tokens")
    note = f"none of {sums.excluded:,} tokens has a usable logprob on both sides"
    sampled_by, level = estimator.sampled_by, estimator.level

    def nothing(name: str, unit: str) -> Estimate:
        return Estimate(name, sampled_by, math.nan, None, None, level, 0, 0, unit, note)

    def no_clip(row: Objective) -> ClipEstimate:
        name = "clip_fraction" if row.kind == "clip" else "truncation_fraction"
        return ClipEstimate(row, estimator.positive_share, *[nothing(name, "share")] * 5)

    estimates = {row.name: nothing(row.name, row.unit) for row in METRICS.values()}
    if sums.part("impossible").any():
        estimates["impossible_fraction"] = _impossible(estimator, sums)
    return Measurement(
        sampled_by=sampled_by,
        level=level,
        tokens=0,
        excluded=sums.excluded,
        certain=0,
        repeated=0,
        copied=0,
        samples=0,
        rollouts=0,
        prompts=0,
        clusters=0,
        worth=Worth(0.0, 0.0, 0.0, 0.0),
        estimates=tuple(estimates.values()),
        tails=(),
        quantiles={},
        largest=math.nan,
        first_divergence=FirstDivergence(0, 0, None, None),
        clips=tuple(map(no_clip, rows)),
        breakdowns={},
        clips_by_length=(),
        invalid=_invalid(sums),
    )


def _impossible(estimator: Estimator, sums: Accumulator) -> Estimate:
    """The share of tokens that the behaviour engine cannot have sampled, usable or not."""
    cells = sums.part("impossible")
    count = sums.part("totals")[:, COLUMN["count"]] + cells[:, IMPOSSIBLE.index("excluded")]
    return estimator.share("impossible_fraction", cells[:, IMPOSSIBLE.index("all")], count)


def _invalid(sums: Accumulator) -> tuple[InvalidCount, ...]:
    return tuple(
        entry
        for side, counts in sums.defects.items()
        for entry in invalid.invalid_counts(side, counts)
    )


def _token_means(
    estimator: Estimator, column: dict[str, Floats], burst_trials: float
) -> list[Estimate]:
    count, mean, size = column["count"], estimator.mean, estimator.size
    delta, squares = column["log_ratio"], column["squared_log_ratio"]
    return [
        mean("mean_log_ratio", "nats", delta, count),
        size("rms_log_ratio", "nats", squares, count).map(math.sqrt),
        size("mean_abs_log_ratio", "nats", column["abs_log_ratio"], count),
        stats.allow_unseen(
            mean("mean_importance_ratio", "ratio", column["ratio"], count, 0.0), burst_trials
        ),
        mean("truncated_importance_ratio", "ratio", column["truncated_ratio"], count, 0.0),
        mean("geometric_mean_ratio", "ratio", delta, count).map(_capped_exp),
        mean("k1_kl", "nats", -delta, count),
        size("k2_kl", "nats", squares / 2, count),
        stats.allow_unseen(size("k3_kl", "nats", column["k3"], count), burst_trials),
        size("reverse_k3_kl", "nats", column["reverse_k3"], count),
        size("multiplicative_error", "ratio", column["multiplicative"], count, 1.0),
        mean("chi2_token", "1", column["squared_ratio"] - count, count, -1.0),
        size("probability_difference", "probability", column["probability_difference"], count),
    ]


def _capped_exp(value: float) -> float:
    return math.exp(min(value, RATIO_CAP))


def _effective_sample_sizes(
    estimator: Estimator, column: dict[str, Floats], sequences: Rollouts
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
        yield stats.effective_sample_size(
            name, *sums, sampled_by=estimator.sampled_by, level=estimator.level
        )


def _bursts(estimator: Estimator, sequences: Rollouts, worth: Worth) -> Iterator[Estimate]:
    """The shares of sequences and of clusters with tokens in the tail.

    The bound on sequences assumes independent sequences, that on clusters independent clusters. A
    cluster has a burst as a whole, in more than half of its sequences: bursts of single ones are
    in many clusters if these are large.

    What stays unseen could be in the longest ones, which weigh most in every mean over tokens. The
    bounds therefore count as many sequences and clusters as these are worth.
    """
    every = sequences.ones()
    clusters = (every > 0).astype(np.float64)
    for kind, hit in (
        ("burst", sequences.tail >= BURST_SHARE * sequences.length),
        ("tail", sequences.tail > 0),
    ):
        hits = sequences.by_cluster(hit)
        suffix, whole = ("sample_", 0.0) if kind == "tail" else ("", 0.5)
        yield estimator.share(f"{kind}_{suffix}fraction", hits, every, worth.samples)
        off = (hits > whole * every).astype(np.float64)
        yield estimator.share(f"{kind}_cluster_fraction", off, clusters, worth.clusters)


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
        estimator.share("top1_agreement", agree, count),
        estimator.mean("entropy_difference", "nats", gap, count),
    ]


def _tail(estimator: Estimator, sums: Accumulator, threshold: float) -> Estimate:
    beyond = sums.beyond("log ratio", "up", threshold) + sums.beyond("log ratio", "down", threshold)
    count = sums.part("totals")[:, COLUMN["count"]]
    return estimator.share("tail_fraction", beyond, count)


def _token_clip(
    estimator: Estimator, sums: Accumulator, sequences: Rollouts, row: Objective
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
    count = sums.part("totals")[:, COLUMN["count"]]
    weights = count if by_token else sequences.ones()
    return estimator.clip(row, beyond("down", -low), beyond("up", high), weights, count.sum())


def _sequence_clip(estimator: Estimator, sequences: Rollouts, row: Objective) -> ClipEstimate:
    low_edge, high_edge = row.edges()
    below, above = sequences.compared(row)
    low, high = (below < low_edge).astype(float), (above > high_edge).astype(float)
    both = low * high
    if row.moved:
        length, up = sequences.length, sequences.sums["increased"]
        low = high * (length - up - sequences.sums["identical"]) / length
        high = high * up / length
    weight, trials = np.ones(len(low)), float(len(low))
    if row.averaging == "token":
        weight = sequences.length
        trials = float(burst_trials(weight, weight, estimator.level))
    return estimator.clip(
        row,
        sequences.by_cluster(weight * low),
        sequences.by_cluster(weight * high),
        sequences.by_cluster(weight),
        trials,
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
