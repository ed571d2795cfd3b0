"""Measure and judge a pair of traces by the limits of a configuration."""

from __future__ import annotations

from dataclasses import dataclass

from parity_check.config.models import Judging
from parity_check.measure.limits import Limit, choose_limits
from parity_check.measure.measure import measure
from parity_check.measure.objectives import Objective, choose_objective
from parity_check.measure.results import ClipEstimate, Measurement
from parity_check.measure.worst import Outliers
from parity_check.traces.pairing import Index, label_column, pair
from parity_check.traces.prefixes import Prefixes
from parity_check.traces.trace import Trace

TRUNCATION = "tis-token"
"""The cap whose share is shown next to a clip rate, for losses that recompute their logprobs."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The objective, limits and statistics that a configuration chooses, validated."""

    objective: Objective
    limits: tuple[Limit, ...]
    level: float
    tail_threshold: float
    positive_share: float
    cluster_by: str


def at_first_step(config: Judging) -> Judging:
    """What the loss of a run does with the mismatch at its first step.

    A loss that recomputes its old logprobs clips nothing then: its number is the share of
    importance weights that would be cut.
    """
    chosen = config.objective
    row = choose_objective(chosen.kind, chosen.epsilon_low, chosen.epsilon_high)
    if chosen.logprobs != "recompute" or row.kind != "clip":
        return config
    weight = {"kind": TRUNCATION, "epsilon_low": None, "epsilon_high": None}
    return config.model_copy(update={"objective": chosen.model_copy(update=weight)})


def judgement(config: Judging) -> Judgement:
    """Raises ConfigError for an unknown objective, profile or metric, and for limits ≤ 0."""
    chosen = config.objective
    objective = choose_objective(chosen.kind, chosen.epsilon_low, chosen.epsilon_high)
    return Judgement(
        objective=objective,
        limits=choose_limits(config.gates.profile, objective, config.gates.overrides()),
        level=config.level,
        tail_threshold=config.stats.tail_threshold,
        positive_share=chosen.positive_share,
        cluster_by=config.stats.cluster_by,
    )


def measure_pair(
    behaviour: Trace,
    evaluating: Trace,
    sampled_by: str,
    how: Judgement,
    outliers: Outliers | None = None,
    prefixes: Prefixes | None = None,
) -> Measurement:
    """Measure one pair of traces, a row group at a time."""
    groups = Index()
    batches = behaviour.batches(label=label_column(how.cluster_by))
    chunks = pair(batches, evaluating.batches(like=behaviour), how.cluster_by, groups, prefixes)
    return measure(
        chunks if outliers is None else outliers.watch(chunks),
        sampled_by=sampled_by,
        objective=how.objective,
        level=how.level,
        tail_threshold=how.tail_threshold,
        positive_share=how.positive_share,
        groups=groups.names,
    )


def clip_of(measured: Measurement, name: str) -> ClipEstimate:
    """What one objective would clip, truncate or mask."""
    return next(clip for clip in measured.clips if clip.objective.name == name)
