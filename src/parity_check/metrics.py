"""Per-token metrics of one sampling direction, summed per prompt while the tokens stream by.

Δ is always logprob(evaluating engine) - logprob(behaviour engine) of the same token, and the
behaviour engine, which sampled, is the denominator of every ratio. Memory does not grow with the
number of tokens: what is kept is one row of sums a prompt, one row a sample, and one histogram.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from parity_check import hygiene, stats
from parity_check.errors import TraceMismatchError
from parity_check.hygiene import HygieneCount
from parity_check.objectives import OBJECTIVES, Objective, count_beyond
from parity_check.stats import Estimate, Floats, Ints

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PairedChunk:
    """Some whole samples, paired token by token (flat arrays over tokens, ragged by `starts`).

    Sample s owns tokens `starts[s]:starts[s + 1]`; `cluster` and `group` [S] number its prompt and
    its prompt group. A logprob that an engine did not return is NaN; `*_nulls` say how many of the
    NaN are such. The alternatives are [n, k], on both sides or on neither.
    """

    behaviour_logprob: F32
    evaluating_logprob: F32
    starts: Ints
    cluster: I32
    group: I32
    behaviour_top_ids: I32 | None = None
    behaviour_top_logprobs: F32 | None = None
    evaluating_top_ids: I32 | None = None
    evaluating_top_logprobs: F32 | None = None
    token_ids: I32 | None = None
    behaviour_nulls: int = 0
    evaluating_nulls: int = 0


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the METRICS table: what a number is, and how to read it.

    `better` says which way is good: nearest to `target`, or lower or higher; `gated` metrics can
    have a limit, the others are shown.
    """

    name: str
    label: str
    unit: str
    better: Literal["target", "lower", "higher"]
    target: float
    gated: bool
    definition: str
    source: str
    moved_by: str


