"""Dumps as the frameworks write them, in small; torch's format without torch."""

from __future__ import annotations

import io
import json
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

Rollout = tuple[list[int], list[float], list[float]]
"""Token ids, and two logprobs of each."""
KINDS = {"float32": "FloatStorage", "int64": "LongStorage", "int32": "IntStorage"}


class Storage:
    """The flat values behind a tensor."""

    def __init__(self, values: np.ndarray[Any, Any]) -> None:
        self.values = np.ascontiguousarray(values).reshape(-1)


def named(module: str, name: str) -> Any:
    """A class that pickles as module.name, found there for as long as `torch_modules` is in use."""
    return type(name, (), {"__module__": module, "__qualname__": name})


REBUILD = named("torch._utils", "_rebuild_tensor_v2")
STORAGE_KINDS = {kind: named("torch", kind) for kind in KINDS.values()}


def torch_modules() -> Any:
    """Stand-ins that let a pickle name torch's classes."""
    utils, torch = types.ModuleType("torch._utils"), types.ModuleType("torch")
    utils._rebuild_tensor_v2 = REBUILD  # type: ignore[attr-defined]
    for kind, stand_in in STORAGE_KINDS.items():
        setattr(torch, kind, stand_in)
    return mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils})


class Pickler(pickle.Pickler):
    """What torch.save does with tensors: a storage apart, a call that rebuilds the tensor."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=2)
        self.storages: list[Storage] = []

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray):
            return NotImplemented
        strides = tuple(step // obj.itemsize for step in obj.strides)
        return REBUILD, (Storage(obj), 0, obj.shape, strides, False, OrderedDict())

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        self.storages.append(obj)
        kind = STORAGE_KINDS[KINDS[str(obj.values.dtype)]]
        return "storage", kind, str(len(self.storages) - 1), "cpu", len(obj.values)


def torch_save(tree: Any, path: Path) -> Path:
    """A zip archive as torch.save writes it; arrays stand for tensors."""
    stream = io.BytesIO()
    pickler = Pickler(stream)
    with torch_modules():
        pickler.dump(tree)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for number, storage in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{number}", storage.values.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """JSON lines; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def prime_rl(
    prompt: list[int],
    completion: list[int],
    inference: list[Any],
    trainer: list[Any],
    mask: list[bool] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A line of a token export (src/prime_rl/trainer/rl/token_export.py)."""
    before, length = len(prompt), len(prompt) + len(completion)
    return {
        "schema_version": 1, "step": 12, "rank": 0, "micro_step": 0, "micro_sequence_idx": 0,
        "export_sequence_idx": 0, "env_name": "math",
        "token_ids": prompt + completion,
        "position_ids": list(range(length)),
        "loss_mask": [False] * before + (mask or [True] * len(completion)),
        "advantages": [1.0] * length,
        "inference_logprobs": [0.0] * before + inference,
        "trainer_logprobs": [-8.3] * before + trainer,
        "entropy": [0.5] * length,
        "rl_weights": [None] * length, "ce_weights": [None] * length,
        "ref_kl_weights": [None] * length,
        **fields,
    }  # fmt: skip


def slime_train(prompt: list[int], response: list[int], **fields: Any) -> dict[str, Any]:
    """A sample of slime's train data (slime/observability/train_data_utils.py)."""
    size = len(response)
    return {
        "data_parallel_rank": 0, "sample_index": 0, "rollout_position": 0,
        "tokens": np.array([*prompt, *response], np.int64),
        "response_lengths": size, "total_lengths": len(prompt) + size,
        "rewards": 1.0, "truncated": 0, "source_names": "math",
        "loss_masks": np.ones(size, np.int32),
        "rollout_log_probs": np.full(size, -0.5, np.float32),
        "log_probs": np.full(size, -0.25, np.float32),
        **fields,
    }  # fmt: skip


def slime_rollout(prompt: list[int], response: list[int], **fields: Any) -> dict[str, Any]:
    """A sample of slime's rollout data: Sample.to_dict (slime/utils/types.py)."""
    size = len(response)
    return {
        "group_index": 4, "index": 9, "rollout_id": None, "prompt": "2 + 2 =",
        "tokens": [*prompt, *response], "response": " 4", "response_length": size,
        "label": "4", "reward": 1.0, "loss_mask": None, "weight_versions": ["7"],
        "rollout_log_probs": [-0.5] * size, "status": "truncated", "metadata": {},
        "spec_info": {"spec_accept_token_num": 0}, **fields,
    }  # fmt: skip


def slime_dump(path: Path, samples: list[dict[str, Any]], *, trained: bool = True) -> Path:
    tree: dict[str, Any] = {"rollout_id": 3, "samples": samples}
    if trained:
        tree |= {"format_version": 2, "rank": 0, "dp_shards": []}
    return torch_save(tree, path)


class DataProto:
    """verl's batch: it pickles its TensorDict through torch.save (verl/protocol.py)."""

    def __init__(self, batch: bytes, columns: dict[str, Any]) -> None:
        self.state = (batch, columns, {"timing": {}})

    def __getstate__(self) -> Any:
        return self.state


class TensorDict:
    """Tensors as a TensorDict that was not consolidated pickles them (tensordict/base.py)."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self._tensordict = tensors
        self._is_locked = False


def verl_dump(path: Path, tensors: dict[str, Any], columns: dict[str, Any]) -> Path:
    inner = path.with_suffix(".inner")
    batch = torch_save(TensorDict(tensors), inner).read_bytes()
    inner.unlink()
    path.write_bytes(pickle.dumps(DataProto(batch, columns)))
    return path


def scaled_pair(
    temperature: float, *, samples: int = 48, length: int = 60, noise: float = 0.005, seed: int = 7
) -> list[Rollout]:
    """Completions sampled at a temperature: ids, logprobs at T = 1, logprobs at the temperature.

    Rows are as peaked as a language model's: half of them have a token that is nearly certain.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(samples):
        logits = rng.gumbel(size=(length, 500)) * rng.gamma(2.0, 0.9, size=(length, 1))
        logits[rng.random(length) < 0.5, 0] += 8.0 + rng.gamma(2.0, 3.0)
        logits = rng.permuted(logits, axis=1)
        shaped = logits / temperature
        ids = (shaped + rng.gumbel(size=logits.shape)).argmax(axis=1)
        every = np.arange(length)
        raw = _log_softmax(logits)[every, ids]
        processed = _log_softmax(shaped + rng.normal(0.0, noise, logits.shape))[every, ids]
        found.append((ids.tolist(), raw.tolist(), processed.tolist()))
    return found


def _log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: np.ndarray[Any, Any] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
