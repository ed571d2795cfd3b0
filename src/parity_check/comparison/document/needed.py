"""What data would settle a verdict: more prompts, or more samples of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from parity_check import words
from parity_check.comparison.plan import Plan
from parity_check.comparison.report import Direction
from parity_check.measure.needs import needs
from parity_check.measure.objectives import Objective

RAGGED = 0.5
"""A mean length below this part of the longest: no max_tokens cuts most samples."""


def to_settle(
    directions: Sequence[Direction], objective: Objective, level: float, sampling: Mapping[str, Any]
) -> str | None:
    """What would settle every inconclusive gate; None where more data may not.

    More samples of each prompt help where a gate only waits for rare events to be ruled out.
    """
    open = [g for way in directions for g in way.gates if g.verdict == "inconclusive"]
    needed = [gate.prompts_needed for gate in open if gate.prompts_needed is not None]
    if not needed or len(needed) < len(open):
        return None
    plans = [(_plan(way, objective, level, sampling), _open(way)) for way in directions]
    if even := next(filter(None, (plan.even() for plan, _ in plans)), None):
        return f"{even} would settle it"
    prompts, each = _size(directions)
    most = max(*needed, *(_fewest(*way) for way in plans))
    least = "at least" if any(map(_ragged, directions)) else "about"
    sentence = f"{least} {words.count(most, 'prompt')} would settle it (now {prompts:,})"
    if all(_samples_help(*way) for way in plans):
        more = words.count(math.ceil(each * most / prompts), "sample")
        sentence += f", or {more} of each (now {each:.4g})"
    return sentence


def for_parity(
    directions: Sequence[Direction], objective: Objective, level: float, sampling: Mapping[str, Any]
) -> str | None:
    """What the gates ask for even if nothing drifts; None if the directions have that.

    A direction without a usable token says nothing of how long samples are.
    """
    compared = [way for way in directions if way.measurement.tokens]
    plans = (_plan(way, objective, level, sampling) for way in compared)
    most = max(plans, key=lambda plan: len(plan.open()), default=None)
    return most.advice() if most is not None and most.open() else None


def _ragged(direction: Direction) -> bool:
    """Whether a few samples are so long that a larger run will hold longer ones."""
    measured = direction.measurement
    return measured.worth.lasting_samples < RAGGED * measured.rollouts


def _size(directions: Sequence[Direction]) -> tuple[int, float]:
    """The prompts, and the samples of each."""
    prompts = max(way.measurement.prompts for way in directions)
    return prompts, max(way.measurement.samples for way in directions) / prompts


def _fewest(plan: Plan, open: set[str]) -> int:
    """The fewest prompts with which the open gates of a direction can be decided at all."""
    times = [plan.times(need) for need in plan.unmet() if need.metric in open]
    return math.ceil(plan.prompts * max(times, default=0.0))


def _samples_help(plan: Plan, open: set[str]) -> bool:
    """Whether all open gates of a direction wait for more tokens or samples, of any prompts."""
    unmet = [need for need in plan.unmet() if need.metric in open]
    # Greedy samples of one prompt are copies.
    tried = not plan.greedy and open == {need.metric for need in unmet}
    return tried and all(need.unit != "clusters" for need in unmet)


def _open(direction: Direction) -> set[str]:
    return {gate.metric for gate in direction.gates if gate.verdict == "inconclusive"}


def _plan(
    direction: Direction, objective: Objective, level: float, sampling: Mapping[str, Any]
) -> Plan:
    """What the gates of a direction ask for, against what it has."""
    measured = direction.measurement
    limits = [gate.limit for gate in direction.gates if gate.estimate is not None]
    return Plan(
        prompts=measured.prompts,
        clusters=measured.clusters,
        samples=measured.samples,
        tokens=measured.tokens,
        gates=len(limits),
        needs=tuple(needs(limits, objective, level)),
        source="sampled",
        greedy=sampling.get("temperature") == 0,
        worth=measured.worth,
    )