_ROWS = (
    Metric(
        "mean_log_ratio", "mean Δlogprob", "nats", "target", 0.0, True,
        "mean Δ",
        "TRL sampling_logp_difference (absolute there), torchtitan logprob_diff/mean",
        "any bias of either engine: temperature, truncated support, penalties, precision",
    ),
    Metric(
        "rms_log_ratio", "RMS Δlogprob", "nats", "lower", 0.0, False,
        "sqrt(mean Δ²)", "Fast-LLM 525",
        "noise of either engine: precision, kernels, batch composition",
    ),
    Metric(
        "mean_abs_log_ratio", "mean |Δlogprob|", "nats", "lower", 0.0, False,
        "mean |Δ|", "slime train_rollout_logprob_abs_diff",
        "the same noise, with less weight on outliers",
    ),
    Metric(
        "mean_importance_ratio", "mean importance ratio", "ratio", "target", 1.0, True,
        "mean exp Δ (Δ cut at ±20, as in verl)",
        "NeMo-RL sampling_importance_ratio, PipelineRL ratio_new_old",
        "the behaviour engine's bookkeeping only: raw logprobs, truncated support, shifted tokens",
    ),
    Metric(
        "geometric_mean_ratio", "geometric mean ratio", "ratio", "target", 1.0, False,
        "exp(mean Δ)", "GSPO, arXiv 2507.18071; ROLL geometric ratio",
        "any bias; far from the arithmetic mean when Δ is broad",
    ),
    Metric(
        "k1_kl", "k1 KL", "nats", "target", 0.0, False,
        "mean -Δ, estimates KL(behaviour ‖ evaluating)",
        "Schulman, joschu.net/blog/kl-approx; verl rollout_corr/kl, OpenRLHF vllm_kl",
        "as mean Δlogprob; may be negative",
    ),
    Metric(
        "k2_kl", "k2 KL", "nats", "lower", 0.0, False,
        "mean Δ²/2, estimates KL(behaviour ‖ evaluating)",
        "Schulman, joschu.net/blog/kl-approx",
        "as RMS Δlogprob",
    ),
    Metric(
        "k3_kl", "k3 KL", "nats", "lower", 0.0, True,
        "mean (exp Δ - 1 - Δ), estimates KL(behaviour ‖ evaluating)",
        "Schulman; prime-rl mismatch_kl, verl k3_kl, NeMo-RL gen_kl_error",
        "noise and bias alike; a few tokens carry it, so read it beside the tail fraction",
    ),
    Metric(
        "reverse_k3_kl", "k3 KL, roles swapped", "nats", "lower", 0.0, False,
        "mean (exp -Δ - 1 + Δ)",
        "NeMo-RL policy_kl_error",
        "tokens that the evaluating engine finds unlikely dominate it",
    ),
    Metric(
        "multiplicative_error", "multiplicative error", "ratio", "lower", 1.0, False,
        "mean exp|Δ|", "NeMo-RL token_mult_prob_error",
        "noise of either engine; above 1.05 NeMo-RL asks for an investigation",
    ),
    Metric(
        "tail_fraction", "tokens with |Δ| above the tail threshold", "share", "lower", 0.0, True,
        "share of tokens with |Δ| > threshold", "slime mis_catastrophic_token_fraction",
        "rare, large failures: routing flips, corrupted cache, overwritten rows",
    ),
    Metric(
        "clip_fraction", "clip fraction of the objective", "share", "lower", 0.0, True,
        "what the configured objective's own counter would show at the first step",
        "per objective, see the table of objectives",
        "tails for token objectives, bias and length for sequence objectives",
    ),
    Metric(
        "ess", "effective sample size", "share", "higher", 1.0, True,
        "(Σ r)² / (n Σ r²)", "Kish 1965; verl rollout_is_eff_sample_size, PipelineRL rl/ess",
        "spread of the ratio; a few large ratios",
    ),
    Metric(
        "chi2_token", "χ², token", "1", "target", 0.0, False,
        "mean r² - 1", "verl rollout_corr/chi2_token",
        "large ratios; negative where the support is truncated",
    ),
    Metric(
        "chi2_sequence_product", "χ², sequence product", "1", "target", 0.0, False,
        "mean over sequences of exp(2 ΣΔ) - 1 (ΣΔ cut at ±20)", "verl rollout_corr/chi2_seq",
        "bias times length",
    ),
    Metric(
        "chi2_sequence_geometric", "χ², sequence geometric mean", "1", "target", 0.0, False,
        "mean over sequences of exp(2 mean Δ) - 1", "ms-swift rollout_correction/chi2_seq",
        "bias of whole sequences",
    ),
    Metric(
        "probability_difference", "mean |p - p'|", "probability", "lower", 0.0, False,
        "mean |exp(logprob) - exp(logprob')|", "verl training/rollout_probs_diff_mean",
        "noise on tokens of middling probability; above 0.01 verl suspects the engine",
    ),
    Metric(
        "identical_fraction", "bit-identical tokens", "share", "higher", 1.0, False,
        "share of tokens whose two logprobs are the same float32",
        "torchtitan ratio_tokens_different, the complement",
        "anything at all; 100 % is what batch-invariant engines reach",
    ),
    Metric(
        "top1_agreement", "top-1 agreement", "share", "higher", 1.0, False,
        "share of tokens whose likeliest alternative is the same id", "llama.cpp \"Same top p\"",
        "near ties; large errors",
    ),
    Metric(
        "entropy_difference", "entropy difference, top-k", "nats", "target", 0.0, False,
        "mean of evaluating - behaviour entropy of the recorded alternatives, renormalised; not "
        "the entropy of the full distribution",
        "the entropy curve that trainers log, from what a trace holds",
        "temperature and truncation on one side",
    ),
)  # fmt: skip

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}

RATIO_CAP = 20.0
"""Exponentials take |Δ| up to this (verl's SAFETY_BOUND): e^20 is a broken token, e^800 is inf."""

TAIL_THRESHOLDS = (0.1, 0.5, 1.0, 2.0, 5.0)
POSITION_EDGES = (0, 16, 64, 256, 1024, 4096, 16384)
LENGTH_EDGES = (0, 128, 512, 2048, 8192)
QUANTILES = (0.5, 0.9, 0.99, 0.999)

