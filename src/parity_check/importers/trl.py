"""TRL's generations as JSON lines, one sequence or batch per line.

Fields as returned by `trl vllm-serve` (trl/scripts/vllm_serve.py) and by a `rollout_func`
(huggingface/trl), dumped with json.dumps:

    {"prompt_ids": [1, 17], "completion_ids": [92, 5], "logprobs": [-0.31, -1.2]}
    {"prompt_ids": [[1, 17]], "completion_ids": [[92, 5]], "logprobs": [[[-0.31], [-1.2]]],
     "logprob_token_ids": [[[92], [5]]]}

With several logprobs per token, `logprob_token_ids` identifies the sampled one; they are sorted by
rank (trl/generation/vllm_generation.py). The optional trainer side uses the names of
trl/trainer/grpo_trainer.py: `old_per_token_logps`, with `completion_mask` or a rollout_func's
`env_mask` (0 for tokens that the policy did not sample), and `sampling_per_token_logps` instead of
`logprobs`. The names `prompt_token_ids`, `completion_token_ids` (or `token_ids`) and
`token_logprobs` also work. TRL's own `completions_*.parquet` has only text, without token ids or
logprobs, and cannot be imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity_check.errors import InputError
from parity_check.importers.dump import (
    Alternatives,
    Dumped,
    check_lengths,
    json_rows,
    logprob_list,
    mask_list,
    text_or_none,
    token_list,
)

NAMES = {
    "prompt": ("prompt_ids", "prompt_token_ids"),
    "completion": ("completion_ids", "completion_token_ids", "token_ids"),
    "behaviour": ("sampling_per_token_logps", "token_logprobs", "logprobs"),
    "evaluating": ("old_per_token_logps", "trainer_logprobs"),
    "mask": ("env_mask", "completion_mask", "loss_mask"),
    "ids": ("logprob_token_ids",),
    "finish": ("finish_reason",),
    "group": ("env_name", "data_source"),
    "prompt_id": ("prompt_id",),
}
"""The accepted names of each field."""


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The sequences of all files, in order. Raises InputError."""
    for path in paths:
        if path.suffix == ".parquet":
            raise InputError(
                f"{path}: TRL's completions have only text, no token ids or logprobs",
                hint="dump the output of the rollout instead: prompt_ids, completion_ids, logprobs",
            )
        number = 0
        for place, row in json_rows(path):
            for sequence in _split(row, place):
                yield _sequence(sequence, f"{path.stem}/{number}", place)
                number += 1


def _found(row: Mapping[str, Any], kind: str) -> tuple[str, Any]:
    """The name and value of a field in a row; the value is None if it is missing."""
    for name in NAMES[kind]:
        if row.get(name) is not None:
            return name, row[name]
    return NAMES[kind][0], None


def _split(row: Mapping[str, Any], place: str) -> Iterator[Mapping[str, Any]]:
    """The sequences of a line; a batch has lists of lists of ids."""
    name, completion = _found(row, "completion")
    if completion is None:
        raise InputError(f"{place}: `{name}` is missing")
    if not (isinstance(completion, list) and completion and isinstance(completion[0], list)):
        yield row
        return
    prompts_name, prompts = _found(row, "prompt")
    if isinstance(prompts, list) and prompts and len(completion) % len(prompts) == 0:
        # The server returns each prompt once, and its n completions in a row.
        each = len(completion) // len(prompts)
        row = {**row, prompts_name: [prompt for prompt in prompts for _ in range(each)]}
    columns = {key: value for key, value in row.items() if isinstance(value, list)}
    check_lengths({name: completion, **columns}, place)
    for number in range(len(completion)):
        yield {**row, **{key: column[number] for key, column in columns.items()}}


def _sequence(row: Mapping[str, Any], sample_id: str, place: str) -> Dumped:
    lists: dict[str, list[int]] = {}
    for kind in ("prompt", "completion"):
        name, value = _found(row, kind)
        if value is None:
            raise InputError(f"{place}: `{name}` is missing")
        lists[kind] = token_list(value, name, place)
    prompt, completion = lists["prompt"], lists["completion"]
    name, logprobs = _found(row, "behaviour")
    if logprobs is None:
        raise InputError(f"{place}: `{NAMES['behaviour'][-1]}` is missing")
    alternatives = None
    if isinstance(logprobs, list) and any(isinstance(each, list) for each in logprobs):
        logprobs, alternatives = _ranked(row, completion, logprobs, name, place)
    columns: dict[str, Any] = {"completion": completion, name: logprob_list(logprobs, name, place)}
    other, evaluating = _found(row, "evaluating")
    if evaluating is not None:
        columns[other] = logprob_list(evaluating, other, place)
    masked, mask = _found(row, "mask")
    columns[masked] = [True] * len(completion) if mask is None else mask_list(mask, masked, place)
    check_lengths(columns, place)
    before = [None] * len(prompt)
    return Dumped(
        place=place,
        sample_id=sample_id,
        token_ids=[*prompt, *completion],
        sampled=[False] * len(prompt) + columns[masked],
        behaviour=[*before, *columns[name]],
        evaluating=None if evaluating is None else [*before, *columns[other]],
        prompt_id=text_or_none(_found(row, "prompt_id")[1]),
        group=text_or_none(_found(row, "group")[1]) or "",
        finish_reason=text_or_none(_found(row, "finish")[1]),
        alternatives=alternatives,
    )


def _ranked(
    row: Mapping[str, Any], completion: list[int], logprobs: list[Any], name: str, place: str
) -> tuple[list[Any], Alternatives | None]:
    """The sampled tokens' logprobs from the ranked lists, and the lists as alternatives."""
    other, ids = _found(row, "ids")
    if ids is None:
        if any(not isinstance(each, list) or len(each) != 1 for each in logprobs):
            raise InputError(f"{place}: several `{name}` per token, but no `{other}`")
        return [each[0] for each in logprobs], None
    if not isinstance(ids, list):
        raise InputError(f"{place}: `{other}` is not a list of token ids")
    check_lengths({"completion": completion, name: logprobs, other: ids}, place)
    sampled: list[Any] = []
    for token, values, names in zip(completion, logprobs, ids, strict=True):
        token_list(names, other, place)
        check_lengths({other: names, name: logprob_list(values, name, place)}, place)
        sampled.append(values[names.index(token)] if token in names else None)
    if all(len(each) <= 1 for each in ids):
        return sampled, None
    cleaned = [
        [(i, v) for i, v in zip(names, values, strict=True) if v is not None]
        for names, values in zip(ids, logprobs, strict=True)
    ]
    before: list[list[Any]] = [[] for _ in _found(row, "prompt")[1]]
    return sampled, Alternatives(
        [*before, *([i for i, _ in pairs] for pairs in cleaned)],
        [*before, *([float(v) for _, v in pairs] for pairs in cleaned)],
    )
