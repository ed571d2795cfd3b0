"""Convert sequences of a dump to samples: one per turn, with masked tokens only as context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from parity_check import interrupts, words
from parity_check.errors import InputError
from parity_check.importers.dump import Dumped, Logprobs, prompt_name, turns_of
from parity_check.traces.trace import Sample


@dataclass(frozen=True, slots=True)
class Imported:
    """Samples of both sides, with the same tokens, and counts of the conversion.

    `evaluating` is None if the dump has one side. `masked` counts tokens between sampled ones that
    the policy did not sample. `unsampled` counts sequences without a sampled token. Of several
    sequences, some may be of one rollout.
    """

    behaviour: list[Sample]
    evaluating: list[Sample] | None
    sequences: int
    rollouts: int
    masked: int
    unsampled: int
    texts: dict[int, str]


@dataclass(slots=True)
class _Rollout:
    """A rollout whose turns are being collected; `index` counts the rollouts of its prompt."""

    name: str
    prompt: str
    index: int
    turns: int = 0


def collect(sequences: Iterable[Dumped]) -> Imported:
    """All sequences as samples. Raises InputError if there are none, or if sides are mixed.

    A sequence of several turns becomes one sample a turn, whose prompt is everything before it:
    that is how the policy saw it, and how a replay must show it. They share their `rollout_id` and
    their `prompt_id`, which is that of the rollout's first sequence.
    """
    behaviour: list[Sample] = []
    evaluating: list[Sample] = []
    places: dict[str, tuple[str, str]] = {}
    rollouts: dict[str, _Rollout] = {}
    indices: dict[str, int] = {}
    texts: dict[int, str] = {}
    sided: dict[bool, str] = {}
    masked = unsampled = count = 0
    for each in sequences:
        count += 1
        if each.sample_id in places:
            there, tokens = places[each.sample_id]
            same = tokens == prompt_name(each.token_ids)
            raise InputError(
                f"{each.place}: sample {each.sample_id} already occurred at {there}"
                + (
                    ": the same file twice?"
                    if same
                    else ", with different tokens: files of two runs?"
                )
            )
        interrupts.check()
        places[each.sample_id] = each.place, prompt_name(each.token_ids)
        sided.setdefault(each.evaluating is not None, each.place)
        if len(sided) > 1:
            raise InputError(
                f"{sided[False]}: no trainer logprobs, but {sided[True]} has them",
                hint="import one-sided and two-sided dumps separately",
            )
        texts.update(each.texts)
        turns = turns_of(each.sampled)
        if not turns:
            unsampled += 1
            continue
        masked += turns[-1][1] - turns[0][0] - sum(last - first for first, last in turns)
        name = each.rollout_id or each.sample_id
        if name not in rollouts:
            prompt = each.prompt_id or prompt_name(each.token_ids[: turns[0][0]])
            index = indices[prompt] = indices.get(prompt, -1) + 1
            rollouts[name] = _Rollout(name, prompt, index)
        rollout = rollouts[name]
        for number, turn in enumerate(turns):
            sample = _sample(each, rollout, turn, number, len(turns))
            rollout.turns += 1
            behaviour.append(sample)
            if each.evaluating is not None:
                other: Logprobs = each.evaluating[turn[0] : turn[1]]
                evaluating.append(
                    replace(sample, logprobs=other, top_token_ids=None, top_logprobs=None)
                )
    if not count:
        raise InputError("the dump is empty: no sequences")
    if not behaviour:
        raise InputError(
            f"no sampled token in {words.count(count, 'sequence')}: all tokens are masked"
        )
    return Imported(behaviour, evaluating or None, count, len(rollouts), masked, unsampled, texts)


def _sample(
    each: Dumped, rollout: _Rollout, turn: tuple[int, int], number: int, turns: int
) -> Sample:
    first, last = turn
    kept = each.alternatives
    final = number == turns - 1
    return Sample(
        sample_id=each.sample_id if turns == 1 else f"{each.sample_id}/turn-{number}",
        prompt_id=rollout.prompt,
        sample_index=rollout.index,
        prompt_group=each.group,
        prompt_token_ids=each.token_ids[:first],
        completion_token_ids=each.token_ids[first:last],
        logprobs=each.behaviour[first:last],
        top_token_ids=None if kept is None else kept.ids[first:last],
        top_logprobs=None if kept is None else kept.logprobs[first:last],
        finish_reason=each.finish_reason if final else None,
        seed=None,
        policy_version=_oldest(each.policy_versions, first, last),
        text=each.text if turns == 1 else None,
        rollout_id=rollout.name,
        turn=rollout.turns,
    )


def _oldest(versions: Sequence[int | None] | None, first: int, last: int) -> int | None:
    known = [] if versions is None else [each for each in versions[first:last] if each is not None]
    return min(known, default=None)
