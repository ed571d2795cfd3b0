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


def torch_modules(others: dict[str, dict[str, Any]] | None = None) -> Any:
    """Stand-ins that let a pickle name torch's classes, and `others` by module and name."""
    named_there = {
        "torch": STORAGE_KINDS, "torch._utils": {"_rebuild_tensor_v2": REBUILD}, **(others or {})
    }  # fmt: skip
    modules: dict[str, types.ModuleType] = {}
    for name, members in named_there.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            parent = ".".join(parts[:end])
            modules.setdefault(parent, types.ModuleType(parent))
        vars(modules[name]).update(members)
    return mock.patch.dict(sys.modules, modules)


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


def torch_save(tree: Any, path: Path, others: dict[str, dict[str, Any]] | None = None) -> Path:
    """A zip archive as torch.save writes it; arrays stand for tensors."""
    stream = io.BytesIO()
    pickler = Pickler(stream)
    with torch_modules(others):
        pickler.dump(tree)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for number, storage in enumerate(pickler.storages):
            archive.writestr(f"archive/data/{number}", storage.values.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


REBUILD_JAGGED = named("torch.nested._internal.nested_tensor", "_rebuild_njt")
OF_TYPE = named("torch._tensor", "_rebuild_from_type_v2")
MAKE_DICT = named("tensordict._reductions", "_make_td")


class Jagged:
    """A jagged tensor, as torch pickles it (torch/nested/_internal/nested_tensor.py)."""

    def __init__(self, rows: list[list[Any]]) -> None:
        flat = [value for row in rows for value in row]
        kind = np.float32 if any(isinstance(value, float) for value in flat) else np.int64
        offsets = np.cumsum([0, *(len(row) for row in rows)])
        self.state = {
            "values": np.array(flat, kind), "offsets": offsets, "lengths": None, "_ragged_idx": 1
        }  # fmt: skip

    def __reduce__(self) -> Any:
        return OF_TYPE, (REBUILD_JAGGED, "NestedTensor", (self.state,), {})


class TensorDictOfRows:
    """A TensorDict of jagged tensors, as tensordict pickles it (tensordict/_reductions.py)."""

    def __init__(self, rows: dict[str, list[list[Any]]]) -> None:
        self.rows = rows

    def __reduce__(self) -> Any:
        held = {name: Jagged(column) for name, column in self.rows.items()}
        return MAKE_DICT, ("TensorDict", {"_tensordict": held, "_batch_size": ()})


def verl_cache(path: Path, rows: dict[str, list[list[Any]]], keys: list[str]) -> Path:
    """verl's tq_batch.pt (verl/utils/skip/rollout_skip.py)."""
    tree = {"tensordict": TensorDictOfRows(rows), "tags": [], "keys": keys, "global_steps": 1}
    others = {
        "torch.nested._internal.nested_tensor": {"_rebuild_njt": REBUILD_JAGGED},
        "torch._tensor": {"_rebuild_from_type_v2": OF_TYPE},
        "tensordict._reductions": {"_make_td": MAKE_DICT},
    }
    return torch_save(tree, path, others)


def skyrl_dump(path: Path, tensors: dict[str, Any], changed: dict[str, Any] | None = None) -> Path:
    """SkyRL's TensorBatch (skyrl/backends/skyrl_train/training_batch.py); `changed` spoils one."""
    stored = {
        name: {"format": "numpy", "data": each.tobytes(), "shape": each.shape,
               "dtype": str(each.dtype)}
        for name, each in tensors.items()
    }  # fmt: skip
    next(iter(stored.values())).update(changed or {})
    rebuild = named("skyrl.training_batch", "_rebuild_tensor_batch")

    class Pickled:
        def __reduce__(self) -> Any:
            state = {"batch_dict": stored, "batch_size": 2, "device": None, "metadata": {}}
            return rebuild, ("TrainingInputBatch", state)

    others = {"skyrl.training_batch": {"_rebuild_tensor_batch": rebuild}}
    with torch_modules(others):
        path.write_bytes(pickle.dumps(Pickled()))
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


def chat(**fields: Any) -> dict[str, Any]:
    """A chat response of vLLM's server."""
    content = [
        {"token": "4", "logprob": -0.25, "bytes": [52], "top_logprobs": []},
        {"token": ".", "logprob": -9999.0, "bytes": [46], "top_logprobs": []},
    ]
    choice = {
        "index": 0, "message": {"role": "assistant", "content": "4."}, "finish_reason": "stop",
        "logprobs": {"content": content}, "token_ids": [52, 46],
    }  # fmt: skip
    return {
        "object": "chat.completion", "model": "tiny", "choices": [choice | fields],
        "prompt_token_ids": [1, 2],
    }  # fmt: skip


def nemo_rl(prompt: list[int], response: list[int], *, width: int, **fields: Any) -> dict[str, Any]:
    """A line of NeMo-RL's train_data, filled up to a width."""
    length = len(prompt) + len(response)
    mask = [0.0] * len(prompt) + [1.0] * len(response)

    def row(values: list[Any], fill: Any) -> list[Any]:
        return [[*values, *[fill] * (width - length)]]

    return {
        "content": [["x"]], "rewards": [1.0], "input_lengths": [length],
        "token_ids": row([*prompt, *response], 0), "token_loss_mask": row(mask, 0.0),
        "sample_loss_mask": [1.0],
        "generation_logprobs": row([-0.5 * each for each in mask], 0.0),
        "prev_logprobs": row([-0.25 * each for each in mask], 0.0), "idx": 0, **fields,
    }  # fmt: skip


def pipelinerl(prompt: list[int], response: list[int], **fields: Any) -> dict[str, Any]:
    """A text of PipelineRL's actor stream (pipelinerl/rollouts.py)."""
    return {
        "text": "x", "n_predicted": 1, "reward": 1.0, "logprobs": [-0.5] * len(response),
        "ref_logprobs": [], "input_ids": [*prompt, *response],
        "labels": [-100] * len(prompt) + response, "group_id": "g0", "finished": True,
        "prompt_tokens": len(prompt), "output_tokens": len(response), "visual_features": None,
        "metadata": {"model_version": 3, "rollout_index": 0, "step_index": 0}, **fields,
    }  # fmt: skip


def open_instruct(prompt: list[int], response: list[int], **fields: Any) -> dict[str, Any]:
    """A RolloutRecord of open-instruct (open_instruct/rl_utils.py)."""
    return {
        "step": 3, "sample_idx": 5, "prompt_idx": 1, "prompt_tokens": prompt,
        "response_tokens": response, "reward": 1.0, "advantage": 0.0, "finish_reason": "stop",
        "dataset": "math", "ground_truth": None, "request_info": None,
        "logprobs": [-0.5] * len(response), **fields,
    }  # fmt: skip
