"""What is measured of one step of training: the trainer over the rollout engine. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from parity_check.config.training import Training
from parity_check.measure.measure import measure
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.objective import Objective
from parity_check.measure.objectives import choose_objective
from parity_check.measure.stats import Floats, Ints

Judging = Literal["judged", "if resolved", "shown"]


@dataclass(frozen=True, slots=True)
class Curve:
    """A number that a step has. `matters` is the smallest distance that is not called equal."""

    name: str
    label: str
    unit: str
    judging: Judging
    matters: float
    definition: str

    @property
    def most(self) -> float:
        """The largest distance that two means can have: shares are from 0 to 1."""
        return 1.0 if self.unit == "share" else math.inf


CURVES = (
    Curve(
        "clip_rate", "clip rate", "share", "judged", 0.05,
        "share outside the band [1 − ε_low, 1 + ε_high], whatever the advantage; the mean of each "
        "sequence's share (PipelineRL clamp_log_ratio_new_old_indicator)",
    ),
    Curve(
        "k3_kl", "k3 KL", "nats", "judged", 1e-4,
        "mean e^Δ − 1 − Δ, Δ = trainer − rollout (PipelineRL kl_new_old)",
    ),
    Curve(
        "entropy", "entropy", "nats", "judged", 0.01,
        "mean entropy of the trainer's distribution at the sampled tokens",
    ),
    Curve("reward", "reward", "1", "if resolved", 0.05, "mean reward of the step's samples"),
    Curve(
        "mean_ratio", "mean importance ratio", "ratio", "shown", 0.0,
        "mean e^Δ over tokens (PipelineRL ratio_new_old)",
    ),
    Curve("lag", "mean lag", "updates", "shown", 0.0, "updates that a token's policy is behind"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Taken:
    """A step's samples as flat arrays over tokens, split by `starts` [S + 1]; logprobs in nats."""

    behaviour: Floats
    trainer: Floats
    entropy: Floats
    lag: Ints
    starts: Ints
    prompt: Ints
    """[S] the number of each sample's prompt."""
    rewards: Floats
    advantages: Floats


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one run. Shares are of sequences or tokens, `*_s` are seconds."""

    arm: str
    seed: int
    step: int
    samples: int
    tokens: int
    clip_rate: float
    clip_active: float
    """Share of sequences whose gradient the clip removes, given their advantages."""
    k3_kl: float
    k1_kl: float
    mean_ratio: float
    rms_log_ratio: float
    ess: float
    entropy: float
    reward: float
    reward_error: float | None
    """Standard error of the mean reward, over prompts; None with a single one."""
    grad_norm: float
    loss: float
    lag: float
    largest_lag: int
    lag_shares: tuple[float, ...]
    """Share of the tokens at each lag, from 0."""
    flat_groups: int
    """Prompts whose samples all have the same reward: they give no gradient."""
    sample_s: float
    learn_s: float
    sync_s: float


NAMES = tuple(each.name for each in fields(Step))


def objective_of(training: Training) -> Objective:
    """The loss's clip as PipelineRL counts it."""
    name = "gspo-pipelinerl" if training.loss == "gspo" else "ppo-pipelinerl"
    return choose_objective(name, training.epsilon_low, training.epsilon_high)


def measured(
    taken: Taken,
    objective: Objective,
    *,
    arm: str,
    seed: int,
    step: int,
    optimized: Mapping[str, float],
    seconds: Mapping[str, float],
) -> Step:
    """The numbers of a step. `optimized` has loss and grad_norm, `seconds` the three phases."""
    chunk = PairedChunk(
        behaviour_logprob=taken.behaviour.astype(np.float32),
        evaluating_logprob=taken.trainer.astype(np.float32),
        starts=taken.starts,
        cluster=taken.prompt.astype(np.int32),
        group=np.zeros(len(taken.prompt), np.int32),
    )
    found = measure([chunk], sampled_by=arm, objective=objective)
    groups = [taken.rewards[taken.prompt == number] for number in np.unique(taken.prompt)]
    means = np.array([group.mean() for group in groups])
    return Step(
        arm=arm,
        seed=seed,
        step=step,
        samples=len(taken.prompt),
        tokens=len(taken.behaviour),
        clip_rate=found["clip_fraction"].value,
        clip_active=active_share(taken, objective),
        k3_kl=found["k3_kl"].value,
        k1_kl=found["k1_kl"].value,
        mean_ratio=found["mean_importance_ratio"].value,
        rms_log_ratio=found["rms_log_ratio"].value,
        ess=found["ess"].value,
        entropy=float(taken.entropy.mean()),
        reward=float(taken.rewards.mean()),
        reward_error=float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else None,
        lag=float(taken.lag.mean()),
        largest_lag=int(taken.lag.max()),
        lag_shares=tuple((np.bincount(taken.lag) / len(taken.lag)).tolist()),
        flat_groups=sum(bool(np.ptp(group) == 0) for group in groups),
        sample_s=seconds["sample"],
        learn_s=seconds["learn"],
        sync_s=seconds["sync"],
        loss=optimized["loss"],
        grad_norm=optimized["grad_norm"],
    )


def active_share(taken: Taken, objective: Objective) -> float:
    """The share whose gradient the clip removes: above the band with A > 0, below with A < 0.

    Of sequences; for a loss of tokens, the mean of each sequence's share.
    """
    low, high = objective.log_edges()
    delta = taken.trainer - taken.behaviour
    lengths = np.diff(taken.starts)
    advantage = taken.advantages
    if objective.level == "sequence-mean":
        mean = np.add.reduceat(delta, taken.starts[:-1]) / lengths
        removed = ((advantage > 0) & (mean > high)) | ((advantage < 0) & (mean < low))
        return float(removed.mean())
    each = np.repeat(advantage, lengths)
    removed = ((each > 0) & (delta > high)) | ((each < 0) & (delta < low))
    return float((np.add.reduceat(removed.astype(float), taken.starts[:-1]) / lengths).mean())


def table(steps: Sequence[Step], arm: str, curve: str) -> Floats:
    """[seeds, steps] of one curve of one arm, up to the last step that all its runs have."""
    seeds = dict.fromkeys(each.seed for each in steps if each.arm == arm)
    rows = [
        [getattr(each, curve) for each in steps if each.arm == arm and each.seed == seed]
        for seed in seeds
    ]
    length = min(map(len, rows), default=0)
    return np.array([row[:length] for row in rows], dtype=np.float64).reshape(len(rows), length)
