"""Limits of the metrics: which values are in parity, by profile, each number with its source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from parity_check.errors import ConfigError, suggestion
from parity_check.measure.metrics import METRICS
from parity_check.measure.objectives import Objective

Kind: TypeAlias = Literal["two_sided", "upper", "lower", "exact"]

_SHARE_OF_GSPO = "arXiv 2507.18071, figure 2: GSPO clips about 15 % by design"
_BURST = "from the limit on k3: a sample with N(0, 1) noise per token has a k3 of 0.65"
_BURST_OF_PROMPTS = "as the samples: a prompt whose samples are all off has their k3"
_SHARE_OF_GRPO = "arXiv 2507.18071, figure 2: GRPO clips 0.13 % of tokens in training"

PROFILES: dict[str, dict[str, tuple[float, str]]] = {
    "strict": {
        "mean_log_ratio": (3e-4, "GSPO's ε: a bias of this size clips sequences of any length"),
        "mean_importance_ratio": (1e-3, "verl's geometric mask preset 0.999_1.001"),
        "k3_kl": (5e-4, "NeMo-RL CI for dense bf16: gen_kl_error < 0.0004 to 0.0005"),
        "clip_fraction": (2e-4, f"{_SHARE_OF_GRPO}; a sixth of it"),
        "sequence_clip_fraction": (5e-3, f"{_SHARE_OF_GSPO}; a thirtieth of it"),
        "tail_fraction": (1e-5, "trl 6789: a healthy bf16 pair has no |Δ| above 0.48"),
        "burst_fraction": (7.7e-4, _BURST),
        "burst_cluster_fraction": (7.7e-4, _BURST_OF_PROMPTS),
        "impossible_fraction": (1e-5, "as the tail fraction: random tokens are in the tail"),
        "ess": (0.999, "1 - σ² at RMS Δ 0.023, bf16 with fp32 heads (Fast-LLM 525): 0.9995"),
    },
    "standard": {
        "mean_log_ratio": (1e-3, "ln 3 / 1e-3: 1,100 tokens until TRL's sequence mask of 3 bites"),
        "mean_importance_ratio": (2e-3, "NeMo-RL's seq-mask-tis band 0.999 to 1.002"),
        "k3_kl": (1e-3, "NeMo-RL docs/guides/grpo.md: below 1e-3 is acceptable"),
        "clip_fraction": (1e-3, f"{_SHARE_OF_GRPO}; less than training itself clips"),
        "sequence_clip_fraction": (1.5e-2, f"{_SHARE_OF_GSPO}; a tenth of it"),
        "tail_fraction": (1e-4, "trl 6789: a healthy bf16 pair has no |Δ| above 0.48"),
        "burst_fraction": (1.5e-3, _BURST),
        "burst_cluster_fraction": (1.5e-3, _BURST_OF_PROMPTS),
        "impossible_fraction": (1e-4, "as the tail fraction: random tokens are in the tail"),
        "ess": (0.99, "1 - σ² at RMS Δ 0.05, a noisy 0.5B bf16 model (trl 6789): 0.9975"),
    },
    "relaxed": {
        "mean_log_ratio": (5e-3, "ln 3 / 5e-3: 220 tokens until TRL's sequence mask of 3 bites"),
        "mean_importance_ratio": (1e-2, "SkyRL's geometric mask 0.99 to 1.01"),
        "k3_kl": (1e-2, "prime-rl: below 0.01 is the target, 0.015 the bar to merge a model"),
        "clip_fraction": (5e-3, f"{_SHARE_OF_GRPO}; four times that"),
        "sequence_clip_fraction": (5e-2, f"{_SHARE_OF_GSPO}; a third of it"),
        "tail_fraction": (1e-3, "R3 paper: MoE routing has ten times the extreme tokens"),
        "burst_fraction": (1.5e-2, _BURST),
        "burst_cluster_fraction": (1.5e-2, _BURST_OF_PROMPTS),
        "impossible_fraction": (1e-3, "as the tail fraction: random tokens are in the tail"),
        "ess": (0.95, "1 - σ² at RMS Δ 0.2; verl warns only below 0.3, for stale policies"),
    },
    "exact": {
        "identical_fraction": (1.0, "vLLM tests/v1/determinism, verl determinism test: torch.equal")
    },
}
"""The limits of each profile, each number with its source. `sequence_clip_fraction` is the limit of
`clip_fraction` for objectives that compare whole sequences."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The allowed values of a metric: within `value` of `target`, at most, at least, or exactly."""

    metric: str
    value: float
    kind: Kind
    source: str
    target: float = 0.0

    def edges(self) -> tuple[float, float]:
        """The allowed interval, open sides infinite."""
        if self.kind == "two_sided":
            return self.target - self.value, self.target + self.value
        if self.kind == "upper":
            return -math.inf, self.value
        return self.value, math.inf

    def needed_for(self, low: float, high: float) -> float:
        """The tightest limit that contains the interval from `low` to `high`."""
        if self.kind == "two_sided":
            return max(abs(low - self.target), abs(high - self.target))
        return high if self.kind == "upper" else low

    def wording(self) -> str:
        """The limit as text."""
        if self.kind == "two_sided":
            return f"{self.target:g} ± {self.value:g}"
        sign = {"upper": "at most", "lower": "at least", "exact": "exactly"}[self.kind]
        return f"{sign} {self.value:g}"


def choose_limits(
    profile: str, objective: Objective, overrides: Mapping[str, float] | None = None
) -> tuple[Limit, ...]:
    """The limits of a profile, overridden and extended by the user's own.

    Any metric can have a limit. Raises ConfigError for an unknown profile or metric, and for a
    limit ≤ 0.
    """
    numbers = PROFILES.get(profile)
    if numbers is None:
        raise ConfigError(
            f"gates.profile: unknown profile {profile!r}", hint=suggestion(profile, PROFILES)
        )
    level = "clip_fraction" if objective.level == "token" else "sequence_clip_fraction"
    chosen = {
        "clip_fraction" if name == level else name: number
        for name, number in numbers.items()
        if name == level or not name.endswith("clip_fraction")
    }
    for name, value in (overrides or {}).items():
        if name not in METRICS:
            raise ConfigError(f"gates.{name}: unknown metric", hint=suggestion(name, METRICS))
        if not (value > 0.0 and math.isfinite(value)):
            raise ConfigError(f"gates.{name}: must be > 0 (got {value:g})")
        chosen[name] = (value, "config")
    return tuple(_limit(name, value, source, profile) for name, (value, source) in chosen.items())


def _limit(name: str, value: float, source: str, profile: str) -> Limit:
    kinds: dict[str, Kind] = {"target": "two_sided", "lower": "upper", "higher": "lower"}
    if profile == "exact" and source != "config":
        return Limit(name, value, "exact", source, value)
    row = METRICS[name]
    return Limit(name, value, kinds[row.better], source, row.target)