_COLUMNS = (
    "count", "log_ratio", "abs_log_ratio", "squared_log_ratio", "ratio", "squared_ratio", "k3",
    "reverse_k3", "multiplicative", "probability_difference", "identical",
)  # fmt: skip
_COLUMN = {name: index for index, name in enumerate(_COLUMNS)}
_BROKEN_DOWN = [_COLUMN[name] for name in ("count", "log_ratio", "abs_log_ratio", "k3")]
_BLOCK = 1 << 15  # tokens at a time: the columns of a block stay in the processor's cache


def token_columns(behaviour: F32, evaluating: F32) -> Floats:
    """Every summed quantity of each token, float64 [columns, n], in the order of _COLUMNS.

    k3 keeps the identity k3 = ratio - 1 - Δ and is never negative. For small |Δ| exp Δ - 1 is
    computed as such, or rounding would drown k3.
    """
    n = len(behaviour)
    columns = np.empty((len(_COLUMNS), n))
    count, delta, size, square, ratio, squared_ratio, k3, reverse, multiple, moved, same = columns
    count[:] = 1.0
    np.subtract(evaluating, behaviour, out=delta, dtype=np.float64)
    np.abs(delta, out=size)
    np.square(delta, out=square)
    exponent = np.clip(delta, -RATIO_CAP, RATIO_CAP)
    np.expm1(exponent, out=k3)
    np.add(k3, 1.0, out=ratio)
    np.square(ratio, out=squared_ratio)
    np.abs(k3, out=moved)
    moved *= np.exp(behaviour)
    k3 -= delta
    np.maximum(k3, 0.0, out=k3)
    np.expm1(-exponent, out=reverse)
    np.maximum(ratio, reverse + 1.0, out=multiple)
    reverse += delta
    np.maximum(reverse, 0.0, out=reverse)
    np.equal(delta, 0.0, out=same)
    return columns


@dataclass(frozen=True, slots=True)
class ClipEstimate:
    """What one objective would do to these tokens at its first step.

    `low` and `high` are the shares beyond each edge, `band` their sum, `active` the share whose
    clipping changes a gradient when `positive_share` of the advantages are positive, and `counted`
    what the framework's own counter would show.
    """

    objective: Objective
    positive_share: float
    counted: Estimate
    band: Estimate
    low: Estimate
    high: Estimate
    active: Estimate


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a breakdown, from `low` up to below `high`, with its estimates."""

    label: str
    low: float
    high: float
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class FirstDivergence:
    """Where samples first differ in a bit: positions count completion tokens from 0."""

    samples: int
    diverged: int
    earliest: int | None
    median: float | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything measured of one sampling direction."""

    sampled_by: str
    level: float
    tokens: int
    excluded: int
    samples: int
    clusters: int
    estimates: tuple[Estimate, ...]
    tails: tuple[tuple[float, Estimate], ...]
    quantiles: dict[str, Estimate]
    largest: float
    first_divergence: FirstDivergence
    clips: tuple[ClipEstimate, ...]
    breakdowns: dict[str, tuple[Bin, ...]]
    clips_by_length: tuple[tuple[str, ClipEstimate], ...]
    hygiene: tuple[HygieneCount, ...]

    def __getitem__(self, name: str) -> Estimate:
        return {estimate.name: estimate for estimate in self.estimates}[name]

    def get(self, name: str) -> Estimate | None:
        """The named estimate, or None where it was not recorded."""
        return {estimate.name: estimate for estimate in self.estimates}.get(name)


