"""The names under which frameworks log the mismatch, and the metric that each one is."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Named:
    """One name that a framework logs.

    `metric` is the row of METRICS with the same number. `limited_by` is the metric whose limit fits
    where the profiles have none for its own. `note` is what a reader must know.
    """

    framework: str
    name: str
    metric: str
    limited_by: str | None = None
    label: str | None = None
    note: str = ""


OF_ITS_LOSS = "the clamp at 1.02 of its default loss (reinforce) lowers it wherever there is noise"
AFTER_ITS_CAP = "after the cap or mask of its correction"
OWN_CLIP = "the whole clip rate, which also counts what the policy changed since the rollout"
CLIP_RATE, TRUNCATED = "clip rate", "truncation share"

NAMES = (
    Named("verl", "rollout_corr/kl", "k1_kl", "mean_log_ratio"),
    Named("verl", "rollout_corr/k3_kl", "k3_kl"),
    Named("verl", "rollout_corr/chi2_token", "chi2_token"),
    Named("verl", "rollout_corr/chi2_seq", "chi2_sequence_product"),
    Named("verl", "rollout_corr/rollout_is_mean", "truncated_importance_ratio", note=AFTER_ITS_CAP),
    Named("verl", "rollout_corr/rollout_is_eff_sample_size", "ess_truncated"),
    Named("verl", "rollout_corr/rollout_is_ratio_fraction_high", "clip_fraction", label=TRUNCATED),
    Named("verl", "training/rollout_probs_diff_mean", "probability_difference"),
    Named("verl", "actor/pg_clipfrac", "clip_fraction", label=CLIP_RATE, note=OWN_CLIP),
    Named("TRL", "sampling/sampling_logp_difference/mean", "mean_abs_log_ratio"),
    Named(
        "TRL", "sampling/importance_sampling_ratio/mean", "truncated_importance_ratio",
        note=AFTER_ITS_CAP,
    ),
    Named("TRL", "clip_ratio/region_mean", "clip_fraction", label=CLIP_RATE, note=OWN_CLIP),
    Named("prime-rl", "mismatch_kl", "k3_kl"),
    Named("prime-rl", "mismatch_kl/mean", "k3_kl"),
    Named("prime-rl", "mismatch_kl/all/mean", "k3_kl"),
    Named("slime", "train/train_rollout_logprob_abs_diff", "mean_abs_log_ratio"),
    Named("slime", "train/tis", "sequence_importance_ratio", "mean_importance_ratio"),
    Named("slime", "train/tis_clipfrac", "clip_fraction", label=TRUNCATED),
    Named("slime", "train/mismatch_kl", "k1_kl", "mean_log_ratio"),
    Named("slime", "train/mismatch_k3_kl", "k3_kl"),
    Named("slime", "train/pg_clipfrac", "clip_fraction", label=CLIP_RATE, note=OWN_CLIP),
    Named("PipelineRL", "rl/kl_new_old", "k3_kl"),
    Named(
        "PipelineRL", "rl/ratio_new_old", "sequence_importance_ratio", "mean_importance_ratio",
        note=OF_ITS_LOSS,
    ),
    Named("PipelineRL", "rl/mean_abs_log_ratio_new_old", "mean_abs_log_ratio"),
    Named(
        "PipelineRL", "rl/clamp_log_ratio_new_old_indicator", "clip_fraction", label=CLIP_RATE,
        note=OWN_CLIP,
    ),
    Named("PipelineRL", "rl/ess", "ess"),
    Named("NeMo-RL", "gen_kl_error", "k3_kl"),
    Named("NeMo-RL", "policy_kl_error", "reverse_k3_kl"),
    Named("NeMo-RL", "token_mult_prob_error", "multiplicative_error"),
    Named(
        "NeMo-RL", "sampling_importance_ratio", "mean_importance_ratio",
        note="after the cap, where its loss has one",
    ),
    Named("SkyRL", "rollout_train_logprobs_abs_diff_mean", "mean_abs_log_ratio"),
    Named("SkyRL", "is_ratio_mean", "mean_importance_ratio"),
    Named("open-instruct", "debug/vllm_vs_local_logprob_diff_mean", "mean_abs_log_ratio"),
    Named("open-instruct", "policy/clipfrac_avg", "clip_fraction", label=CLIP_RATE, note=OWN_CLIP),
    Named("open-instruct", "val/rho_clipfrac", "clip_fraction", label=TRUNCATED),
    Named("OpenRLHF", "vllm_kl", "k1_kl", "mean_log_ratio"),
    Named("ROLL", "train_infer_ratio_token_mean", "sequence_importance_ratio",
          "mean_importance_ratio"),
    Named("ROLL", "actor/is_weight_clipfrac", "clip_fraction", label=TRUNCATED),
    Named("ms-swift", "rollout_correction/kl", "k1_kl", "mean_log_ratio"),
    Named("ms-swift", "rollout_correction/k3_kl", "k3_kl"),
    Named("ms-swift", "rollout_correction/chi2_token", "chi2_token"),
    Named("ms-swift", "rollout_correction/chi2_seq", "chi2_sequence_geometric"),
    Named("torchtitan", "bit_wise/logprob_diff/mean", "mean_log_ratio"),
    Named("torchtitan", "loss/ratio_mean", "mean_importance_ratio"),
    Named("torchtitan", "loss/ratio_clipped_frac", "clip_fraction", label=CLIP_RATE, note=OWN_CLIP),
    Named("Tinker", "optim/kl_sample_train_v1", "k1_kl", "mean_log_ratio"),
    Named("Tinker", "optim/kl_sample_train_v2", "k2_kl", "k3_kl"),
)  # fmt: skip

_LONGEST_FIRST = sorted(NAMES, key=lambda named: -len(named.name))
_PREFIXES = ("", "train_", "training_", "trainer_", "actor_", "policy_")
"""What trainers put before a name, where a file name has lost its slashes."""


def find(name: str) -> Named | None:
    """The row of a logged name, whatever groups come before it; None if it is not known."""
    whole = f"/{name}"
    return next((each for each in _LONGEST_FIRST if whole.endswith(f"/{each.name}")), None)


def find_mangled(tag: str) -> Named | None:
    """The row of a name in a file name, where `/` has become `_`."""
    return next(
        (
            each
            for each in _LONGEST_FIRST
            if tag in [f"{prefix}{_mangled(each.name)}" for prefix in _PREFIXES]
        ),
        None,
    )


def _mangled(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)
