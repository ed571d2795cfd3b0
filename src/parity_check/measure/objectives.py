"""RL objectives: where each one clips, caps or masks the ratio, and how its framework counts it.

All these frameworks compare strictly: a ratio exactly on an edge is not clipped. Bands and caps are
compared in log space, on the exact difference of the two float32 logprobs.

`wiring` says what the number means for a run. In a `bypass` loss the ratio is trainer over rollout
engine, so engine mismatch enters the ratio, and the number is the objective's clip rate at the
first step. In a `recompute` loss the ratio is 1 at the first step, and mismatch enters only through
an importance weight: the number is the share of weights that would change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from parity_check.errors import ConfigError, suggestion
from parity_check.measure.stats import Floats, Ints

Level: TypeAlias = Literal["token", "sequence-mean", "sequence-sum"]
Advantage: TypeAlias = Literal["any", "positive", "negative"]


@dataclass(frozen=True, slots=True)
class Objective:
    """One row: an objective, as one framework counts it.

    `level` says which log ratio is compared: a token's, or a sequence's mean (geometric mean ratio)
    or sum (product ratio). `low` and `high` are edges of that ratio, or of its log when `unit` is
    "log ratio"; None is an open side. `high_counts` and `low_counts` are the sign of the advantage
    for which the framework counts a crossing. `averaging`: over tokens, or with the same weight for
    each sequence.
    """

    name: str
    label: str
    kind: Literal["clip", "truncation", "mask"]
    wiring: Literal["bypass", "recompute"]
    level: Level
    low: float | None
    high: float | None
    high_counts: Advantage
    low_counts: Advantage
    averaging: Literal["token", "sequence"]
    counter: str
    source: str
    sentence: str
    unit: Literal["ratio", "log ratio"] = "ratio"

    def log_edges(self) -> tuple[float, float]:
        """Edges of the log ratio in nats, infinite for an open side."""
        if self.unit == "log ratio":
            return (
                -math.inf if self.low is None else self.low,
                math.inf if self.high is None else self.high,
            )
        low = -math.inf if self.low is None or self.low <= 0.0 else math.log(self.low)
        return low, math.inf if self.high is None else math.log(self.high)

    def counted(self, low: Floats, high: Floats, positive_share: float) -> Floats:
        """The expected count of the framework's counter, from `low` and `high` counts."""
        weight = {"any": 1.0, "positive": positive_share, "negative": 1.0 - positive_share}
        return weight[self.low_counts] * low + weight[self.high_counts] * high


def _clip(
    name: str,
    label: str,
    low: float | None,
    high: float | None,
    counter: str,
    source: str,
    sentence: str,
    *,
    level: Level = "token",
    averaging: Literal["token", "sequence"] = "token",
    high_counts: Advantage = "positive",
    low_counts: Advantage = "negative",
    unit: Literal["ratio", "log ratio"] = "ratio",
) -> Objective:
    return Objective(
        name, label, "clip", "bypass", level, low, high, high_counts, low_counts, averaging,
        counter, source, sentence, unit,
    )  # fmt: skip


def _weight(
    name: str,
    label: str,
    kind: Literal["truncation", "mask"],
    level: Level,
    low: float | None,
    high: float,
    counter: str,
    source: str,
    sentence: str,
) -> Objective:
    averaging: Literal["token", "sequence"] = "token" if level == "token" else "sequence"
    return Objective(
        name, label, kind, "recompute", level, low, high, "any", "any", averaging,
        counter, source, sentence,
    )  # fmt: skip


