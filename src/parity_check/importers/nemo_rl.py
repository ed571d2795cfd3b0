"""NeMo-RL's training data: `<logs>/train_data_step<n>.jsonl`, written by every GRPO run.

Written by nemo_rl/algorithms/grpo.py through Logger.log_batched_dict_as_jsonl (NVIDIA-NeMo/RL), one
sample per line, each field a batch of one. The fields that are read:

    {"input_lengths": [3], "token_ids": [[1, 92, 5, 0]], "token_loss_mask": [[0.0, 1.0, 1.0, 0.0]],
     "sample_loss_mask": [1.0], "generation_logprobs": [[0.0, -0.31, -1.2, 0.0]],
     "prev_logprobs": [[0.0, -0.30, -1.22, 0.0]], "idx": 0}

All columns are aligned with `token_ids` and padded on the right: `input_lengths` is the length of a
sample. `prev_logprobs` are the trainer's. Samples with a `sample_loss_mask` of 0 are dropped, as in
the loss. There are no prompt names: equal prompts are found by their ids.
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
    json_rows,
    logprob_list,
    mask_list,
    text_or_none,
    token_list,
    wanted,
)

COLUMNS = ("token_ids", "token_loss_mask", "generation_logprobs", "prev_logprobs")
MASKS = ("token_loss_mask", "sample_loss_mask")


def recognise(row: Any) -> bool:
    """Whether the first line of a file is one of these."""
    return isinstance(row, dict) and "generation_logprobs" in row and "token_ids" in row


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The samples of all files, in order. Raises InputError."""
    for path in paths:
        for number, (place, row) in enumerate(json_rows(path)):
            check_masks(row, MASKS, place)
            for index, sample in enumerate(_samples(row, place)):
                named = f"{path.stem}/{row.get('idx', number)}"
                yield _sequence(sample, named if index == 0 else f"{named}.{index}", place)


def _samples(row: Mapping[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """The samples of a line: a batch, usually of one."""
    names = (*COLUMNS, "input_lengths", "sample_loss_mask")
    batch = {name: wanted(row, name, place) for name in names}
    for name, column in batch.items():
        if not isinstance(column, list):
            raise InputError(f"{place}: `{name}` is not a list")
    check_lengths(batch, place)
    agents = row.get("agent_ref")
    for number in range(len(batch["token_ids"])):
        sample = {name: column[number] for name, column in batch.items()}
        if isinstance(agents, list) and len(agents) > number:
            sample["agent"] = agents[number]
        yield sample


def _sequence(sample: Mapping[str, Any], sample_id: str, place: str) -> Dumped:
    ids = token_list(sample["token_ids"], "token_ids", place)
    mask = mask_list(sample["token_loss_mask"], "token_loss_mask", place)
    [counts] = mask_list([sample["sample_loss_mask"]], "sample_loss_mask", place)
    sides = {name: logprob_list(sample[name], name, place) for name in COLUMNS[2:]}
    check_lengths({"token_ids": ids, "token_loss_mask": mask, **sides}, place)
    length = sample["input_lengths"]
    if not isinstance(length, int) or not 0 <= length <= len(ids):
        raise InputError(f"{place}: an input length of {length}, but only {len(ids)} tokens")
    if any(mask[length:]):
        raise InputError(f"{place}: `token_loss_mask` counts tokens beyond `input_lengths`")
    return Dumped(
        place=place,
        sample_id=sample_id,
        token_ids=ids[:length],
        sampled=[own and counts for own in mask[:length]],
        behaviour=sides["generation_logprobs"][:length],
        evaluating=sides["prev_logprobs"][:length],
        group=text_or_none(_agent(sample.get("agent"))) or "",
    )


def _agent(agent: Any) -> Any:
    return agent.get("name") if isinstance(agent, dict) else agent
