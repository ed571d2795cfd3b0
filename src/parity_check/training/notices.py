"""What a reader must know to read the curves right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from parity_check import words
from parity_check.config.models import Config, ObjectiveConfig
from parity_check.config.training import FIRST
from parity_check.measure.objectives import choose_objective
from parity_check.training import arms
from parity_check.training.curves import Step, objective_of

FEW_STEPS = 10
RAW = ("raw_logprobs", "default")


def config_notices(config: Config) -> Iterator[str]:
    """What is known before a run, in sentences."""
    if config.workload.temperature == 1.0:
        raw = [
            name
            for name, arm in arms.arms(config).items()
            if arm.settings.get("logprobs_mode") in RAW
        ]
        if raw:
            yield (
                f"at temperature 1 raw logprobs equal processed ones, so logprobs_mode makes no "
                f"difference here: {', '.join(raw)}"
            )
    steps = arms.training_of(config).steps
    if steps < FEW_STEPS:
        yield f"{words.count(steps, 'step')} of training can show large differences alone"
    yield from _same(config)
    yield from _objective(config)


def step_notices(steps: Sequence[Step]) -> Iterator[str]:
    """What the steps showed, in sentences."""
    flat = sum(step.grad_norm == 0.0 for step in steps)
    if flat:
        yield (
            f"{flat} of {len(steps)} steps had no gradient: all samples of each prompt had the "
            "same reward"
        )


def _same(config: Config) -> Iterator[str]:
    """Arms that are configured as one before them."""
    known: list[tuple[str, Any]] = []
    for name, made in arms.configured(config).items():
        twin = next((other for other, its in known if its == made), None)
        if twin == FIRST:
            yield (
                f"{name} has the engine and the settings of the reference: what it shows is the "
                "noise between seeds"
            )
        elif twin is not None:
            yield f"{name} has the engine and the settings of {twin}: both show the same"
        known.append((name, made))


def _objective(config: Config) -> Iterator[str]:
    """That a stated [objective] is not the loss, where it counts something else."""
    chosen, training = config.objective, arms.training_of(config)
    if chosen == ObjectiveConfig():
        return
    if not training.compare:
        yield "[objective] is of the one-shot comparison, which training.compare = false leaves out"
        return
    own = objective_of(training)
    row = choose_objective(chosen.kind, chosen.epsilon_low, chosen.epsilon_high)
    if (row.level, row.low, row.high) != (own.level, own.low, own.high):
        yield (
            f"[objective] ({row.label}) is of the one-shot comparison alone: the curves count the "
            f"clip of training.loss = {training.loss}"
        )
