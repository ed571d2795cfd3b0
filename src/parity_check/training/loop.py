"""The training loop of one run: rollouts, rewards, a step of the trainer, new weights, again.

Updates land in flight, as in PipelineRL: with a lag of L, a phase of the engine is max_tokens /
(L + 1) tokens long. Each phase begins with the newest weights and a new batch, so L + 1 batches are
under way, and the oldest of them ends with the phase. It is what the trainer learns from next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from parity_check.config.models import Workload
from parity_check.config.training import Arm, Training
from parity_check.engines.client import WorkerEngine
from parity_check.engines.replies import Flying
from parity_check.errors import EngineError
from parity_check.measure.objective import Objective
from parity_check.training.arms import Run
from parity_check.training.curves import Step, Taken, measured
from parity_check.training.task import Problem, advantages, exact


@dataclass(frozen=True, slots=True)
class Rollout:
    """A finished sample of a step. Logprobs and entropies [tokens], nats.

    `versions` [tokens] is the number of updates before each token was sampled.
    """

    sample_id: str
    problem: Problem
    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    finish_reason: str
    behaviour: list[float]
    versions: list[int]
    reward: float = math.nan
    advantage: float = 0.0
    trainer: tuple[float, ...] = ()
    entropy: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is the same for every run: the prompts of each step with their ids, and the loss."""

    steps: Sequence[Sequence[tuple[Problem, list[int]]]]
    training: Training
    workload: Workload
    objective: Objective
    weights: Path
    """The directory in which the trainer leaves its weights for the engine."""
    update: str | None
    python_path: str | None


def train(
    run: Run, arm: Arm, lag: int, plan: Plan, engine: WorkerEngine, learner: WorkerEngine
) -> Iterator[tuple[Step, list[Rollout]]]:
    """Each step's numbers and samples. Raises EngineError, InputError."""
    training = plan.training
    learner.begin(
        learning_rate=training.learning_rate,
        betas=list(training.betas),
        weight_decay=training.weight_decay,
    )
    batches: dict[int, _Batch] = {}
    version, new_weights = 0, False
    for phase in range(len(plan.steps) + lag):
        due = phase - lag
        requests = []
        if phase < len(plan.steps):
            batches[phase] = _Batch(plan.steps[phase], phase, training.group_size, version)
            requests += batches[phase].requests(due=due == phase)
        if due != phase and due >= 0:
            requests += [{"sample_id": name, "due": True} for name in batches[due].names]
        started = time.monotonic()
        rows, pause = engine.rollout(
            requests,
            checkpoint=str(plan.weights) if new_weights else None,
            tokens=math.ceil(plan.workload.max_tokens / (lag + 1)),
            mode=arm.mode,
            clear_cache=arm.clear_cache,
            update=plan.update,
            python_path=plan.python_path,
            max_tokens=plan.workload.max_tokens,
            ignore_eos=plan.workload.ignore_eos,
            sampling=plan.workload.sampling(),
        )
        engine.forget()
        sampled = time.monotonic()
        if due < 0:
            new_weights = False
            continue
        samples = _rewarded(batches.pop(due).rollouts(rows, run), plan, learner)
        learned, optimized = learner.learn([_example(each) for each in samples], **_loss(plan))
        learner.forget()
        taken = time.monotonic()
        learner.save(plan.weights)
        saved = time.monotonic()
        version, new_weights = version + 1, True
        samples = [
            replace(each, trainer=tuple(row.logprobs), entropy=tuple(row.entropy))
            for each, row in zip(samples, learned, strict=True)
        ]
        step = measured(
            _taken(samples, due),
            plan.objective,
            arm=run.arm,
            seed=run.seed,
            step=due,
            optimized=optimized.model_dump(),
            seconds={
                "sample": sampled - started - pause.paused_s,
                "learn": taken - sampled,
                "sync": saved - taken + pause.paused_s,
            },
        )
        yield step, samples


