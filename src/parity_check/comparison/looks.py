"""Looks: the sizes at which a run may be judged, where it samples until every gate is decided.

The number of looks and their sizes are fixed before the run, and each look is judged at a
confidence that is corrected for all of them (`Config.level`): every further look is a further
chance to be wrong. The error rates are simulated in docs/reference/metrics.md.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from parity_check import words
from parity_check.comparison.judgement import Judgement
from parity_check.comparison.plan import Plan, plan
from parity_check.config.models import Config, Workload
from parity_check.errors import ConfigError
from parity_check.measure.gates import GateResult
from parity_check.traces.prompts import MOST_TOKENS, Prompt

ROOM = 3.0
"""The default budget in units of what the gates ask for if nothing drifts, which no real pair
reaches: half of it, the look before the last, decides every gate of a clean one."""


@dataclass(frozen=True, slots=True)
class Looks:
    """The looks of a run: how many turns each ends at.

    A turn is `samples_per_prompt` samples of one prompt. Every prompt has its turn before the first
    has its second.
    """

    prompts: tuple[Prompt, ...]
    ends: tuple[int, ...]

    def turns(self, look: int) -> Sequence[int]:
        """The prompts of a look that the looks before did not have, by index; looks from 0."""
        begin, end = (0, *self.ends)[look : look + 2]
        return [turn % len(self.prompts) for turn in range(begin, end)]

    def earlier(self, look: int) -> list[Prompt]:
        """The prompts of all turns before a look."""
        done = (0, *self.ends)[look]
        return [self.prompts[turn % len(self.prompts)] for turn in range(done)]

    def sentence(self, workload: Workload, level: float, turn: int) -> str:
        """How many looks there are, how large and how they are judged.

        `turn` is how many samples of a turn are counted.
        """
        *some, last = (f"{end * turn:,}" for end in self.ends)
        tokens = self.ends[-1] * workload.samples_per_prompt * workload.max_tokens
        sizes = f"{', '.join(some)} and {last}" if some else last
        return (
            f"up to {len(self.ends)} looks, at {sizes} samples a direction (at most {tokens:,} "
            f"tokens), each judged at a confidence of {100 * level:g} %"
        )


def one_look(prompts: Sequence[Prompt]) -> Looks:
    """Every prompt has one turn."""
    return Looks(tuple(prompts), (len(prompts),))


def looks(prompts: Sequence[Prompt], config: Config, size: Plan) -> Looks:
    """The looks at a workload: half of the budget is the look before the last, and so on.

    The prompts are in a random order, so that each look has all kinds of them. At temperature 0 a
    second turn would be the same again. Raises ConfigError for a budget of too many tokens.
    """
    workload = config.workload
    if workload.num_prompts != "enough":
        return one_look(prompts)
    most = workload.samples_per_prompt * workload.max_tokens
    if workload.most_tokens is None:
        last = math.ceil(ROOM * size.samples_needed() / size.turn)
    else:
        last = max(1, workload.most_tokens // most)
    if workload.temperature == 0.0:
        last = min(last, len(prompts))
    if workload.tokens(last) > MOST_TOKENS:
        raise ConfigError(
            f"workload: up to {workload.tokens(last):,} tokens an engine, sampled, replayed and "
            f"repeated; the most is {MOST_TOKENS:,}",
            hint="set workload.most_tokens, the most that is sampled, or wider limits",
        )
    order = random.Random(workload.seed).sample(list(prompts), len(prompts))
    halves = (math.ceil(last / 2**step) for step in range(config.looks))
    return Looks(tuple(order), tuple(sorted(set(halves))))


def sentences(of: Looks, size: Plan, config: Config, how: Judgement) -> Iterator[str]:
    """What a workload can decide before it is run, a line each; `size` is that of one turn."""
    if size.copies:
        yield (
            f"{size.copies:,} of {words.count(size.prompts, 'prompt')} are copies of others and "
            f"count as one with them: {words.count(size.prompts - size.copies, 'distinct prompt')}"
        )
    if len(of.ends) == 1:
        yield size.sentence()
        return
    yield of.sentence(config.workload, config.level, size.turn)
    yield f"at the last look, {plan(of.prompts, config, how, of.ends[-1]).sentence()}"


def settled(gates: Iterable[GateResult]) -> bool:
    """Whether every gate is decided, or is one that no further prompts can decide."""
    return all(
        gate.verdict != "inconclusive" or gate.prompts_needed is gate.prompts_if_clean is None
        for gate in gates
    )


def progress(number: int, of: Looks, samples: int, gates: Sequence[GateResult]) -> str:
    """A look's result in one line."""
    open = dict.fromkeys(gate.metric for gate in gates if gate.verdict == "inconclusive")
    decided = sum(gate.verdict != "inconclusive" for gate in gates)
    rest = f"; open: {', '.join(open)}" if open else ""
    return (
        f"look {number} of {len(of.ends)}: {words.count(samples, 'sample')} a direction, "
        f"{decided} of "
        f"{len(gates)} gates decided{rest}"
    )
