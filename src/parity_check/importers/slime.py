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

Logprobs and masks only cover the response. A rollout that was compacted or fanned out has several
samples with the same `rollout_ids` (`rollout_id` in rollout data). Train data has no prompts, so
equal prompts are found by the ids of a rollout's first sample. `eval_3.pt` numbers its samples like
`3.pt`; they are distinguished by content.
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
    check_masks,
    logprob_list,
    mask_list,
    text_or_none,
    token_list,
    turns_of,
    wanted,
)
from parity_check.importers.torch_file import read_torch

FORMAT_VERSION = 2
FINISHED = {"completed": "stop", "truncated": "length", "aborted": "abort"}
MASKS = ("loss_mask", "loss_masks", "rollout_mask_sums")
NO_ROLLOUT_LOGPROBS = "the generate function of this run did not store the engine's logprobs"


def recognise(tree: Any) -> bool:
    """Whether the object in a file is one of these."""
    return isinstance(tree, dict) and "samples" in tree and "rollout_id" in tree


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The sequences of all files, in order. Raises InputError."""
    names = Names()
    for path in paths:
        yield from sequences(path, read_torch(path), names)


class Names:
    """Names of the batches of several files: equal numbers are distinguished by content."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, list[Any]]] = {}

    def batch(self, path: Path, number: Any, samples: Sequence[Any]) -> str:
        """The name of a batch of samples. Raises InputError if it already occurred."""
        named = f"rollout-{number}"
        seen = self._seen.setdefault(named, {})
        tokens = [plain(each.get("tokens")) for each in samples if isinstance(each, dict)]
        if tokens in seen.values():
            raise InputError(f"{path}: has the samples of another file: the same file twice?")
        if path.stem in seen:
            raise InputError(
                f"{path}: {named} occurred already, with different samples: files of two runs?"
            )
        seen[path.stem] = tokens
        return named if len(seen) == 1 else f"{named}-{path.stem}"


def sequences(path: Path, tree: Any, names: Names) -> Iterator[Dumped]:
    """The sequences of one file's object. Raises InputError."""
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
    batch = names.batch(path, tree.get("rollout_id"), tree["samples"])
    for number, sample in enumerate(tree["samples"]):
        place = f"{path}, sample {number}"
        if not isinstance(sample, dict):
            raise InputError(f"{place}: expected a dictionary")
        check_masks(sample, MASKS, place)
        values = {key: plain(value) for key, value in sample.items()}
        yield (trained_sample if trained else _rolled_out)(values, batch, number, place)


def trained_sample(sample: Mapping[str, Any], batch: str, number: int, place: str) -> Dumped:
    """A sample of train data: both sides. Raises InputError."""
    return _sequence(
        sample,
        place,
        sample_id=f"{batch}/{number}",
        rollout_id=_rollout(batch, sample.get("rollout_ids")),
        length=wanted(sample, "response_lengths", place),
        mask=wanted(sample, "loss_masks", place),
        evaluating=wanted(sample, "log_probs", place),
        versions=sample.get("weight_versions"),
        group=str(sample.get("source_names") or ""),
        finish_reason="length" if sample.get("truncated") else None,
    )


def _rolled_out(sample: Mapping[str, Any], batch: str, number: int, place: str) -> Dumped:
    """A sample of rollout data: only the rollout side."""
    length = wanted(sample, "response_length", place)
    group = sample.get("group_index")
    if length == 0 and sample.get("rollout_log_probs") is None:
        sample = {**sample, "rollout_log_probs": []}  # it ended before its first token
    return _sequence(
        sample,
        place,
        sample_id=f"{batch}/{number}",
        rollout_id=_rollout(batch, sample.get("rollout_id")),
        length=length,
        mask=sample.get("loss_mask"),
        evaluating=None,
        versions=sample.get("weight_versions"),
        prompt_id=None if group is None else f"{batch}/group-{group}",
        finish_reason=FINISHED.get(str(sample.get("status"))),
        text=text_or_none(sample.get("response")),
    )


def _rollout(batch: str, number: Any) -> str | None:
    return None if number is None else f"{batch}/rollout-{number}"


def _sequence(
    sample: Mapping[str, Any],
    place: str,
    *,
    length: Any,
    mask: Any,
    evaluating: Any,
    versions: Any,
    **facts: Any,
) -> Dumped:
    ids = token_list(wanted(sample, "tokens", place), "tokens", place)
    if not isinstance(length, int) or not 0 <= length <= len(ids):
        raise InputError(
            f"{place}: a response length of {length} in a sequence of {len(ids)} tokens"
        )
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
    sampled = [False] * prompt + columns["loss_mask"]
    return Dumped(
        place=place,
        token_ids=ids,
        sampled=sampled,
        policy_versions=_versions(versions, sampled),
        behaviour=[None] * prompt + columns["rollout_log_probs"],
        evaluating=None if evaluating is None else [None] * prompt + columns["log_probs"],
        **facts,
    )


def _versions(names: Any, sampled: Sequence[bool]) -> list[int | None] | None:
    """The weight version of each token: one per engine call, usually one per turn."""
    if not isinstance(names, list):
        return None
    numbers = [int(n) for each in names if (n := str(each)).isdecimal() and len(n) < 19]
    if not numbers or len(numbers) != len(names):
        return None
    turns = turns_of(sampled)
    if len(turns) != len(numbers):
        return [min(numbers)] * len(sampled)
    found: list[int | None] = [None] * len(sampled)
    for (first, last), number in zip(turns, numbers, strict=True):
        found[first:last] = [number] * (last - first)
    return found


def plain(value: Any) -> Any:
    """A tensor as a list or a number."""
    return value.tolist() if isinstance(value, np.ndarray) else value
