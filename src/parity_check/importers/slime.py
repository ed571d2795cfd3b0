"""slime's dumps: `<dir>/train_data/<rollout>.pt` and `<dir>/rollout_data/<rollout>.pt`.

Written with `--dump-details <dir>` by slime/observability/train_data_utils.py and
rollout_data_utils.py (THUDM/slime), with torch.save. Train data has both sides:

    {"format_version": 2, "rollout_id": 3, "rank": 0, "dp_shards": […],
     "samples": [{"tokens": tensor(prompt and response), "response_lengths": 2,
                  "loss_masks": tensor([1, 1]), "rollout_log_probs": tensor([-0.31, -1.2]),
                  "log_probs": tensor([-0.30, -1.22]), "rollout_position": 0, "truncated": 0}]}

where `log_probs` are Megatron's, recomputed before the step (or taken from its forward pass).
Rollout data is what the engine returned, without a trainer:

    {"rollout_id": 3, "samples": [{"tokens": […], "response_length": 2, "loss_mask": None,
     "rollout_log_probs": [-0.31, -1.2], "group_index": 0, "index": 5, "status": "completed"}]}

Logprobs and masks only cover the response. Train data has no prompt ids, so equal prompts are found
by their token ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity_check.errors import InputError
from parity_check.importers.dump import (
    Dumped,
    check_lengths,
    logprob_list,
    mask_list,
    text_or_none,
    token_list,
    wanted,
)
from parity_check.importers.torch_file import read_torch

FORMAT_VERSION = 2
FINISHED = {"completed": "stop", "truncated": "length", "aborted": "abort"}
NO_ROLLOUT_LOGPROBS = "the generate function of this run did not store the engine's logprobs"


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The sequences of all files, in order. Raises InputError."""
    for path in paths:
        tree = read_torch(path)
        if not isinstance(tree, dict) or not isinstance(tree.get("samples"), list):
            raise InputError(
                f"{path}: no `samples`: not a slime dump",
                hint="pass files of train_data/ (both sides) or rollout_data/ (rollout side)",
            )
        trained = "format_version" in tree
        if trained and tree["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{path}: slime train dump version {tree['format_version']}, but this version of "
                f"parity-check reads {FORMAT_VERSION}"
            )
        for number, sample in enumerate(tree["samples"]):
            place = f"{path}, sample {number}"
            if not isinstance(sample, dict):
                raise InputError(f"{place}: expected a dictionary")
            named = f"rollout-{tree.get('rollout_id')}/{number}"
            plain = {key: _plain(value) for key, value in sample.items()}
            yield (_trained if trained else _rolled_out)(plain, named, place)


def _trained(sample: Mapping[str, Any], named: str, place: str) -> Dumped:
    """A sample of train data: both sides."""
    return _sequence(
        sample,
        place,
        sample_id=named,
        length=wanted(sample, "response_lengths", place),
        mask=wanted(sample, "loss_masks", place),
        evaluating=wanted(sample, "log_probs", place),
        group=str(sample.get("source_names") or ""),
        finish_reason="length" if sample.get("truncated") else None,
    )


def _rolled_out(sample: Mapping[str, Any], named: str, place: str) -> Dumped:
    """A sample of rollout data: only the rollout side."""
    length = wanted(sample, "response_length", place)
    mask, group = sample.get("loss_mask"), sample.get("group_index")
    versions = sample.get("weight_versions")
    first = str(versions[0]) if isinstance(versions, list) and versions else ""
    return _sequence(
        sample,
        place,
        sample_id=named,
        length=length,
        mask=mask,
        evaluating=None,
        prompt_id=None if group is None else f"{named.partition('/')[0]}/group-{group}",
        finish_reason=FINISHED.get(str(sample.get("status"))),
        policy_version=int(first) if first.isdecimal() and len(first) < 19 else None,
        text=text_or_none(sample.get("response")),
    )


def _sequence(
    sample: Mapping[str, Any],
    place: str,
    *,
    length: Any,
    mask: Any,
    evaluating: Any,
    **facts: Any,
) -> Dumped:
    ids = token_list(wanted(sample, "tokens", place), "tokens", place)
    if not isinstance(length, int) or not 0 <= length <= len(ids):
        raise InputError(f"{place}: a response of {length} tokens in a sequence of {len(ids)}")
    rollout = wanted(sample, "rollout_log_probs", place, NO_ROLLOUT_LOGPROBS)
    columns: dict[str, Any] = {
        "response": ids[len(ids) - length :],
        "loss_mask": [True] * length if mask is None else mask_list(mask, "loss_mask", place),
        "rollout_log_probs": logprob_list(rollout, "rollout_log_probs", place),
    }
    if evaluating is not None:
        columns["log_probs"] = logprob_list(evaluating, "log_probs", place)
    check_lengths(columns, place)
    prompt = len(ids) - length
    return Dumped(
        place=place,
        token_ids=ids,
        sampled=[False] * prompt + columns["loss_mask"],
        behaviour=[None] * prompt + columns["rollout_log_probs"],
        evaluating=None if evaluating is None else [None] * prompt + columns["log_probs"],
        **facts,
    )


def _plain(value: Any) -> Any:
    """A tensor as a list or a number."""
    return value.tolist() if isinstance(value, np.ndarray) else value
