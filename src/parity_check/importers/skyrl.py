"""SkyRL's training batches: `<export_path>/dumped_data/*.pkl`.

Written with `trainer.dump_data_batch=true` by skyrl/train/trainer.py through
skyrl/backends/skyrl_train/training_batch.py (NovaSky-AI/SkyRL): a pickle of a TensorBatch. Its
state has each tensor as bytes with a shape and a dtype (or, e.g. for bfloat16, as torch.save data),
so it can be read without building objects:

    sequences [B, T]   attention_mask [B, T]   response_mask [B, R]   loss_mask [B, R]
    rollout_logprobs [B, R] (generator.sampling_params.logprobs=0)
    action_log_probs [B, R] (the trainer's, once they are computed)

Rows are padded on the left (until mid-2026 responses on the right), and `attention_mask` says
where; the response columns are the last R of `sequences`. Rows that fill up a batch have a
`loss_mask` of zeros. The trainer takes the prompts' uids out before it writes: equal prompts are
found by their ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity_check.errors import InputError
from parity_check.importers.dump import Dumped, check_masks, token_list
from parity_check.importers.torch_file import Opaque, guarded_archive, read_pickle

MASKS = ("attention_mask", "response_mask", "loss_mask", "router_padding_mask")
"""Masks of tokens, and one of routes."""
NO_LOGPROBS = "set generator.sampling_params.logprobs=0, so that the engine returns them"


def recognise(tree: Any) -> bool:
    """Whether the object in a file is one of these."""
    return _state(tree) is not None


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The sequences of all files, in order. Raises InputError."""
    for path in paths:
        state = _state(read_pickle(path))
        if state is None:
            raise InputError(f"{path}: not a SkyRL TrainingInputBatch (trainer.dump_data_batch)")
        yield from _sequences(path, _tensors(path, state["batch_dict"]))


def _state(tree: Any) -> dict[str, Any] | None:
    """The state of a pickled TensorBatch."""
    if not isinstance(tree, Opaque) or len(tree.arguments) != 2:
        return None
    state = tree.arguments[1]
    known = isinstance(state, dict) and isinstance(state.get("batch_dict"), dict)
    return state if known else None


def _tensors(path: Path, columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return {
        str(name): array
        for name, stored in columns.items()
        if isinstance(stored, dict) and (array := _array(path, str(name), stored)) is not None
    }


def _array(path: Path, name: str, stored: Mapping[str, Any]) -> NDArray[Any] | None:
    """One tensor; None for a list of tensors (pictures)."""
    if stored.get("format") == "torch":
        found = guarded_archive(stored.get("data"), path)
        return found if isinstance(found, np.ndarray) else None
    if stored.get("format", "numpy") != "numpy":
        return None
    try:
        dtype = np.dtype(str(stored["dtype"]))
        if dtype.hasobject:
            raise ValueError("objects")
        return np.frombuffer(stored["data"], dtype).reshape(stored["shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: `{name}` is damaged: {error}") from None


def _sequences(path: Path, tensors: dict[str, NDArray[Any]]) -> Iterator[Dumped]:
    check_masks(tensors, MASKS, str(path))
    for name in ("sequences", "attention_mask", "loss_mask", "rollout_logprobs"):
        if name not in tensors:
            hint = NO_LOGPROBS if name == "rollout_logprobs" else None
            raise InputError(f"{path}: `{name}` is missing", hint=hint)
    width = _check_shapes(path, tensors)
    for row in range(len(tensors["sequences"])):
        place = f"{path}, sample {row}"
        there = tensors["attention_mask"][row] != 0
        sampled = np.zeros(len(there), bool)
        sampled[-width:] = tensors["loss_mask"][row] != 0
        if "response_mask" in tensors:
            sampled[-width:] &= tensors["response_mask"][row] != 0
        if sampled[~there].any():
            raise InputError(f"{place}: `loss_mask` counts tokens that `attention_mask` excludes")
        sides = []
        for name in ("rollout_logprobs", "action_log_probs"):
            side = np.full(len(there), np.nan)
            side[-width:] = tensors[name][row] if name in tensors else np.nan
            sides.append(side[there].tolist())
        yield Dumped(
            place=place,
            sample_id=f"{path.stem}/{row}",
            token_ids=token_list(tensors["sequences"][row][there].tolist(), "sequences", place),
            sampled=sampled[there].tolist(),
            behaviour=sides[0],
            evaluating=sides[1] if "action_log_probs" in tensors else None,
        )


def _check_shapes(path: Path, tensors: Mapping[str, NDArray[Any]]) -> int:
    """The width of the responses. Raises InputError if shapes do not match."""
    shape = tensors["sequences"].shape
    if len(shape) != 2 or tensors["loss_mask"].ndim != 2:
        raise InputError(f"{path}: `sequences` and `loss_mask` do not have two axes")
    width = int(tensors["loss_mask"].shape[1])
    behind = (shape[0], width)
    expected = {
        "attention_mask": shape, "loss_mask": behind, "response_mask": behind,
        "rollout_logprobs": behind, "action_log_probs": behind,
    }  # fmt: skip
    for name, asked in expected.items():
        if name in tensors and tensors[name].shape != asked:
            found = "×".join(map(str, tensors[name].shape))
            raise InputError(f"{path}: `{name}` is {found}, not {'×'.join(map(str, asked))}")
    if not 0 < width <= shape[1]:
        raise InputError(f"{path}: responses of {width} tokens in sequences of {shape[1]}")
    return width
