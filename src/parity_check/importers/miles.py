"""miles' dumps: `<dir>/rollout_data/<rollout>.pt` as slime's, and `train_data/<rollout>_<rank>.pt`.

Written with `--dump-details <dir>` by miles/utils/train_dump_utils.py (radixark/miles), one file
per rank, with columns instead of samples:

    {"rollout_id": 3, "rank": 0, "cp_rank": 0, "cp_size": 1, "qkv_format": "thd",
     "rollout_data": {"tokens": […], "response_lengths": […], "loss_masks": […],
                      "rollout_log_probs": […], "log_probs": […], "rollout_ids": […],
                      "sample_indices": […]}}

Ranks of one data-parallel shard write the same samples: each is read once, from the first file that
has it. With context parallelism, files have slices of sequences, which are rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity_check.errors import InputError
from parity_check.importers import slime
from parity_check.importers.dump import Dumped, check_masks
from parity_check.importers.torch_file import read_torch

COLUMNS = ("tokens", "response_lengths", "loss_masks", "sample_indices")
NO_LOGPROBS = "only ranks of the last pipeline stage have the trainer's `log_probs`: pass their "
"files"


def recognise(tree: Any) -> bool:
    """Whether the object in a file has this format, and not slime's."""
    return isinstance(tree, dict) and isinstance(tree.get("rollout_data"), dict)


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The sequences of all files, in order. Raises InputError."""
    names, seen = slime.Names(), set[tuple[Any, Any]]()
    for path in paths:
        tree = read_torch(path)
        if not recognise(tree):
            yield from slime.sequences(path, tree, names)
            continue
        if tree.get("cp_size", 1) != 1:
            raise InputError(
                f"{path}: slices of sequences (context parallelism over {tree['cp_size']} ranks)",
                hint="dump a run without context parallelism",
            )
        number = tree.get("rollout_id")
        for row, sample in enumerate(_rows(path, tree["rollout_data"])):
            index = sample["sample_indices"]
            if (number, index) not in seen:
                seen.add((number, index))
                place = f"{path}, sample {row}"
                yield slime.trained_sample(sample, f"rollout-{number}", index, place)


def _rows(path: Path, columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The samples of a rank, from columns of equal length."""
    check_masks(columns, slime.MASKS, str(path))
    for name in COLUMNS:
        if not isinstance(columns.get(name), list):
            raise InputError(f"{path}: `{name}` is missing")
    if columns.get("log_probs") is None:
        raise InputError(f"{path}: `log_probs` is missing", hint=NO_LOGPROBS)
    size = len(columns["tokens"])
    for name in (*COLUMNS, "log_probs", "rollout_log_probs"):
        if columns.get(name) is not None and len(columns[name]) != size:
            raise InputError(f"{path}: `{name}` has {len(columns[name])} rows, `tokens` has {size}")
    whole = {
        name: column
        for name, column in columns.items()
        if isinstance(column, list) and len(column) == size
    }
    for row in range(size):
        yield {name: slime.plain(column[row]) for name, column in whole.items()}
