"""From the sequences of a dump to samples: one a turn, masked tokens in the context alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity_check import interrupts
from parity_check.errors import InputError
from parity_check.importers.dump import Dumped, Logprobs
from parity_check.traces.trace import Sample


@dataclass(frozen=True, slots=True)
class Imported:
    """Samples of both sides, token by token the same, and what became of the dump.

    `evaluating` is None where the dump holds one side. `masked` tokens behind a first sampled one
    were not the policy's; `unsampled` sequences had none that was.
    """

    behaviour: list[Sample]
    evaluating: list[Sample] | None
    sequences: int
    masked: int
    unsampled: int
    texts: dict[int, str]


def collect(sequences: Iterable[Dumped]) -> Imported:
    """All sequences as samples. Raises InputError where there are none, or where sides are mixed.

    A sequence of several turns becomes one sample a turn, whose prompt is everything before it:
    that is how the policy saw it, and how a replay must show it. They share their `prompt_id`.
    """
    behaviour: list[Sample] = []
    evaluating: list[Sample] = []
    places: dict[str, str] = {}
    indices: dict[str, int] = {}
    texts: dict[int, str] = {}
    sided: dict[bool, str] = {}
    masked = unsampled = count = 0
    for each in sequences:
        count += 1
        if each.sample_id in places:
            raise InputError(
                f"{each.place}: sample {each.sample_id} again, it is at {places[each.sample_id]} "
                "already: the same file twice?"
            )
        interrupts.check()
        places[each.sample_id] = each.place
        sided.setdefault(each.evaluating is not None, each.place)
        if len(sided) > 1:
            raise InputError(
                f"{sided[False]}: no trainer logprobs, while {sided[True]} has them",
                hint="import one-sided and two-sided dumps apart",
            )
        texts.update(each.texts)
        turns = _turns(each.sampled)
        if not turns:
            unsampled += 1
            continue
        masked += turns[-1][1] - turns[0][0] - sum(last - first for first, last in turns)
        prompt = each.prompt_id or _named(each.token_ids[: turns[0][0]])
        index = indices[prompt] = indices.get(prompt, -1) + 1
        for number, turn in enumerate(turns):
            sample = _sample(each, prompt, index, turn, number, len(turns))
            behaviour.append(sample)
            if each.evaluating is not None:
                other: Logprobs = each.evaluating[turn[0] : turn[1]]
                evaluating.append(
                    replace(sample, logprobs=other, top_token_ids=None, top_logprobs=None)
                )
    if not count:
        raise InputError("the dump is empty: no sequences")
    if not behaviour:
        raise InputError(f"no sampled token in {count} sequences: every token is masked")
    return Imported(behaviour, evaluating or None, count, masked, unsampled, texts)


def _turns(sampled: Sequence[bool]) -> list[tuple[int, int]]:
    """Where runs of sampled tokens begin and end."""
    edges = np.flatnonzero(np.diff([False, *sampled, False]))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def _sample(
    each: Dumped, prompt: str, index: int, turn: tuple[int, int], number: int, turns: int
) -> Sample:
    first, last = turn
    kept = each.alternatives
    final = number == turns - 1
    return Sample(
        sample_id=each.sample_id if turns == 1 else f"{each.sample_id}/turn-{number}",
        prompt_id=prompt,
        sample_index=index,
        prompt_group=each.group,
        prompt_token_ids=each.token_ids[:first],
        completion_token_ids=each.token_ids[first:last],
        logprobs=each.behaviour[first:last],
        top_token_ids=None if kept is None else kept.ids[first:last],
        top_logprobs=None if kept is None else kept.logprobs[first:last],
        finish_reason=each.finish_reason if final else None,
        seed=None,
        policy_version=each.policy_version,
        text=each.text if turns == 1 else None,
    )


def _named(prompt: Sequence[int]) -> str:
    """A name for the prompt of these ids: samples of one group share it."""
    return f"prompt-{hashlib.sha256(np.asarray(prompt, '<i4').tobytes()).hexdigest()[:12]}"