class Accumulator:
    """What is kept of the chunks seen so far: sums a prompt, a row a sample, a histogram."""

    def __init__(self, objectives: Iterable[Objective], tail_thresholds: Iterable[float]) -> None:
        edges = [row.log_edges() for row in objectives if row.level == "token"]
        tails = list(tail_thresholds)
        self.ups = np.array(sorted({*tails, *(high for _, high in edges if high < math.inf)}))
        self.downs = np.array(sorted({*tails, *(-low for low, _ in edges if low > -math.inf)}))
        widths = {
            "totals": len(_COLUMNS),
            "position": len(POSITION_EDGES) * len(_BROKEN_DOWN),
            "probability": _PROBABILITY_BINS * len(_BROKEN_DOWN),
            "ups": len(self.ups),
            "downs": len(self.downs),
            "up_shares": len(self.ups),
            "down_shares": len(self.downs),
            "alternatives": 3,
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
        self.sequences: list[tuple[I32, Ints, Floats, Ints]] = []

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
            spare = max(rows, 2 * len(self.sums)) - len(self.sums)
            self.sums = np.pad(self.sums, ((0, spare), (0, 0)))
            self.group = np.pad(self.group, (0, spare))
        self.group[chunk.cluster] = chunk.group

    def _inspect(self, chunk: PairedChunk) -> NDArray[np.bool_] | None:
        logprobs = {"behaviour": chunk.behaviour_logprob, "evaluating": chunk.evaluating_logprob}
        nulls = {"behaviour": chunk.behaviour_nulls, "evaluating": chunk.evaluating_nulls}
        usable = hygiene.inspect_logprobs(logprobs, nulls, chunk.starts, self.defects)
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
                counts = hygiene.count_alternatives(
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
        first_differing = np.full(size, -1, np.int64)
        if len(behaviour):
            columns = token_columns(behaviour, evaluating)
            segments = np.add.reduceat(columns, begin, axis=1).T
            owner = np.repeat(np.arange(size), lengths)
            np.add.at(rows[:, self.parts["totals"]], sample, segments)
            by_position = rows[:, self.parts["position"]].reshape(size, len(POSITION_EDGES), -1)
            by_position[sample, position] = segments[:, _BROKEN_DOWN]
            rows[:, self.parts["position"]] = by_position.reshape(size, -1)
            rows[:, self.parts["probability"]] = _by_probability(behaviour, columns, owner, size)
            self._count_thresholds(rows, columns, owner, lengths)
            self._count_magnitudes(columns[_COLUMN["abs_log_ratio"]], cluster, lengths)
            same = columns[_COLUMN["identical"]]
            first_differing = _first_differing(same, starts, origin, keep)
            rows[:, self.parts["alternatives"]] = _alternatives(chunk, tokens, keep, owner, size)
        np.add.at(self.sums, cluster, rows)
        self.sequences.append(
            (cluster, lengths, rows[:, _COLUMN["log_ratio"]].copy(), first_differing)
        )

    def _count_thresholds(self, rows: Floats, columns: Floats, owner: Ints, lengths: Ints) -> None:
        beyond = np.flatnonzero(columns[_COLUMN["abs_log_ratio"]] > min(self.ups[0], self.downs[0]))
        delta, owner = columns[_COLUMN["log_ratio"]][beyond], owner[beyond]
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
_SURPRISAL_EDGES = (0.0, 1 / 128, 1 / 8, 1 / 2, 1.0, 2.0, 4.0, 8.0, math.inf)
_PROBABILITY_BINS = len(_SURPRISAL_EDGES) - 1
_OCTAVE_TO_BIN = np.array([0, 1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7])


def _by_probability(behaviour: F32, columns: Floats, owner: Ints, size: int) -> Floats:
    octave = ((-behaviour).view(np.int32) >> 23) - (127 - 8)
    bins = _OCTAVE_TO_BIN[np.clip(octave, 0, len(_OCTAVE_TO_BIN) - 1)]
    index = owner * _PROBABILITY_BINS + bins
    cells = size * _PROBABILITY_BINS
    sums = np.empty((cells, len(_BROKEN_DOWN)))
    for place, column in enumerate(_BROKEN_DOWN):
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
        values = np.where((which >= 0) & (values <= hygiene.ROUNDING), values, np.float32(-np.inf))
        top = values.max(axis=0)
        best.append(_id_of(top, which, values))
        there.append(top > hygiene.FLOOR)
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
    shifted = (logprobs - np.maximum(logprobs.max(axis=0), np.float32(hygiene.FLOOR))).astype(
        np.float64
    )
    weights = np.exp(shifted)
    total = weights.sum(axis=0)
    total[total == 0.0] = 1.0  # no alternative at all: such tokens are left out by the caller
    np.maximum(shifted, hygiene.FLOOR, out=shifted)  # keeps 0 * -inf from being NaN
    entropy: Floats = np.log(total) - (weights * shifted).sum(axis=0) / total
    return entropy


@dataclass(frozen=True, slots=True)
class _Estimator:
    """Turns per-cluster sums into estimates of one sampling direction at one level."""

    sampled_by: str
    level: float
    positive_share: float

    def mean(
        self, name: str, unit: str, sums: Floats, weights: Floats, lowest: float = -math.inf
    ) -> Estimate:
        return stats.mean_estimate(
            name, unit, sums, weights, sampled_by=self.sampled_by, level=self.level, lowest=lowest
        )

    def share(self, name: str, sums: Floats, weights: Floats, effective_n: float) -> Estimate:
        return stats.share_estimate(
            name, sums, weights,
            sampled_by=self.sampled_by, level=self.level, effective_n=effective_n,
        )  # fmt: skip

    def clip(
        self, row: Objective, low: Floats, high: Floats, weights: Floats, effective_n: float
    ) -> ClipEstimate:
        name = "clip_fraction" if row.kind == "clip" else "truncation_fraction"
        positive = self.positive_share

        def share(part: str, sums: Floats) -> Estimate:
            return self.share(name + part, sums, weights, effective_n)

        return ClipEstimate(
            objective=row,
            positive_share=positive,
            counted=share("", row.counted(low, high, positive)),
            band=share("_band", low + high),
            low=share("_low", low),
            high=share("_high", high),
            active=share("_active", positive * high + (1.0 - positive) * low),
        )

    def bin(self, label: str, low: float, high: float, cells: Floats) -> Bin | None:
        """Estimates of one bin from cells [clusters, count Δ |Δ| k3]; None for an empty one."""
        count, delta, size, k3 = cells.T
        if not count.any():
            return None
        estimates = (
            self.mean("mean_log_ratio", "nats", delta, count),
            self.mean("mean_abs_log_ratio", "nats", size, count, 0.0),
            self.mean("k3_kl", "nats", k3, count, 0.0),
        )
        return Bin(label, low, high, estimates)


@dataclass(frozen=True, slots=True)
class _Sequences:
    """One row a sample that has usable tokens: its prompt, its tokens, its mean and sum of Δ."""

    cluster: I32
    length: Ints
    total: Floats
    first: Ints
    clusters: int

    def sums(self, values: Floats | NDArray[np.bool_] | Ints) -> Floats:
        sums = np.bincount(self.cluster, weights=values, minlength=self.clusters)
        return sums.astype(np.float64, copy=False)

    def effective(self) -> float:
        """Sequences over the design effect of their |mean Δ|."""
        size = np.abs(self.total / self.length)
        counts = self.sums(np.ones(len(size)))
        present = counts > 0
        deff = stats.design_effect(
            self.sums(size)[present], self.sums(size * size)[present], counts[present]
        )
        return len(size) / deff

    def clip(self, estimator: _Estimator, row: Objective) -> ClipEstimate:
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
    seed: int = 0,
) -> Measurement:
    """Measure one sampling direction in one pass over its chunks.

    `objective` is the one that `clip_fraction` reports (GRPO as TRL counts it by default); all rows
    of OBJECTIVES are estimated beside it. `positive_share` is the share of tokens with a positive
    advantage, unknown to an engine comparison. `seed` feeds the bootstrap of `ess`, nothing else.
    Raises TraceMismatchError when not one token could be compared.
    """
    objective = OBJECTIVES["grpo"] if objective is None else objective
    rows = {**OBJECTIVES, objective.name: objective}
    thresholds = sorted({*TAIL_THRESHOLDS, tail_threshold})
    sums = Accumulator(rows.values(), thresholds)
    for chunk in chunks:
        sums.add(chunk)
    column = {name: sums.part("totals")[:, index] for index, name in enumerate(_COLUMNS)}
    count = column["count"]
    tokens = round(count.sum())
    if tokens == 0:
        raise TraceMismatchError(
            "nothing was compared: no token has a usable logprob on both sides",
            hint=f"{sums.excluded} tokens were excluded; see the hygiene counts",
        )
    estimator = _Estimator(sampled_by, level, positive_share)
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
    by_length = objective if objective.level == "sequence-mean" else OBJECTIVES["gspo"]
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
        breakdowns=_breakdowns(estimator, sums),
        clips_by_length=tuple(
            (f"{_range_label(low, high)} tokens", part.clip(estimator, by_length))
            for low, high in zip(LENGTH_EDGES, (*LENGTH_EDGES[1:], math.inf), strict=True)
            if len((part := sequences.between(low, high)).length)
        ),
        hygiene=tuple(
            entry
            for side, counts in sums.defects.items()
            for entry in hygiene.hygiene_counts(side, counts)
        ),
    )  # fmt: skip


