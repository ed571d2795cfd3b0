"""Convert sequences of a dump to samples: one per turn, with masked tokens only as context."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from parity_check.errors import InputError
from parity_check.importers.dump import Dumped, Logprobs
from parity_check.traces.trace import Sample


@dataclass(frozen=True, slots=True)
class Imported:
    """Samples of both sides, with the same tokens, and counts of the conversion.

    `evaluating` is None if the dump has one side. `masked` counts tokens between sampled ones that
    the policy did not sample. `unsampled` counts sequences without a sampled token.
    """

    behaviour: list[Sample]
    evaluating: list[Sample] | None
    sequences: int
    masked: int
    unsampled: int
    texts: dict[int, str]


def collect(sequences: Iterable[Dumped]) -> Imported:
    """All sequences as samples. Raises InputError if there are none, or if sides are mixed.

    A sequence of several turns becomes one sample per turn, whose prompt is everything before it,
    as the policy saw it and as a replay must present it. These samples share their `prompt_id`.
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
                f"{each.place}: sample {each.sample_id} already occurred at "
                f"{places[each.sample_id]}: did you pass the same file twice?"
            )
        places[each.sample_id] = each.place
        sided.setdefault(each.evaluating is not None, each.place)
        if len(sided) > 1:
            raise InputError(
                f"{sided[False]}: no trainer logprobs, but {sided[True]} has them",
                hint="import one-sided and two-sided dumps separately",
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
        raise InputError(f"no sampled token in {count} sequences: all tokens are masked")
    return Imported(behaviour, evaluating or None, count, masked, unsampled, texts)


def _turns(sampled: Sequence[bool]) -> list[tuple[int, int]]:
    """The begin and end of each run of sampled tokens."""
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
    """A name for the prompt with these ids, shared by the samples of a group."""
    return f"prompt-{hashlib.sha256(np.asarray(prompt, '<i4').tobytes()).hexdigest()[:12]}"
