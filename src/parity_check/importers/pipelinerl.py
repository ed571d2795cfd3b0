"""PipelineRL's actor stream: `<run>/streams/actor/0/0/0.jsonl`, written by every run.

A line is a list of texts, one per engine call (pipelinerl/rollouts.py, TrainingText;
ServiceNow/PipelineRL). The fields that are read:

    [{"input_ids": [1, 17, 92, 5], "labels": [-100, -100, 92, 5], "logprobs": [-0.31, -1.2],
      "group_id": "g0", "finished": true,
      "metadata": {"model_version": 3, "rollout_index": 0, "step_index": 0}}]

`labels` are -100 where the policy did not sample; `logprobs` are those of the labelled tokens
alone. `rollout_index` is the rollout within its group, `step_index` the call within the rollout:
the texts of one rollout are its turns. `model_version` is the weight version at the start of the
rollout, or one number per labelled token. There is no trainer side: the stream is written before
the trainer reads a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity_check.errors import InputError
from parity_check.importers.dump import (
    Dumped,
    check_lengths,
    check_masks,
    json_lines,
    logprob_list,
    objects,
    token_list,
    wanted,
)

NOT_SAMPLED = -100
NO_LOGPROBS = "logprobs were not requested from the engine (llm.collect_logprobs)"


def recognise(line: Any) -> bool:
    """Whether the first line of a file is one of these."""
    texts = line if isinstance(line, list) else [line]
    return bool(texts) and all(
        isinstance(each, dict) and "labels" in each and "input_ids" in each for each in texts
    )


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The texts of all files, in order. Raises InputError."""
    for path in paths:
        for number, (place, line) in enumerate(json_lines(path)):
            texts = line if isinstance(line, list) else [line]
            for index, text in enumerate(objects(texts, "line", place)):
                yield _sequence(text, f"{path.stem}-{number}/{index}", f"{place}, text {index}")


def _sequence(text: Mapping[str, Any], named: str, place: str) -> Dumped:
    check_masks(text, (), place)
    ids = token_list(wanted(text, "input_ids", place), "input_ids", place)
    labels = wanted(text, "labels", place)
    if not isinstance(labels, list):
        raise InputError(f"{place}: `labels` is not a list")
    check_lengths({"input_ids": ids, "labels": labels}, place)
    sampled = [label != NOT_SAMPLED for label in labels]
    for token, label, own in zip(ids, labels, sampled, strict=True):
        if own and label != token:
            raise InputError(
                f"{place}: a label of {label!r} at token {token}: another text's labels"
            )
    logprobs = logprob_list(wanted(text, "logprobs", place), "logprobs", place)
    count = sum(sampled)
    if count and not logprobs:
        raise InputError(f"{place}: `logprobs` is empty", hint=NO_LOGPROBS)
    if len(logprobs) != count:
        raise InputError(
            f"{place}: `logprobs` has {len(logprobs)} entries, but `labels` has {count} sampled "
            "tokens"
        )
    metadata = text.get("metadata")
    facts: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
    group, rollout = text.get("group_id"), facts.get("rollout_index")
    return Dumped(
        place=place,
        sample_id=named,
        token_ids=ids,
        sampled=sampled,
        behaviour=_spread(logprobs, sampled),
        evaluating=None,
        prompt_id=None if group is None else str(group),
        rollout_id=None if None in (group, rollout) else f"{group}/{rollout}",
        group=str(facts.get("domain") or facts.get("dataset") or ""),
        finish_reason="stop" if text.get("finished") else "length",
        policy_versions=_versions(facts.get("model_version"), sampled, place),
    )


def _spread(values: Sequence[Any], sampled: Sequence[bool]) -> list[Any]:
    """Values of the sampled tokens, at their positions."""
    left = iter(values)
    return [next(left) if own else None for own in sampled]


def _versions(stated: Any, sampled: Sequence[bool], place: str) -> list[int | None] | None:
    if not isinstance(stated, list):
        return [stated] * len(sampled) if isinstance(stated, int) else None
    if len(stated) != sum(sampled) or not all(isinstance(each, int) for each in stated):
        raise InputError(f"{place}: `model_version` is not one number per sampled token")
    return _spread(stated, sampled)
