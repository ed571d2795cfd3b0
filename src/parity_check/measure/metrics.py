"""Per-token quantities, and the METRICS table: the name and meaning of every number.

Δ is always logprob(evaluating engine) - logprob(behaviour engine) of the same token. The behaviour
engine, which sampled, is the denominator of every ratio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from parity_check.measure.invalid import IMPOSSIBLE
from parity_check.measure.stats import Floats, Ints

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PairedChunk:
    """Whole samples, paired token by token: flat arrays over tokens, split by `starts`.

    Sample s owns tokens `starts[s]:starts[s + 1]`; `cluster` and `group` [S] number what is
    independent (its prompt, unless clustered otherwise) and its prompt group; `prompt` [S] its
    prompt, None where that is its cluster. A missing logprob is NaN: `*_nulls` count the NaN that
    stand for missing logprobs, `*_voided` those of the `*_wrong_lengths` samples, whose logprobs do
    not match their tokens. Alternatives are [n, k], on both sides or on neither. `rollout` and
    `turn` [S] number the rollout of which a sample is a turn, and the turn; None where each sample
    is a whole rollout.
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
    behaviour_wrong_lengths: int = 0
    evaluating_wrong_lengths: int = 0
    behaviour_voided: int = 0
    evaluating_voided: int = 0
    prompt: I32 | None = None
    rollout: I32 | None = None
    turn: I32 | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the METRICS table: what a number means, and how to read it.

    `better` says which direction is good: close to `target`, lower, or higher. `gated` metrics have
    a limit in the profiles.
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
        "torchtitan logprob_diff/mean",
        "any bias of either engine: temperature, truncated support, penalties, precision",
    ),
    Metric(
        "rms_log_ratio", "RMS Δlogprob", "nats", "lower", 0.0, False,
        "sqrt(mean Δ²)", "Fast-LLM 525",
        "noise of either engine: precision, kernels, batch composition",
    ),
    Metric(
        "mean_abs_log_ratio", "mean |Δlogprob|", "nats", "lower", 0.0, False,
        "mean |Δ|",
        "TRL sampling_logp_difference/mean; slime train_rollout_logprob_abs_diff is the mean of "
        "each sequence's own",
        "the same noise, with less weight on outliers",
    ),
    Metric(
        "mean_importance_ratio", "mean importance ratio", "ratio", "target", 1.0, True,
        "mean exp Δ (Δ cut at ±20, as in verl)",
        "prime-rl importance_ratio, SkyRL is_ratio_mean; NeMo-RL sampling_importance_ratio where "
        "nothing is truncated",
        "only wrong logprobs recorded by the behaviour engine: raw logprobs, truncated support, "
        "shifted tokens",
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
        "noise and bias; dominated by a few tokens, so read it together with the tail fraction",
    ),
    Metric(
        "reverse_k3_kl", "k3 KL, roles swapped", "nats", "lower", 0.0, False,
        "mean (exp -Δ - 1 + Δ)",
        "NeMo-RL policy_kl_error",
        "dominated by tokens that are unlikely on the evaluating engine",
    ),
    Metric(
        "multiplicative_error", "multiplicative error", "ratio", "lower", 1.0, False,
        "mean exp|Δ|", "NeMo-RL token_mult_prob_error",
        "noise of either engine; NeMo-RL recommends investigating above 1.05",
    ),
    Metric(
        "tail_fraction", "tokens with |Δ| above the tail threshold", "share", "lower", 0.0, True,
        "share of tokens with |Δ| > threshold", "slime mis_catastrophic_token_fraction",
        "rare, large failures: routing flips, corrupted cache, overwritten rows",
    ),
    Metric(
        "burst_fraction", "samples with a burst", "share", "lower", 0.0, True,
        "share of samples in which at least a twentieth of the tokens has |Δ| > threshold",
        "SkyRL outlier_token_mask and TRL sequence_mask drop such samples",
        "failures of whole requests: a wrong adapter, a corrupted cache, an overwritten row",
    ),
    Metric(
        "burst_cluster_fraction", "clusters with a burst", "share", "lower", 0.0, True,
        "share of clusters (prompts, or stats.cluster_by) of whose samples over half have a burst",
        "the same, counted by cluster",
        "failures of all samples of a prompt: a corrupted prefix in the cache",
    ),
    Metric(
        "tail_sample_fraction", "samples with a token in the tail", "share", "lower", 0.0, False,
        "share of samples with any |Δ| > threshold", "the tail fraction, counted by sample",
        "as the tail fraction; grows with length if such tokens are isolated",
    ),
    Metric(
        "tail_cluster_fraction", "clusters with a token in the tail", "share", "lower", 0.0, False,
        "share of clusters with any |Δ| > threshold", "the tail fraction, counted by cluster",
        "as the tail fraction",
    ),
    Metric(
        "clip_fraction", "clip fraction of the objective", "share", "lower", 0.0, True,
        "what the configured objective's own counter would show at the first step",
        "per objective, see the table of objectives",
        "tails for token objectives, bias and length for sequence objectives",
    ),
    Metric(
        "ess", "effective sample size", "share", "higher", 1.0, True,
        "(Σ r)² / (n Σ r²)", "Kish 1965; PipelineRL rl/ess",
        "spread of the ratio; a few large ratios",
    ),
    Metric(
        "ess_truncated", "effective sample size, truncated", "share", "higher", 1.0, False,
        "(Σ w)² / (n Σ w²) with w = min(r, 2)", "verl rollout_corr/rollout_is_eff_sample_size",
        "spread of the ratio below the cap: the tail that ess shows is cut",
    ),
    Metric(
        "ess_sequence", "effective sample size, sequences", "share", "higher", 1.0, False,
        "(Σ w)² / (n Σ w²) with w = exp ΣΔ of each sequence (ΣΔ cut at ±20)", "Kish 1965",
        "bias and noise times length",
    ),
    Metric(
        "truncated_importance_ratio", "mean ratio, truncated", "ratio", "target", 1.0, False,
        "mean min(r, 2)",
        "NeMo-RL sampling_importance_ratio with tis, verl rollout_corr/rollout_is_mean",
        "as the mean ratio, without its upper tail",
    ),
    Metric(
        "sequence_importance_ratio", "mean ratio, by sequence", "ratio", "target", 1.0, False,
        "mean over sequences of each one's mean r",
        "PipelineRL rl/ratio_new_old (ppo, gspo), ROLL actor/train_infer_ratio_token_mean",
        "as the mean ratio; short sequences weigh as much as long ones",
    ),
    Metric(
        "clamped_importance_ratio", "mean ratio, clamped, by sequence", "ratio", "target", 1.0,
        False,
        "mean over sequences of each one's mean min(r, 1.02)",
        "PipelineRL rl/ratio_new_old (reinforce)",
        "below 1 wherever there is noise: what is above the clamp is cut, what is below stays",
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
        "noise on tokens of medium probability; verl suspects the engine above 0.01",
    ),
    Metric(
        "identical_fraction", "bit-identical tokens", "share", "higher", 1.0, False,
        "share of tokens whose two logprobs are the same float32",
        "torchtitan ratio_tokens_different, the complement",
        "any difference; batch-invariant engines reach 100 %",
    ),
    Metric(
        "impossible_fraction", "impossible tokens", "share", "lower", 0.0,
        True, f"share of sampled tokens with a behaviour logprob below {IMPOSSIBLE:g} nats",
        "one of 262,144 such tokens would be sampled once in five million tokens",
        "a sampler that returns random tokens; logprobs of another distribution",
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
        "the entropy curve that trainers log, from the recorded top-k",
        "temperature and truncation on one side",
    ),
)  # fmt: skip

