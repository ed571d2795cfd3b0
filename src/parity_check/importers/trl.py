"""TRL's generations as JSON lines, one sequence or batch per line.

Fields as a `rollout_func` returns them, and as GRPOTrainer._generate_and_score_completions does
(huggingface/trl, trl/trainer/grpo_trainer.py), each dumped with json.dumps:

    {"prompt_ids": [1, 17], "completion_ids": [92, 5], "logprobs": [-0.31, -1.2]}
    {"prompt_ids": [[1, 17]], "completion_ids": [[92, 5]], "logprobs": [[[-0.31], [-1.2]]],
     "logprob_token_ids": [[[92], [5]]]}
    {"prompt_ids": [[0, 1, 17]], "prompt_mask": [[0, 1, 1]], "completion_ids": [[92, 5, 0]],
     "completion_mask": [[1, 1, 0]], "tool_mask": [[1, 1, 1]],
     "sampling_per_token_logps": [[-0.31, -1.2, 0]], "old_per_token_logps": [[-0.30, -1.22, 0]]}

`prompt_mask` and `completion_mask` exclude padding (or a completion that the trainer dropped);
`tool_mask` and a rollout_func's `env_mask` or `loss_mask` exclude context that the policy did not
sample. The trainer's tensors are padded, prompts on the left: without their masks they are
rejected. With more than one logprob per token, `logprob_token_ids` shows which one was sampled;
they are sorted by rank (trl/generation/vllm_generation.py). A plain line may say
`prompt_token_ids`, `completion_token_ids` (or `token_ids`) and `token_logprobs` instead. What TRL
itself keeps, `completions_*.parquet`, is text without token ids or logprobs: it is refused.
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
    check_masks,
    json_rows,
    kept,
    logprob_list,
    mask_list,
    text_or_none,
    token_list,
)
from parity_check.importers.padding import check_unpadded

NAMES = {
    "prompt": ("prompt_ids", "prompt_token_ids"),
    "completion": ("completion_ids", "completion_token_ids", "token_ids"),
    "behaviour": ("sampling_per_token_logps", "token_logprobs", "logprobs"),
    "evaluating": ("old_per_token_logps", "trainer_logprobs"),
    "ids": ("logprob_token_ids",),
    "finish": ("finish_reason",),
    "group": ("env_name", "data_source"),
    "prompt_id": ("prompt_id",),
}
"""The accepted names of each field."""
PADDING = ("prompt_mask", "completion_mask")
CONTEXT = ("tool_mask", "env_mask", "loss_mask")
MASKS = {*PADDING, *CONTEXT, "pixel_attention_mask"}
"""Token masks, and an image mask."""
TENSORS = ("sampling_per_token_logps", "num_items_in_batch", "completion_mask")
"""Fields of the trainer's output, which are padded tensors."""