def _token_means(estimator: _Estimator, column: dict[str, Floats]) -> list[Estimate]:
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


def _sequence_means(estimator: _Estimator, sequences: _Sequences) -> list[Estimate]:
    counts = sequences.sums(np.ones(len(sequences.length)))
    totals = np.clip(sequences.total, -RATIO_CAP, RATIO_CAP)
    means = np.clip(sequences.total / sequences.length, -RATIO_CAP, RATIO_CAP)
    return [
        estimator.mean(name, "1", sequences.sums(np.expm1(2 * values)), counts, -1.0)
        for name, values in (("chi2_sequence_product", totals), ("chi2_sequence_geometric", means))
    ]


def _alternative_means(estimator: _Estimator, cells: Floats) -> list[Estimate]:
    count, agree, gap = cells.T
    if not count.any():
        return []
    return [
        estimator.share("top1_agreement", agree, count, count.sum()),
        estimator.mean("entropy_difference", "nats", gap, count),
    ]


def _tail(
    estimator: _Estimator, sums: Accumulator, threshold: float, effective_n: float
) -> Estimate:
    beyond = (
        sums.part("ups")[:, np.searchsorted(sums.ups, threshold)]
        + sums.part("downs")[:, np.searchsorted(sums.downs, threshold)]
    )
    count = sums.part("totals")[:, _COLUMN["count"]]
    return estimator.share("tail_fraction", beyond, count, effective_n)