class _Batch:
    """The requests of one step, and the version of the weights that they start with."""

    def __init__(
        self,
        problems: Sequence[tuple[Problem, list[int]]],
        step: int,
        group_size: int,
        version: int,
    ) -> None:
        self._version = version
        self._given = {
            f"{problem.prompt.prompt_id}/{index}": (problem, ids)
            for problem, ids in problems
            for index in range(group_size)
        }

    @property
    def names(self) -> list[str]:
        return list(self._given)

    def requests(self, *, due: bool) -> list[dict[str, Any]]:
        return [
            {"sample_id": name, "due": due, "prompt_token_ids": ids}
            for name, (_, ids) in self._given.items()
        ]

    def rollouts(self, rows: Sequence[Flying], run: Run) -> list[Rollout]:
        """The finished samples, in the order of the groups. Raises EngineError."""
        return [self._rollout(row, run) for row in rows]

    def _rollout(self, row: Flying, run: Run) -> Rollout:
        problem, ids = self._given[row.sample_id]
        logprobs = [math.nan if each is None else each for each in row.logprobs]
        if not row.token_ids or not all(map(math.isfinite, logprobs)):
            what = "has no tokens" if not row.token_ids else "has invalid logprobs"
            raise EngineError(
                f"{run.name}: sample {row.sample_id} {what}: nothing can be learned from it",
                kind="invalid_logprobs",
                hint="`parity-check compare` counts what an engine returns, by kind",
            )
        places = np.arange(len(row.token_ids))
        versions = self._version + np.searchsorted(row.switches, places, side="right")
        return Rollout(
            sample_id=row.sample_id,
            problem=problem,
            prompt_token_ids=ids,
            token_ids=row.token_ids,
            text=row.text or "",
            finish_reason=row.finish_reason or "",
            behaviour=logprobs,
            versions=versions.tolist(),
        )


def _rewarded(samples: list[Rollout], plan: Plan, learner: WorkerEngine) -> list[Rollout]:
    """The samples with their rewards and advantages."""
    training = plan.training
    if training.reward is None:
        rewards = [exact(each.text, each.problem.answer or "") for each in samples]
    else:
        rewards = learner.reward(
            [
                {
                    "sample_id": each.sample_id,
                    "prompt": each.problem.prompt.text,
                    "completion": each.text,
                    "answer": each.problem.answer,
                }
                for each in samples
            ],
            function=training.reward,
            python_path=training.python_path,
            timeout_s=training.reward_timeout_s,
        )
    found = advantages(rewards, training.group_size)
    return [
        replace(each, reward=reward, advantage=advantage)
        for each, reward, advantage in zip(samples, rewards, found, strict=True)
    ]


def _example(sample: Rollout) -> dict[str, Any]:
    return {
        "sample_id": sample.sample_id,
        "prompt_token_ids": sample.prompt_token_ids,
        "completion_token_ids": sample.token_ids,
        "logprobs": sample.behaviour,
        "advantage": sample.advantage,
    }


def _loss(plan: Plan) -> dict[str, Any]:
    names = (
        "loss", "old_logprobs", "epsilon_low", "epsilon_high", "weight_cap", "optimizer_steps",
        "max_grad_norm",
    )  # fmt: skip
    return {
        **{name: getattr(plan.training, name) for name in names},
        "sampling": plan.workload.sampling(),
    }


def _taken(samples: Sequence[Rollout], step: int) -> Taken:
    """A step's samples as arrays; the trainer's version is the number of steps before it."""

    def flat(column: Callable[[Rollout], Sequence[float]]) -> np.ndarray:
        return np.concatenate([np.asarray(column(each), dtype=np.float64) for each in samples])

    numbers = {name: n for n, name in enumerate(dict.fromkeys(map(_prompt, samples)))}
    lengths = [len(each.token_ids) for each in samples]
    return Taken(
        behaviour=flat(lambda each: each.behaviour),
        trainer=flat(lambda each: each.trainer),
        entropy=flat(lambda each: each.entropy),
        lag=(step - flat(lambda each: each.versions)).astype(np.int64),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        prompt=np.array([numbers[_prompt(each)] for each in samples], dtype=np.int64),
        rewards=np.array([each.reward for each in samples]),
        advantages=np.array([each.advantage for each in samples]),
    )


def _prompt(sample: Rollout) -> str:
    return sample.problem.prompt.prompt_id