_TABLE = (
    _clip(
        "ppo", "PPO clip (verl)", 0.8, 1.2, "verl actor/pg_clipfrac",
        "arXiv 1707.06347; verl core_algos.py, clip_ratio 0.2",
        "Tokens whose gradient the clip removes, averaged over tokens.",
    ),
    _clip(
        "grpo", "GRPO clip (TRL)", 0.8, 1.2, "TRL clip_ratio/region_mean",
        "arXiv 2402.03300; TRL grpo_trainer.py, epsilon 0.2",
        "Tokens whose gradient the clip removes, averaged over tokens.",
    ),
    _clip(
        "grpo-slime", "GRPO clip (slime)", 0.8, 1.2, "slime pg_clipfrac",
        "slime ppo_utils.py, eps_clip 0.2",
        "As grpo, but the mean of each sequence's own share.",
        averaging="sequence",
    ),
    _clip(
        "ppo-pipelinerl", "PPO clamp (PipelineRL)", 0.98, 1.02,
        "PipelineRL clamp_log_ratio_new_old_indicator",
        "PipelineRL finetune/rl, conf/finetune/base.yaml, epsilon 2e-2",
        "Tokens outside the band, for any advantage; the mean of each sequence's share.",
        averaging="sequence", high_counts="any", low_counts="any",
    ),
    _clip(
        "dapo", "DAPO clip-higher", 0.8, 1.28, "TRL clip_ratio/region_mean",
        "arXiv 2503.14476; NeMo-RL DAPO recipe, SkyRL, 0.2 / 0.28",
        "PPO's clip with a wider band above 1 than below.",
    ),
    _clip(
        "dual-clip", "dual clip (verl)", None, 3.0, "verl actor/pg_clipfrac_lower",
        "arXiv 1912.09729; verl clip_ratio_c 3.0",
        "Tokens of negative advantage whose loss is bounded by the second clip.",
        high_counts="negative",
    ),
    _clip(
        "gspo", "GSPO clip (TRL)", 1 - 3e-4, 1 + 4e-4, "TRL clip_ratio/region_mean",
        "arXiv 2507.18071; TRL paper index, 3e-4 / 4e-4",
        "Sequences whose gradient the clip removes, by their geometric mean ratio; each counts "
        "once.",
        level="sequence-mean", averaging="sequence",
    ),
    _clip(
        "gspo-verl", "GSPO clip (verl)", 1 - 3e-4, 1 + 4e-4, "verl actor/pg_clipfrac",
        "verl core_algos.py, examples/gspo_trainer, 3e-4 / 4e-4",
        "As gspo, but each sequence is weighted by its number of tokens.",
        level="sequence-mean",
    ),
    _clip(
        "gspo-pipelinerl", "GSPO clamp (PipelineRL)", 0.98, 1.02,
        "PipelineRL clamp_log_ratio_new_old_indicator", "PipelineRL conf/tir.yaml, epsilon 2e-2",
        "Sequences outside a band sixty times as wide as the paper's, for any advantage.",
        level="sequence-mean", averaging="sequence", high_counts="any", low_counts="any",
    ),
    _clip(
        "cispo", "CISPO cap (NeMo-RL, verl, slime)", 0.0, 6.0, "verl actor/pg_clipfrac",
        "arXiv 2506.13585; NeMo-RL 1.0 / 5.0, edges relative to 1",
        "Tokens whose weight is capped; they keep a gradient.",
        high_counts="any", low_counts="any",
    ),
    _clip(
        "cispo-trl", "CISPO cap (TRL)", None, 5.0, "TRL cispo_clip_ratio",
        "TRL grpo_trainer.py, epsilon_high 5.0, an absolute ratio",
        "Tokens of positive advantage whose weight is capped; the edge is the ratio itself.",
    ),
    _clip(
        "gmpo", "GMPO clip (verl)", -0.4, 0.4, "verl actor/pg_clipfrac (geo_mean)",
        "arXiv 2507.20673; verl core_algos.py geo_mean, bounds on the log ratio",
        "Tokens of positive advantage whose log ratio is clamped, on either side.",
        low_counts="positive", unit="log ratio",
    ),
    _weight(
        "tis-token", "TIS, token", "truncation", "token", None, 2.0, "slime tis_clipfrac",
        "Yao et al. 2025; cap 2 in verl, slime, SkyRL, open-instruct",
        "Tokens whose importance weight is truncated at the cap.",
    ),
    _weight(
        "tis-sequence", "TIS, sequence", "truncation", "sequence-sum", None, 2.0,
        "verl rollout_is_ratio_fraction_high",
        "verl rollout_corr_helper.py, TRL sequence_truncate, cap 2",
        "Sequences whose product of ratios is truncated at the cap; grows with length.",
    ),
    _weight(
        "mis", "MIS, sequence mask (TRL)", "mask", "sequence-sum", None, 3.0,
        "TRL sequence_mask (not logged by TRL)",
        "TRL grpo_trainer.py, vllm_importance_sampling_clip_max 3.0, on by default",
        "Sequences dropped because their product of ratios is above the cap.",
    ),
    _weight(
        "icepop", "IcePop", "mask", "token", 0.5, 5.0, "NeMo-RL is_oob_ratio",
        "Ring-1T IcePop; verl, NeMo-RL and OpenRLHF, 0.5 to 5.0",
        "Tokens whose gradient is zeroed because their ratio is outside the band.",
    ),
    _weight(
        "geometric-mask", "geometric mask", "mask", "sequence-mean", 0.999, 1.001,
        "verl rollout_rs seq_mean_k1",
        "verl docs/algo/rollout_corr.md, preset 0.999_1.001",
        "Sequences dropped because their geometric mean ratio is outside the band.",
    ),
)  # fmt: skip

OBJECTIVES: dict[str, Objective] = {row.name: row for row in _TABLE}


def choose_objective(
    kind: str, epsilon_low: float | None = None, epsilon_high: float | None = None
) -> Objective:
    """The named row, with the user's ε if given.

    The ε of a clip is a distance from 1 (from 0 in log space). For a cap or mask, and for cispo-trl
    and dual-clip, it is the edge itself, as in their frameworks. Raises ConfigError.
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
    if row.unit == "log ratio":
        return epsilon
    if row.kind == "clip" and row.name not in ("cispo-trl", "dual-clip"):
        return 1.0 + epsilon
    return abs(epsilon)


def count_beyond(
    values: NDArray[np.floating], samples: Ints, thresholds: Floats, size: int
) -> Ints:
    """Count, for each of `size` samples, the values strictly above each threshold.

    `values` [n] belong to `samples` [n]; `thresholds` [T] ascend. Returns [size, T].
    """
    steps = len(thresholds) + 1
    # For few thresholds, comparing with each is several times faster than binary search.
    passed = np.zeros(len(values), np.int8)
    for threshold in thresholds:
        passed += values > threshold
    histogram = np.bincount(samples * steps + passed, minlength=size * steps)
    above: Ints = histogram.reshape(size, steps)[:, ::-1].cumsum(axis=1)[:, -2::-1]
    return above
