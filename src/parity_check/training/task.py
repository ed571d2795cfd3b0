"""The prompts of each step, their answers, and the reward of an exact answer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from parity_check.config.models import Config
from parity_check.config.training import Training
from parity_check.errors import InputError
from parity_check.traces.prompts import Prompt, read_prompts

MARK = "####"
"""What stands in front of the answer, as in GSM8K."""
OPERANDS = (10, 99)


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt with the answer that earns the reward; None where a function judges."""

    prompt: Prompt
    answer: str | None


def problems(config: Config, training: Training) -> list[list[Problem]]:
    """The prompts of every step, the same for every arm and seed. Raises InputError."""
    steps, size = training.steps, training.prompts_per_step
    source = random.Random(config.workload.seed)
    if training.prompts is None:
        every = [_arithmetic(source, number) for number in range(steps * size)]
    else:
        prompts = read_prompts(training.prompts, column=training.prompt_column)
        given = [_given(prompt, training) for prompt in prompts]
        every = list(_epochs(given, source, steps * size))
    return [every[first : first + size] for first in range(0, steps * size, size)]


def exact(completion: str, answer: str) -> float:
    """1 if the text behind the last `####`, or all of it, is the answer; else 0."""
    _, mark, behind = completion.rpartition(MARK)
    found = behind if mark else completion
    lines = found.strip().splitlines()
    return float(bool(lines) and lines[0].strip() == answer.strip())


def advantages(rewards: list[float], group_size: int) -> list[float]:
    """Each reward minus the mean of the others of its group: groups follow one another.

    RLOO, arXiv 2402.14740: the baseline leaves the sample itself out.
    """
    found = []
    for first in range(0, len(rewards), group_size):
        group = rewards[first : first + group_size]
        total = sum(group)
        found += [reward - (total - reward) / (group_size - 1) for reward in group]
    return found


def _arithmetic(source: random.Random, number: int) -> Problem:
    """A sum or a difference of two-digit numbers that is not negative."""
    one, other = source.randint(*OPERANDS), source.randint(*OPERANDS)
    if source.random() < 0.5:
        question, answer = f"{one} + {other}", one + other
    else:
        one, other = max(one, other), min(one, other)
        question, answer = f"{one} - {other}", one - other
    text = f"Question: What is {question}?\nAnswer:"
    prompt = Prompt(f"sum-{number:05d}", "arithmetic", text, None, None)
    return Problem(prompt, str(answer))


def _given(prompt: Prompt, training: Training) -> Problem:
    answer = prompt.labels.get("answer")
    if answer is None and training.reward is None:
        raise InputError(
            f"training.prompts: prompt {prompt.prompt_id} has no `answer`",
            hint="add a column `answer`, or name a function: training.reward",
        )
    return Problem(prompt, answer)


def _epochs(given: list[Problem], source: random.Random, count: int) -> Iterator[Problem]:
    """The prompts in random order, again and again; a number tells the passes apart."""
    done = 0
    epoch = 0
    while done < count:
        for problem in source.sample(given, len(given))[: count - done]:
            name = f"{problem.prompt.prompt_id}@{epoch}"
            yield replace(problem, prompt=replace(problem.prompt, prompt_id=name))
            done += 1
        epoch += 1