def recognise(row: Any) -> bool:
    """Whether the first line of a file is one of these."""
    if not isinstance(row, dict) or "choices" in row:
        return False
    return all(any(name in row for name in NAMES[kind]) for kind in ("prompt", "completion"))


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The sequences of all files, in order. Raises InputError."""
    for path in paths:
        if path.suffix == ".parquet":
            raise InputError(
                f"{path}: TRL's completions have only text, no token ids or logprobs",
                hint="dump the output of the rollout instead: prompt_ids, completion_ids, logprobs",
            )
        lines: list[tuple[str, list[Mapping[str, Any]]]] = []
        for place, row in json_rows(path):
            check_masks(row, MASKS, place)
            lines.append((place, list(_split(row, place))))
        for place, batch in lines:
            _check_padding(batch, place)
        if all(len(batch) == 1 for _, batch in lines):
            _check_padding([batch[0] for _, batch in lines], str(path))
        sequences = [(place, each) for place, batch in lines for each in batch]
        for number, (place, sequence) in enumerate(sequences):
            yield _sequence(sequence, f"{path.stem}/{number}", place)


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
        # The server returns each prompt once, followed by its n completions.
        each = len(completion) // len(prompts)
        row = {**row, prompts_name: [prompt for prompt in prompts for _ in range(each)]}
    columns = {key: value for key, value in row.items() if isinstance(value, list)}
    check_lengths({name: completion, **columns}, place)
    for number in range(len(completion)):
        yield {**row, **{key: column[number] for key, column in columns.items()}}


def _check_padding(sequences: Sequence[Mapping[str, Any]], place: str) -> None:
    """Reject sequences that are padded without a mask. Raises InputError."""
    tensors = any(name in each for each in sequences for name in TENSORS)
    for kind, mask in (("prompt", "prompt_mask"), ("completion", "completion_mask")):
        rows = [_found(each, kind)[1] for each in sequences]
        if any(each.get(mask) is not None for each in sequences) or not _lists(rows):
            continue
        values = [_found(each, "behaviour")[1] for each in sequences]
        check_unpadded(
            rows,
            "start" if kind == "prompt" else "end",
            certain=tensors,
            missing=mask,
            place=place,
            logprobs=values if kind == "completion" and _lists(values) else None,
        )


def _lists(values: Sequence[Any]) -> bool:
    return all(isinstance(each, list) for each in values)


def _sequence(row: Mapping[str, Any], sample_id: str, place: str) -> Dumped:
    lists: dict[str, list[int]] = {}
    for kind in ("prompt", "completion"):
        name, value = _found(row, kind)
        if value is None:
            raise InputError(f"{place}: `{name}` is missing")
        lists[kind] = token_list(value, name, place)
    prompt, completion = _prompt(row, lists["prompt"], place), lists["completion"]
    name, logprobs = _found(row, "behaviour")
    if logprobs is None:
        raise InputError(f"{place}: `{NAMES['behaviour'][-1]}` is missing")
    alternatives = None
    if isinstance(logprobs, list) and any(isinstance(each, list) for each in logprobs):
        logprobs, alternatives = _ranked(row, completion, logprobs, name, place)
    columns: dict[str, Any] = {
        "completion": completion,
        "behaviour": logprob_list(logprobs, name, place),
        **{
            mask: mask_list(row[mask], mask, place)
            for mask in ("completion_mask", *CONTEXT)
            if row.get(mask) is not None
        },
    }
    other, evaluating = _found(row, "evaluating")
    if evaluating is not None:
        columns["evaluating"] = logprob_list(evaluating, other, place)
    if alternatives is not None:
        columns |= {"ids": alternatives.ids, "logprobs": alternatives.logprobs}
    stated = {"behaviour": name, "evaluating": other}
    check_lengths({stated.get(key, key): each for key, each in columns.items()}, place)
    if "completion_mask" in columns:
        columns = kept(columns, columns["completion_mask"])
    size = len(columns["completion"])
    context = [columns[mask] for mask in CONTEXT if mask in columns]
    before: list[Any] = [None] * len(prompt)
    nothing: list[list[Any]] = [[] for _ in prompt]
    return Dumped(
        place=place,
        sample_id=sample_id,
        token_ids=[*prompt, *columns["completion"]],
        sampled=[False] * len(prompt) + [all(mask[t] for mask in context) for t in range(size)],
        behaviour=[*before, *columns["behaviour"]],
        evaluating=None if evaluating is None else [*before, *columns["evaluating"]],
        prompt_id=text_or_none(_found(row, "prompt_id")[1]),
        group=text_or_none(_found(row, "group")[1]) or "",
        finish_reason=text_or_none(_found(row, "finish")[1]),
        alternatives=None
        if alternatives is None
        else Alternatives([*nothing, *columns["ids"]], [*nothing, *columns["logprobs"]]),
    )


def _prompt(row: Mapping[str, Any], ids: list[int], place: str) -> list[int]:
    """The prompt without its padding."""
    if row.get("prompt_mask") is None:
        return ids
    mask = mask_list(row["prompt_mask"], "prompt_mask", place)
    check_lengths({"prompt": ids, "prompt_mask": mask}, place)
    return kept({"prompt": ids}, mask)["prompt"]


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
    return sampled, Alternatives(
        [[i for i, _ in pairs] for pairs in cleaned],
        [[float(v) for _, v in pairs] for pairs in cleaned],
    )
