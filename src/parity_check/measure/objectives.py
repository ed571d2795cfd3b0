"""RL objectives: the table of what each framework clips, caps or masks, and how it counts it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from parity_check.errors import ConfigError, suggestion
from parity_check.measure.objective import (
    Advantage,
    Averaging,
    Counter,
    Level,
    Objective,
    Unit,
    Wiring,
)

__all__ = ["NOT_ESTIMATED", "OBJECTIVES", "VERSIONS", "Counter", "Objective", "choose_objective"]

VERSIONS = {
    "verl": "0.9.1, 1dda039b9",
    "TRL": "1.16.0, f2cd57710",
    "prime-rl": "559b44772",
    "slime": "624b824a8",
    "PipelineRL": "58d3934",
    "NeMo-RL": "7ea279abf",
    "SkyRL": "a9564572e",
    "open-instruct": "e6c3044aa",
    "OpenRLHF": "3c3be623",
    "ROLL": "8eb27cc2",
}
"""The version of each framework that the rows were read from and tested against."""


def _clip(
    name: str,
    label: str,
    low: float | None,
    high: float | None,
    counters: tuple[Counter, ...],
    source: str,
    sentence: str,
    *,
    wiring: Wiring = "bypass",
    level: Level = "token",
    averaging: Averaging = "token",
    high_counts: Advantage = "positive",
    low_counts: Advantage = "negative",
    unit: Unit = "ratio",
) -> Objective:
    return Objective(
        name, label, "clip", wiring, level, low, high, high_counts, low_counts, averaging,
        counters, source, sentence, unit,
    )  # fmt: skip


def _weight(
    name: str,
    label: str,
    kind: Literal["truncation", "mask"],
    level: Level,
    low: float | None,
    high: float | None,
    counters: tuple[Counter, ...],
    source: str,
    sentence: str,
    *,
    averaging: Averaging | None = None,
    high_counts: Advantage = "any",
    low_counts: Advantage = "any",
    unit: Unit = "ratio",
    wiring: Wiring = "recompute",
    moved: bool = False,
) -> Objective:
    averaging = averaging or ("token" if level == "token" else "sequence")
    return Objective(
        name, label, kind, wiring, level, low, high, high_counts, low_counts, averaging,
        counters, source, sentence, unit, moved,
    )  # fmt: skip


CORE = "verl/trainer/ppo/core_algos.py"
CORRECTION = "verl/trainer/ppo/rollout_corr_helper.py"
GRPO_TRAINER = "trl/trainer/grpo_trainer.py"
PRIME_LOSS = "src/prime_rl/trainer/rl/loss.py"
PPO_UTILS = "slime/utils/ppo_utils.py"
MEGATRON_LOSS = "slime/backends/megatron_utils/loss.py"
FINETUNE_RL = "pipelinerl/finetune/rl/__init__.py"
SKY_PPO = "skyrl/backends/skyrl_train/utils/ppo_utils.py"
SKY_CORRECTION = "skyrl/backends/skyrl_train/utils/off_policy_correction_utils.py"
GRPO_UTILS = "open_instruct/grpo_utils.py"
NEMO_LOSS = "nemo_rl/algorithms/loss/loss_functions.py"
ROLL_CORRECTIONS = "roll/utils/train_infer_corrections.py"

NOT_LOGGED = "TRL does not log it"
AT_FIRST_STEP = "TRL logs 0 at the first step: its ratio uses the trainer's own logprobs, without Δ"


def _verl(metric: str, function: str, file: str = CORE, difference: str = "") -> Counter:
    return Counter("verl", metric, function, file, difference)


def _vanilla(metric: str = "actor/pg_clipfrac") -> Counter:
    return _verl(metric, "compute_policy_loss_vanilla (loss_mode bypass_mode)")


def _rs(option: str, *, token: bool = False) -> Counter:
    share = "masked_fraction" if token else "seq_masked_fraction"
    metric = f"rollout_corr/rollout_rs_{option}_{share}"
    return _verl(metric, "compute_rollout_rejection_mask", CORRECTION)


def _trl(metric: str, function: str, difference: str) -> Counter:
    return Counter("TRL", metric, f"GRPOTrainer.{function}", GRPO_TRAINER, difference)


def _trl_correction(mode: str) -> Counter:
    function = "_generate_and_score_completions"
    return _trl(f"vllm_importance_sampling_mode {mode}", function, NOT_LOGGED)


def _sky(metric: str, function: str, file: str = SKY_CORRECTION) -> Counter:
    return Counter("SkyRL", metric, function, file)


def _slime(metric: str, function: str, file: str = PPO_UTILS, difference: str = "") -> Counter:
    return Counter("slime", metric, function, file, difference)


def _pipelinerl(loss: str) -> Counter:
    return Counter(
        "PipelineRL", "rl/clamp_log_ratio_new_old_indicator", f"rl_step (policy_loss {loss})",
        FINETUNE_RL,
    )  # fmt: skip


def _nemo(kind: str) -> Counter:
    return Counter("NeMo-RL", f"is_oob_ratio ({kind})", "ClippedPGLossFn.__call__", NEMO_LOSS)


def _roll(metric: str, difference: str = "") -> Counter:
    return Counter("ROLL", metric, "compute_train_infer_correction", ROLL_CORRECTIONS, difference)


PASS_RATE = "ROLL logs the share that passes: 1 minus this"
DPPO_SHARES = (
    "the share of the tokens passed to the function; prime-rl passes one sequence at a time and "
    "logs the mean"
)
OPENRLHF = Counter(
    "OpenRLHF", "vllm_is_correction_type", "PolicyLoss.forward", "openrlhf/models/loss.py",
    "OpenRLHF does not log it",
)  # fmt: skip

_TABLE = (
    _clip(
        "ppo", "PPO clip (verl)", 0.8, 1.2, (_vanilla(),),
        "arXiv 1707.06347; clip_ratio 0.2",
        "Tokens whose gradient the clip removes, averaged over tokens.",
    ),
    _clip(
        "grpo", "GRPO clip", 0.8, 1.2,
        (
            _vanilla(),
            Counter("OpenRLHF", "clip_ratio", "PolicyLoss.forward", "openrlhf/models/loss.py",
                    "of the ratio to its old logprobs: Δ enters with GSPO and IS correction"),
        ),
        "arXiv 2402.03300; verl clip_ratio 0.2",
        "Tokens whose gradient the clip removes, averaged over tokens.",
    ),
    _clip(
        "grpo-trl", "GRPO clip (TRL)", 0.8, 1.2,
        (_trl("clip_ratio/region_mean", "_compute_loss", AT_FIRST_STEP),),
        "arXiv 2402.03300; epsilon 0.2",
        "Tokens that TRL's edges would clip, averaged over tokens.",
        wiring="recompute",
    ),
    _clip(
        "delta-trl", "two-sided clip (TRL)", None, 4.0,
        (_trl("delta", "_compute_loss", NOT_LOGGED),),
        "INTELLECT-2, arXiv 2505.07291; TRL delta, off by default",
        "Tokens of negative advantage whose ratio the second edge caps.",
        wiring="recompute", high_counts="negative",
    ),
    _clip(
        "grpo-slime", "GRPO clip (slime)", 0.8, 1.2,
        (_slime("pg_clipfrac", "compute_policy_loss"),),
        "eps_clip 0.2, with --use-rollout-logprobs",
        "As grpo, but the mean of each sequence's own share.",
        averaging="sequence",
    ),
    _clip(
        "grpo-open-instruct", "DAPO clip (open-instruct)", 0.8, 1.272,
        (Counter("open-instruct", "policy/clipfrac_avg", "compute_grpo_loss", GRPO_UTILS),),
        "clip_lower 0.2, clip_higher 0.272, with use_vllm_logprobs",
        "As grpo-slime, with a wider band above 1 than below.",
        averaging="sequence",
    ),
    _clip(
        "reinforce-pipelinerl", "REINFORCE clamp (PipelineRL)", None, 1.02,
        (_pipelinerl("reinforce"),),
        "its default loss; conf/finetune/base.yaml, epsilon 2e-2",
        "Tokens above the edge, for any advantage; the mean of each sequence's share.",
        averaging="sequence", high_counts="any", low_counts="any",
    ),
    _clip(
        "ppo-pipelinerl", "PPO clamp (PipelineRL)", 0.98, 1.02, (_pipelinerl("ppo"),),
        "conf/finetune/base.yaml, epsilon 2e-2",
        "Tokens outside the band, for any advantage; the mean of each sequence's share.",
        averaging="sequence", high_counts="any", low_counts="any",
    ),
    _clip(
        "dapo", "DAPO clip-higher", 0.8, 1.28, (_vanilla(),),
        "arXiv 2503.14476; NeMo-RL DAPO recipe, SkyRL, 0.2 / 0.28",
        "PPO's clip with a wider band above 1 than below.",
    ),
    _clip(
        "dual-clip", "dual clip (verl)", None, 3.0, (_vanilla("actor/pg_clipfrac_lower"),),
        "arXiv 1912.09729; clip_ratio_c 3.0",
        "Tokens of negative advantage whose loss is bounded by the second clip.",
        high_counts="negative",
    ),
    _clip(
        "dppo", "DPPO binary-TV mask (prime-rl)", -0.2, 0.2,
        (Counter("prime-rl", "is_masked", "default_loss_fn", PRIME_LOSS, DPPO_SHARES),),
        "arXiv 2602.04879; dppo_mask_low and dppo_mask_high 0.2",
        "Tokens masked because their probability moved too far along their advantage.",
        unit="probability difference",
    ),
    _clip(
        "dppo-tv", "DPPO binary TV (verl, SkyRL)", -0.2, 0.2,
        (
            _verl("actor/pg_clipfrac", "compute_policy_loss_dppo_tv"),
            _sky("clip_ratio (binary_tv)", "dppo_policy_loss", SKY_PPO),
        ),
        "arXiv 2602.04879; verl clip_ratio 0.2, SkyRL delta_low and delta_high 0.2",
        "As dppo.",
        unit="probability difference",
    ),
    _clip(
        "dppo-kl", "DPPO binary KL (verl, SkyRL)", -0.2, 0.2,
        (
            _verl("actor/pg_clipfrac", "compute_policy_loss_dppo_kl"),
            _sky("clip_ratio (binary_kl)", "dppo_policy_loss", SKY_PPO),
        ),
        "arXiv 2602.04879; verl clip_ratio 0.2, SkyRL delta_low and delta_high 0.2",
        "Tokens masked because their binary KL is too large, along their advantage.",
        unit="binary KL",
    ),
    _clip(
        "ipo", "IPO trust region (prime-rl)", -0.1, 0.1,
        (Counter("prime-rl", "is_masked (ipo)", "ipo_loss_fn", PRIME_LOSS, DPPO_SHARES),),
        "ipo_threshold 0.1",
        "Tokens masked because their probability moved too far, for any advantage.",
        high_counts="any", low_counts="any", unit="probability difference",
    ),
    _clip(
        "rollout-is-skyrl", "rollout_is band (SkyRL)", 0.8, 1.2,
        (_sky("clip_ratio (rollout_is)", "rollout_is_policy_loss", SKY_PPO),),
        "eps_clip_low and eps_clip_high 0.2",
        "Tokens whose weight is zeroed because their ratio is outside the band, or on its edge.",
        high_counts="any", low_counts="any",
    ),
    _clip(
        "gspo", "GSPO clip (slime)", 1 - 3e-4, 1 + 4e-4,
        (_slime("pg_clipfrac", "compute_gspo_kl, compute_policy_loss"),),
        "arXiv 2507.18071, 3e-4 / 4e-4; slime with --use-rollout-logprobs",
        "Sequences whose gradient the clip removes, by their geometric mean ratio; each counts "
        "once.",
        level="sequence-mean", averaging="sequence",
    ),
    _clip(
        "gspo-trl", "GSPO clip (TRL)", 1 - 3e-4, 1 + 4e-4,
        (_trl("clip_ratio/region_mean", "_compute_loss", AT_FIRST_STEP),),
        "arXiv 2507.18071; TRL paper index, 3e-4 / 4e-4",
        "Sequences whose geometric mean ratio TRL's edges would clip; each counts once.",
        wiring="recompute", level="sequence-mean", averaging="sequence",
    ),
    _clip(
        "gspo-verl", "GSPO clip (verl)", 1 - 3e-4, 1 + 4e-4,
        (
            _verl("actor/pg_clipfrac", "compute_policy_loss_gspo"),
            Counter("OpenRLHF", "clip_ratio (gspo)", "PolicyLoss.forward",
                    "openrlhf/models/loss.py"),
        ),
        "arXiv 2507.18071; verl examples/gspo_trainer, 3e-4 / 4e-4",
        "As gspo, but each sequence is weighted by its number of tokens.",
        level="sequence-mean",
    ),
    _clip(
        "gspo-pipelinerl", "GSPO clamp (PipelineRL)", 1 - 3e-3, 1 + 4e-3, (_pipelinerl("gspo"),),
        "ServiceNow's GSPO runs (branches fast-llm, terminal), 3e-3 / 4e-3",
        "Sequences outside a band ten times as wide as the paper's, for any advantage.",
        level="sequence-mean", averaging="sequence", high_counts="any", low_counts="any",
    ),
    _clip(
        "cispo", "CISPO cap (verl)", 0.0, 6.0,
        (
            _verl("actor/pg_clipfrac", "compute_policy_loss_cispo"),
            _sky("clip_ratio (cispo)", "compute_policy_loss_cispo", SKY_PPO),
        ),
        "arXiv 2506.13585; NeMo-RL's recipe 1.0 / 5.0, edges relative to 1",
        "Tokens whose weight is capped; they keep a gradient.",
        high_counts="any", low_counts="any",
    ),
    _clip(
        "cispo-slime", "CISPO cap (slime)", 0.0, 6.0,
        (_slime("pg_clipfrac (cispo)", "compute_cispo_loss", PPO_UTILS,
                "with --calculate-per-token-loss, cispo is slime's number"),),
        "arXiv 2506.13585; edges as cispo, slime has no default",
        "As cispo, but the mean of each sequence's own share.",
        averaging="sequence", high_counts="any", low_counts="any",
    ),
    _clip(
        "cispo-trl", "CISPO cap (TRL)", None, 5.0,
        (_trl("cispo_clip_ratio", "_compute_loss", AT_FIRST_STEP),),
        "epsilon_high 5.0, an absolute ratio",
        "Tokens of positive advantage whose weight TRL's cap would truncate; the edge is the "
        "ratio itself.",
        wiring="recompute",
    ),
    _clip(
        "gmpo", "GMPO clip (verl)", -0.4, 0.4,
        (_verl("actor/pg_clipfrac (geo_mean)", "compute_policy_loss_geo_mean"),),
        "arXiv 2507.20673; bounds on the log ratio",
        "Tokens of positive advantage whose log ratio is clamped, on either side.",
        low_counts="positive", unit="log ratio",
    ),
    _weight(
        "tis-token", "TIS, token", "truncation", "token", None, 2.0,
        (
            _verl("rollout_corr/rollout_is_ratio_fraction_high", "compute_is_metrics", CORRECTION),
            _sky("tis_token_clip_high_ratio", "compute_tis_ratio"),
            _nemo("tis"),
            _slime("tis_clipfrac", "vanilla_tis_function", MEGATRON_LOSS,
                   "with --calculate-per-token-loss; tis-slime otherwise"),
        ),
        "Yao et al. 2025; cap 2 in verl, slime, SkyRL, open-instruct",
        "Tokens whose importance weight is truncated at the cap.",
    ),
    _weight(
        "tis-slime", "TIS, token (slime)", "truncation", "token", None, 2.0,
        (
            _slime("tis_clipfrac", "vanilla_tis_function", MEGATRON_LOSS),
            Counter("open-instruct", "val/rho_clipfrac", "compute_rho_correction", GRPO_UTILS),
        ),
        "tis_clip 2.0, tis_clip_low 0; open-instruct rho_clamp_upper_bound 2.0",
        "As tis-token, but the mean of each sequence's own share.",
        averaging="sequence",
    ),
    _weight(
        "tis-roll", "TIS, token (ROLL)", "truncation", "token", None, 1.2,
        (_roll("actor/is_weight_clipfrac"),),
        "TrainInferISWeightConfig.upper_bound 1.2",
        "Tokens whose importance weight is truncated at the cap.",
    ),
    _weight(
        "tis-openrlhf", "TIS, token (OpenRLHF)", "truncation", "token", 0.5, 5.0, (OPENRLHF,),
        "vllm_is_truncated_threshold 0.5 to 5.0",
        "Tokens whose importance weight is clamped, on either side.",
    ),
    _weight(
        "tis-sequence", "TIS, sequence", "truncation", "sequence-sum", None, 2.0,
        (_verl("rollout_corr/rollout_is_ratio_fraction_high (sequence)", "compute_is_metrics",
               CORRECTION),),
        "rollout_is_threshold 2",
        "Sequences whose product of ratios is truncated at the cap; grows with length.",
    ),
    _weight(
        "tis-sequence-skyrl", "TIS, sequence (SkyRL)", "truncation", "sequence-sum", None, 5.0,
        (_sky("tis_seq_clip_high_ratio", "compute_tis_ratio"),),
        "sequence_tis_ratio_clip_high 5.0",
        "Sequences whose product of ratios is truncated at the cap.",
    ),
    _weight(
        "tis-sequence-trl", "TIS, sequence (TRL)", "truncation", "sequence-sum", None, 3.0,
        (_trl_correction("sequence_truncate"),),
        "vllm_importance_sampling_clip_max 3.0",
        "Sequences whose product of ratios is truncated at the cap.",
    ),
    _weight(
        "mis", "MIS, sequence mask (TRL)", "mask", "sequence-sum", None, 3.0,
        (_trl_correction("sequence_mask"),),
        "vllm_importance_sampling_clip_max 3.0, on by default",
        "Sequences dropped because their product of ratios is above the cap.",
    ),
    _weight(
        "token-mask-trl", "token mask (TRL)", "mask", "token", None, 3.0,
        (_trl_correction("token_mask"),),
        "vllm_importance_sampling_clip_max 3.0",
        "Tokens dropped because their ratio is above the cap.",
    ),
    _weight(
        "opsm-trl", "off-policy sequence mask (TRL)", "mask", "sequence-mean", -0.5, None,
        (_trl("off_policy_mask_threshold", "get_off_policy_mask", NOT_LOGGED),),
        "DeepSeek-V3.2; off_policy_mask_threshold, off by default, 0.5 in its paper index",
        "Sequences of negative advantage dropped because their mean -Δ is above the threshold.",
        low_counts="negative", unit="log ratio",
    ),
    _weight(
        "opsm-slime", "off-policy sequence mask (slime)", "mask", "sequence-mean", -1e-4, None,
        (_slime("opsm_clipfrac", "compute_opsm_mask", PPO_UTILS,
                "slime adds tool tokens only to the numerator, so a masked rollout with tools "
                "counts more than once"),),
        "opsm_delta 1e-4, with --use-rollout-logprobs",
        "Sequences of negative advantage dropped because their mean -Δ is above the threshold.",
        low_counts="negative", unit="log ratio", wiring="bypass",
    ),
    _weight(
        "icepop", "IcePop", "mask", "token", 0.5, 5.0,
        (
            _nemo("icepop"),
            _verl("rollout_corr/rollout_is_oob_ratio", "compute_rollout_correction_weights",
                  CORRECTION),
            OPENRLHF,
        ),
        "Ring-1T IcePop; verl, NeMo-RL and OpenRLHF, 0.5 to 5.0",
        "Tokens whose gradient is zeroed because their ratio is outside the band.",
    ),
    _weight(
        "icepop-slime", "IcePop (slime)", "mask", "token", 0.5, 5.0,
        (_slime("tis_clipfrac (icepop)", "icepop_function", MEGATRON_LOSS),),
        "edges as icepop: tis_clip_low 0.5, tis_clip 5",
        "As icepop, but the mean of each sequence's own share.",
        averaging="sequence",
    ),
    _weight(
        "token-mask-skyrl", "token mask (SkyRL)", "mask", "token", 0.5, 2.0,
        (_sky("token_mask_ratio", "compute_token_mask"),),
        "docs: token_mask_is_threshold_low 0.5, token_mask_is_threshold_high 2.0",
        "Tokens dropped because their ratio is outside the band.",
    ),
    _weight(
        "outlier-mask-skyrl", "outlier token mask (SkyRL)", "mask", "sequence-extreme", 1e-4, 100.0,
        (_sky("outlier_seq_masked_ratio", "compute_outlier_token_mask"),),
        "docs: outlier_token_is_threshold_low 1e-4, outlier_token_is_threshold_high 100",
        "Sequences dropped because of any one token's ratio.",
    ),
    _weight(
        "product-mask-skyrl", "product mask (SkyRL)", "mask", "sequence-sum", 0.5, 2.0,
        (_sky("product_sequence_mask_masked_ratio", "compute_sequence_mask"),),
        "product_mask_low 0.5, product_mask_high 2.0",
        "Sequences dropped because their product of ratios is outside the band.",
    ),
    _weight(
        "geometric-mask-skyrl", "geometric mask (SkyRL)", "mask", "sequence-mean", 0.99, 1.01,
        (_sky("geo_sequence_mask_masked_ratio", "compute_sequence_mask"),),
        "geo_mask_low 0.99, geo_mask_high 1.01",
        "Sequences dropped because their geometric mean ratio is outside the band.",
    ),
    _weight(
        "seq-mask-tis", "geometric mask (NeMo-RL)", "mask", "sequence-mean", 0.999, 1.002,
        (_nemo("seq-mask-tis"),),
        "reference bounds 0.999 to 1.002",
        "Sequences dropped because their geometric mean ratio is outside the band.",
    ),
    _weight(
        "filter-roll", "ratio filter (ROLL)", "mask", "token", 0.8, 1.2,
        (_roll("actor/train_infer_token_ratio_mask_mean", PASS_RATE),),
        "TrainInferFilterConfig, ratio_low 0.8, ratio_high 1.2",
        "Tokens dropped because their ratio is outside the band.",
    ),
    _weight(
        "difference-filter-roll", "difference filter (ROLL)", "mask", "token", -0.2, 0.2,
        (_roll("actor/train_infer_token_diff_mask_mean", PASS_RATE),),
        "TrainInferFilterConfig, diff_low -0.2, diff_high 0.2",
        "Tokens dropped because their probability moved too far.",
        unit="probability difference",
    ),
    _weight(
        "tv-mask-open-instruct", "TV mask (open-instruct)", "mask", "sequence-mean", None, 0.5,
        (Counter("open-instruct", "val/rho_drop_frac (rho_mask_tv_divergence)",
                 "compute_rho_correction", GRPO_UTILS),),
        "VACO, arXiv 2603.01365; rho_mask_upper_bound, off by default",
        "Tokens that moved along their advantage, in sequences whose mean |ratio - 1| is above the "
        "bound; the mean of each sequence's share.",
        unit="deviation", high_counts="positive", low_counts="negative", moved=True,
    ),
    _weight(
        "geometric-mask", "geometric mask (verl)", "mask", "sequence-mean", 0.999, 1.001,
        (_rs("seq_mean_k1"),),
        "docs/algo/rollout_corr.md, preset 0.999_1.001",
        "Sequences dropped because the inverse of their geometric mean ratio, rollout over "
        "trainer, is outside the band.",
        unit="inverse ratio",
    ),
    _weight(
        "rs-token-k1", "RS token_k1 (verl)", "mask", "token", 0.5, 2.0,
        (_rs("token_k1", token=True),),
        "docs/algo/rollout_corr.md, 0.5_2.0",
        "Tokens dropped because their inverse ratio, rollout over trainer, is outside the band.",
        unit="inverse ratio",
    ),
    _weight(
        "rs-token-k2", "RS token_k2 (verl)", "mask", "token", None, 0.5,
        (_rs("token_k2", token=True),),
        "verl has no preset; |Δ| above 1",
        "Tokens dropped because of their Δ²/2.",
        unit="k2",
    ),
    _weight(
        "rs-token-k3", "RS token_k3 (verl)", "mask", "token", None, 0.5,
        (_rs("token_k3", token=True),),
        "verl has no preset",
        "Tokens dropped because of their exp Δ - 1 - Δ.",
        unit="k3",
    ),
    _weight(
        "rs-seq-sum-k1", "RS seq_sum_k1 (verl)", "mask", "sequence-sum", 0.5, 2.0,
        (_rs("seq_sum_k1"),),
        "preset decoupled_seq_is_rs, 0.5_2.0",
        "Sequences dropped because the inverse of their product of ratios is outside the band.",
        unit="inverse ratio",
    ),
    _weight(
        "rs-seq-sum-k2", "RS seq_sum_k2 (verl)", "mask", "sequence-sum", None, 1.0,
        (_rs("seq_sum_k2"),),
        "verl has no preset",
        "Sequences dropped because of the sum of their Δ²/2.",
        unit="k2",
    ),
    _weight(
        "rs-seq-sum-k3", "RS seq_sum_k3 (verl)", "mask", "sequence-sum", None, 1.0,
        (_rs("seq_sum_k3"),),
        "verl has no preset",
        "Sequences dropped because of the sum of their exp Δ - 1 - Δ.",
        unit="k3",
    ),
    _weight(
        "rs-seq-mean-k2", "RS seq_mean_k2 (verl)", "mask", "sequence-mean", None, 0.01,
        (_rs("seq_mean_k2"),),
        "as seq_mean_k3",
        "Sequences dropped because of the mean of their Δ²/2.",
        unit="k2",
    ),
    _weight(
        "rs-seq-mean-k3", "RS seq_mean_k3 (verl)", "mask", "sequence-mean", None, 0.01,
        (_rs("seq_mean_k3"),),
        "preset decoupled_k3_rs, 0.01",
        "Sequences dropped because of the mean of their exp Δ - 1 - Δ.",
        unit="k3",
    ),
    _weight(
        "rs-seq-max-k2", "RS seq_max_k2 (verl)", "mask", "sequence-extreme", None, 2.5,
        (_rs("seq_max_k2"),),
        "docs/algo/rollout_corr.md, 2.5",
        "Sequences dropped because of their largest Δ²/2.",
        unit="k2",
    ),
    _weight(
        "rs-seq-max-k3", "RS seq_max_k3 (verl)", "mask", "sequence-extreme", None, 2.5,
        (_rs("seq_max_k3"),),
        "as seq_max_k2",
        "Sequences dropped because of their largest exp Δ - 1 - Δ.",
        unit="k3",
    ),
)  # fmt: skip

OBJECTIVES: dict[str, Objective] = {row.name: row for row in _TABLE}

NOT_ESTIMATED = (
    (_verl("actor/pg_clipfrac (clip_cov)", "compute_policy_loss_clip_cov"),
     "counts random tokens, chosen by the covariance of advantage and logprob, at most a share of "
     "clip_cov_ratio (2e-4): it needs the advantages and hardly depends on Δ"),
    (_sky("clip_ratio (clip_cov)", "compute_policy_loss_clip_cov", SKY_PPO), "as verl's"),
)  # fmt: skip
"""Counters that no row can reproduce, and why."""


def choose_objective(
    kind: str, epsilon_low: float | None = None, epsilon_high: float | None = None
) -> Objective:
    """The named row, with the user's ε if given.

    An ε of a clip is a distance from 1 (from 0 where the edges lie around 0); for a cap or mask,
    and for clips whose frameworks take the edge itself, it is the edge. Raises ConfigError.
    """
    row = OBJECTIVES.get(kind)
    if row is None:
        raise ConfigError(f"unknown objective {kind!r}", hint=suggestion(kind, OBJECTIVES))
    given = {"low": epsilon_low, "high": epsilon_high}
    for side, epsilon in given.items():
        if epsilon is None:
            continue
        if not (epsilon > 0.0 and math.isfinite(epsilon)):
            raise ConfigError(f"objective.epsilon_{side}: must be > 0 (got {epsilon:g})")
        if getattr(row, side) is None:
            raise ConfigError(f"objective.epsilon_{side}: {kind} has no {side} edge")
    low = row.low if epsilon_low is None else _edge(row, -epsilon_low)
    high = row.high if epsilon_high is None else _edge(row, epsilon_high)
    if (low, high) == (row.low, row.high):
        return row
    if low is not None and high is not None and low >= high:
        raise ConfigError(f"objective: the band from {low:g} to {high:g} is empty")
    return replace(row, low=low, high=high, source=f"config; counted as {row.counter}")


def _edge(row: Objective, epsilon: float) -> float:
    if row.unit in ("log ratio", "probability difference", "binary KL"):
        return epsilon
    if row.kind == "clip" and row.name not in ("cispo-trl", "delta-trl", "dual-clip"):
        return 1.0 + epsilon
    return abs(epsilon)