METRICS: dict[str, Metric] = {row.name: row for row in _ROWS}

RATIO_CAP = 20.0
"""Exponentials clamp Δ to ± this (verl's SAFETY_BOUND): e^20 is a broken token, e^800 is inf."""

TRUNCATION_CAP = 2.0
"""Where verl, slime, SkyRL and open-instruct cut an importance weight by default."""
REINFORCE_CLAMP = 1.02
"""Where PipelineRL's default loss cuts the ratio (epsilon_high 2e-2 of conf/finetune/base.yaml)."""

COLUMNS = (
    "count", "log_ratio", "abs_log_ratio", "squared_log_ratio", "ratio", "squared_ratio", "k3",
    "reverse_k3", "multiplicative", "probability_difference", "identical", "deviation",
    "truncated_ratio", "squared_truncated_ratio", "clamped_ratio", "increased",
)  # fmt: skip
"""The per-token quantities that are summed, in the order of `token_columns`."""
COLUMN = {name: index for index, name in enumerate(COLUMNS)}


def token_columns(behaviour: F32, evaluating: F32) -> Floats:
    """All summed quantities of each token, float64 [columns, n], in the order of COLUMNS.

    k3 satisfies k3 = ratio - 1 - Δ and is never negative. exp Δ - 1 is computed by expm1, because
    for small |Δ| rounding would otherwise dominate k3.
    """
    n = len(behaviour)
    columns = np.empty((len(COLUMNS), n))
    count, delta, size, square, ratio, squared_ratio, k3, reverse, multiple, moved, same = columns[
        :11
    ]
    deviation, truncated, squared_truncated, clamped, increased = columns[11:]
    count[:] = 1.0
    np.subtract(evaluating, behaviour, out=delta, dtype=np.float64)
    np.abs(delta, out=size)
    np.square(delta, out=square)
    exponent = np.clip(delta, -RATIO_CAP, RATIO_CAP)
    np.expm1(exponent, out=k3)
    np.add(k3, 1.0, out=ratio)
    np.square(ratio, out=squared_ratio)
    np.abs(k3, out=deviation)
    np.multiply(deviation, np.exp(behaviour), out=moved)
    if (beyond := delta > RATIO_CAP).any():  # their p - p' is that of the logprobs, not cut
        moved[beyond] = np.exp(evaluating[beyond], dtype=np.float64) - np.exp(behaviour[beyond])
    np.minimum(ratio, TRUNCATION_CAP, out=truncated)
    np.square(truncated, out=squared_truncated)
    np.minimum(ratio, REINFORCE_CLAMP, out=clamped)
    np.greater(delta, 0.0, out=increased)
    k3 -= delta
    np.maximum(k3, 0.0, out=k3)
    np.expm1(-exponent, out=reverse)
    np.maximum(ratio, reverse + 1.0, out=multiple)
    reverse += delta
    np.maximum(reverse, 0.0, out=reverse)
    np.equal(delta, 0.0, out=same)
    return columns