def _token_clip(
    estimator: _Estimator,
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
        sums.part("totals")[:, _COLUMN["count"]]
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


def _range_label(low: float, high: float) -> str:
    return f"{low:g}–{high - 1:g}" if high < math.inf else f"≥ {low:g}"


def _breakdowns(estimator: _Estimator, sums: Accumulator) -> dict[str, tuple[Bin, ...]]:
    clusters, width = len(sums.sums), len(_BROKEN_DOWN)
    positions = sums.part("position").reshape(clusters, len(POSITION_EDGES), width)
    surprisals = sums.part("probability").reshape(clusters, _PROBABILITY_BINS, width)
    totals = sums.part("totals")[:, _BROKEN_DOWN]
    by_position = [
        estimator.bin(_range_label(low, high), low, high, positions[:, index])
        for index, (low, high) in enumerate(
            zip(POSITION_EDGES, (*POSITION_EDGES[1:], math.inf), strict=True)
        )
    ]
    by_probability = [
        estimator.bin(
            f"p {math.exp(-high):.2g}–{math.exp(-low):.2g}",
            math.exp(-high),
            math.exp(-low),
            surprisals[:, index],
        )
        for index, (low, high) in enumerate(pairwise(_SURPRISAL_EDGES))
    ]
    by_group = [
        estimator.bin(str(group), group, group + 1, totals[sums.group == group])
        for group in np.unique(sums.group[totals[:, 0] > 0]).tolist()
    ]
    return {
        name: tuple(entry for entry in bins if entry is not None)
        for name, bins in (
            ("position", by_position),
            ("behaviour_probability", by_probability),
            ("prompt_group", by_group),
        )
    }
