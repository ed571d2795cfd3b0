"""Per-token metrics of one sampling direction, summed per prompt while the tokens stream by.

Δ is always logprob(evaluating engine) - logprob(behaviour engine) of the same token, and the
behaviour engine, which sampled, is the denominator of every ratio. Memory does not grow with the
number of tokens: what is kept is one row of sums a prompt, one row a sample, and one histogram.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
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
        "mean exp Δ (Δ cut at 20, as in verl)",
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
        "noise and bias alike; a few tokens that the evaluating engine likes carry it",
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
        "mean over sequences of exp(2 ΣΔ) - 1 (ΣΔ cut at 20)", "verl rollout_corr/chi2_seq",
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
"""Exponentials take Δ up to this (verl's SAFETY_BOUND): e^20 is a broken token, e^800 is inf."""

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
    np.expm1(np.minimum(delta, RATIO_CAP), out=k3)
    np.add(k3, 1.0, out=ratio)
    np.square(ratio, out=squared_ratio)
    np.abs(k3, out=moved)
    moved *= np.exp(behaviour)
    k3 -= delta
    np.maximum(k3, 0.0, out=k3)
    np.expm1(np.minimum(-delta, RATIO_CAP), out=reverse)
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
        return next(estimate for estimate in self.estimates if estimate.name == name)


class Accumulator:
    """Sums over the chunks seen so far; `estimates` them when asked."""

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
            self._add_block(chunk, first, last, usable)

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
        sides = {
            "behaviour": (chunk.behaviour_logprob, chunk.evaluating_logprob),
            "evaluating": (chunk.evaluating_logprob, chunk.behaviour_logprob),
        }
        nulls = {"behaviour": chunk.behaviour_nulls, "evaluating": chunk.evaluating_nulls}
        usable: NDArray[np.bool_] | None = None
        for side, (ours, theirs) in sides.items():
            if not hygiene.looks_clean(ours):
                self.defects[side].update(hygiene.count_values(ours, nulls[side]))
                good = hygiene.usable_values(ours)
                usable = good if usable is None else usable & good
            padded = hygiene.padding(ours, theirs, chunk.starts)
            if padded is not None:
                self.defects[side]["zero_run"] += int(padded.sum())
                usable = ~padded if usable is None else usable & ~padded
        for side, (ids, logprobs) in {
            "behaviour": (chunk.behaviour_top_ids, chunk.behaviour_top_logprobs),
            "evaluating": (chunk.evaluating_top_ids, chunk.evaluating_top_logprobs),
        }.items():
            if ids is not None and logprobs is not None:
                self.defects[side].update(
                    hygiene.count_alternatives(ids, logprobs, chunk.token_ids, sides[side][0])
                )
        if usable is not None:
            self.excluded += int(np.count_nonzero(~usable))
        return usable

    def _add_block(
        self, chunk: PairedChunk, first: int, last: int, usable: NDArray[np.bool_] | None
    ) -> None:
        """Add samples `first` to `last`, leaving out tokens that are not usable."""
        size = last - first
        cluster = chunk.cluster[first:last]
        starts = chunk.starts[first : last + 1] - chunk.starts[first]
        tokens = slice(int(chunk.starts[first]), int(chunk.starts[last]))
        behaviour, evaluating = chunk.behaviour_logprob[tokens], chunk.evaluating_logprob[tokens]
        begin, sample, position = _segments(starts)
        keep = None if usable is None else usable[tokens]
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
            differing = np.flatnonzero(columns[_COLUMN["identical"]] == 0.0)
            found = np.searchsorted(differing, starts)
            has = found[:-1] < found[1:]
            where = differing[found[:-1][has]]
            if keep is not None:
                where = np.flatnonzero(keep)[where]
            origin = chunk.starts[first:last][has] - chunk.starts[first]
            first_differing[has] = where - origin
            rows[:, self.parts["alternatives"]] = _alternatives(chunk, tokens, keep, owner, size)
        np.add.at(self.sums, cluster, rows)
        self.sequences.append((cluster, lengths, rows[:, _COLUMN["log_ratio"]].copy(), first_differing))

    def _count_thresholds(
        self, rows: Floats, columns: Floats, owner: Ints, lengths: Ints
    ) -> None:
        beyond = np.flatnonzero(
            columns[_COLUMN["abs_log_ratio"]] > min(self.ups[0], self.downs[0])
        )
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
    sums = [np.bincount(index, weights=columns[column], minlength=cells) for column in _BROKEN_DOWN]
    return np.stack(sums, axis=1).reshape(size, -1)


def _alternatives(
    chunk: PairedChunk, tokens: slice, keep: NDArray[np.bool_] | None, owner: Ints, size: int
) -> Floats:
    """Per sample: tokens with alternatives on both sides, agreeing ones, sum of the entropy gap."""
    ids = (chunk.behaviour_top_ids, chunk.evaluating_top_ids)
    logprobs = (chunk.behaviour_top_logprobs, chunk.evaluating_top_logprobs)
    if ids[0] is None or ids[1] is None or logprobs[0] is None or logprobs[1] is None:
        return np.zeros((size, 3))
    best, entropy, there = [], [], []
    for side in (0, 1):
        theirs = ids[side][tokens], logprobs[side][tokens]
        which, values = theirs if keep is None else (theirs[0][keep], theirs[1][keep])
        values = np.where((which >= 0) & (values <= hygiene.ROUNDING), values, -np.inf)
        best.append(np.take_along_axis(which, values.argmax(axis=1)[:, None], axis=1)[:, 0])
        there.append(values.max(axis=1) > hygiene.FLOOR)
        entropy.append(renormalised_entropy(values))
    both = there[0] & there[1]
    owner = owner[both]
    gap = (entropy[1] - entropy[0])[both]
    agree = (best[0] == best[1])[both]
    return np.stack(
        [np.bincount(owner, weights=w, minlength=size) for w in (np.ones(len(owner)), agree, gap)],
        axis=1,
    )


def renormalised_entropy(logprobs: NDArray[np.float32]) -> Floats:
    """Entropy [n] of the recorded alternatives (logprobs [n, k], -inf for none), renormalised. Nats."""
    top = np.maximum(logprobs.max(axis=1, keepdims=True), hygiene.FLOOR)
    weights = np.exp((logprobs - top).astype(np.float64))
    total = weights.sum(axis=1)
    shifted = np.where(weights > 0.0, logprobs - top, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(total) - (weights * shifted).sum(axis=1) / total
