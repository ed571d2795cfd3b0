"""All pairs of three or more engines, and the parts of a trainer's mismatch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from parity_check.comparison.judgement import TRUNCATION, Judgement, clip_of, measure_pair
from parity_check.comparison.practices import Logprobs, Practice, practices
from parity_check.comparison.report import FirstStep, Floor, Matrix, Pair, Rollouts, Scored
from parity_check.comparison.stored import StoredRollouts, StoredRun
from parity_check.config.models import Config
from parity_check.measure.decomposition import Decomposition, decompose
from parity_check.measure.gates import overall
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.objectives import OBJECTIVES, Objective
from parity_check.measure.results import Measurement
from parity_check.traces.pairing import Index, label_column, pair

CLIP = "grpo"
"""The clip of the policy ratio, when the configured objective is a cap or mask of a weight."""


def analyse_matrix(
    run: StoredRun, pairs: Sequence[Pair], floors: Iterable[Floor], config: Config, how: Judgement
) -> Matrix:
    """Measure the pairs that are not compared, and split up each further engine's mismatch."""
    worst = _worst_floors(floors)
    rollouts = tuple(_rollouts(each, pairs, worst, config, how) for each in run.rollouts)
    trainer, latest = next(iter(config.engines)), rollouts[-1]
    return Matrix(
        rollouts=rollouts,
        trainer=trainer,
        rollout=latest.sampled_by,
        practices=tuple(_practices(latest, run, trainer, worst, config, how)),
    )


def _worst_floors(floors: Iterable[Floor]) -> dict[str, Measurement]:
    """The A/A run of each engine with the largest difference from its baseline."""
    found: dict[str, Measurement] = {}
    for floor in floors:
        known, rms = found.get(floor.engine), floor.measurement["rms_log_ratio"].value
        if known is None or rms > known["rms_log_ratio"].value:
            found[floor.engine] = floor.measurement
    return found


def _rollouts(
    stored: StoredRollouts,
    pairs: Sequence[Pair],
    floors: Mapping[str, Measurement],
    config: Config,
    how: Judgement,
) -> Rollouts:
    sampler = stored.sampled_by
    judged = {
        direction.evaluated_by: direction
        for each in pairs
        for direction in each.directions
        if direction.sampled_by == sampler
    }
    scored = []
    for behaviour, evaluating in stored.siblings():
        if behaviour == sampler:
            measured = judged[evaluating].measurement
            verdict = overall(judged[evaluating].gates)
        else:
            left, right = stored.traces[behaviour], stored.traces[evaluating]
            measured, verdict = measure_pair(left, right, sampler, how), None
        truncation = clip_of(measured, _weight(how.objective))
        scored.append(Scored(evaluating, behaviour, measured, truncation, verdict))
    found = Rollouts(sampler, tuple(scored), (), ())
    return Rollouts(
        sampler,
        found.scored,
        tuple(_decomposition(stored, name, how) for name in config.engines),
        tuple(
            step
            for name in config.engines
            for step in _first_steps(found, name, floors.get(name), config.objective.logprobs, how)
        ),
    )


def _decomposition(stored: StoredRollouts, trainer: str, how: Judgement) -> Decomposition:
    legs = _legs(stored, trainer, how)
    return decompose(legs, trainer, sampled_by=stored.sampled_by, level=how.level)


def _legs(
    stored: StoredRollouts, trainer: str, how: Judgement
) -> Iterator[tuple[PairedChunk, PairedChunk]]:
    candidate, label = stored.traces["candidate"], label_column(how.cluster_by)
    left, right = (
        pair(
            candidate.batches(label=label), stored.traces[name].batches(like=candidate),
            how.cluster_by, Index(),
        )
        for name in (trainer, "reference")
    )  # fmt: skip
    return zip(left, right, strict=True)


def _weight(objective: Objective) -> str:
    """The cap or mask of the importance weight: the configured one, or TIS if that is a clip."""
    return objective.name if objective.wiring == "recompute" else TRUNCATION


def _first_steps(
    rollouts: Rollouts,
    trainer: str,
    floor: Measurement | None,
    configured: Logprobs | None,
    how: Judgement,
) -> Iterator[FirstStep]:
    """The first step of a loss with the rollout's logprobs, and of one that recomputes them."""
    objective = how.objective
    clip = objective.name if objective.wiring == "bypass" else OBJECTIVES[CLIP].name
    seen = rollouts.pair(trainer, rollouts.sampled_by)
    measured = seen.measurement
    if configured in (None, "bypass"):
        ratio = measured["mean_importance_ratio"]
        yield FirstStep(
            trainer, "bypass", configured is not None, ratio, clip_of(measured, clip), None
        )
    if configured in (None, "recompute"):
        yield FirstStep(
            trainer,
            "recompute",
            configured is not None,
            None if floor is None else floor["mean_importance_ratio"],
            None if floor is None else clip_of(floor, clip),
            seen.truncation,
        )


def _practices(
    rollouts: Rollouts,
    run: StoredRun,
    trainer: str,
    floors: Mapping[str, Measurement],
    config: Config,
    how: Judgement,
) -> Iterator[Practice]:
    header = run.header(rollouts.sampled_by)
    return practices(
        rollouts.pair(trainer, rollouts.sampled_by).measurement,
        rollout=header.engine,
        sampling=header.sampling,
        logprobs=config.objective.logprobs,
        floor=floors.get(trainer),
        gated=frozenset(limit.metric for limit in how.limits),
    )
