"""A LoRA adapter in PEFT's format, as every engine must load it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parity_check.errors import InputError
from parity_check.reading import beside, parse_json, read_text
from parity_check.traces import checkpoint
from parity_check.visible import value as shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MOST_BYTES = 1 << 20
"""The largest adapter_config.json."""
MOST_HEADER = 1 << 26
"""The largest header of a file of weights: adapters of experts have many matrices."""
BLOCK = 1 << 20
TAKE_HIDDEN = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Layers whose input is as wide as the model."""
MOST_NUMBER = 1e9
"""No rank or alpha is as large."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of `max_lora_rank` that every version of vLLM takes."""
PREFIX = "base_model.model."
PARTS = (".lora_A.weight", ".lora_B.weight")
FLOATS = {"F32": "<f4", "BF16": "<u2", "F16": "<f2", "F64": "<f8"}
"""Types of its matrices, as in safetensors, and how numpy reads them."""
NOT_LINEAR = ("lm_head", "embed_tokens")
MERGE = "merge it into its base model (peft: merge_and_unload), and pass that as the model"
OTHER_KINDS = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "a bias (lora_bias)",
    "modules_to_save": "whole modules beside the adapter (modules_to_save)",
    "trainable_token_indices": "embeddings of its own (trainable_token_indices)",
    "rank_pattern": "ranks of its own for some modules (rank_pattern)",
    "alpha_pattern": "an alpha of its own for some modules (alpha_pattern)",
    "target_parameters": "parameters that are not of a linear layer (target_parameters)",
    "layer_replication": "layers twice (layer_replication)",
    "alora_invocation_tokens": "tokens that switch it on (alora_invocation_tokens)",
    "fan_in_fan_out": "transposed layers (fan_in_fan_out)",
}
"""Keys of a configuration that some version of vLLM, or all, ignores or refuses."""
KEEPS_BASE = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of `init_lora_weights` with which the base keeps its weights: not so PiSSA, OLoRA, …"""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter: W + scale · B A for each target, A [rank, in] and B [out, rank]."""

    path: str
    name: str
    rank: int
    scale: float
    digest: str
    """SHA-256 of its configuration and its weights."""

    def engine_args(self) -> dict[str, Any]:
        """vLLM's arguments for one adapter of this rank."""
        rank = min(each for each in RANKS if each >= self.rank)
        return {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}

    def label(self) -> str:
        """The adapter in one line."""
        return f"{self.name} (rank {self.rank}, scale {self.scale:g}, {self.digest[:12]})"

    def loaded(self) -> dict[str, Any]:
        """What a worker gets; `label` is what it says that it loaded."""
        return {"path": self.path, "scale": self.scale, "label": self.label()}


def adapted(model: Mapping[str, Any], lora: str | None, model_path: str) -> dict[str, Any]:
    """The fingerprint of a model with its adapter, if it has one. Raises InputError."""
    if lora is None:
        return dict(model)
    adapter = read_adapter(lora, model_path)
    name = f"{model['name']} + {adapter.name}"
    return {**model, "name": name, "adapter_sha256": adapter.digest}


def read_adapter(path: str, model_path: str) -> Adapter:
    """Read an adapter's directory, and refuse what one of the engines would load differently.

    The layers that it adapts are compared with those of a model that is a directory. Raises
    InputError.
    """
    try:
        return _read(Path(path), Path(model_path))
    except OSError as error:
        raise InputError(f"adapter {path}: {error.strerror}") from None


def _read(folder: Path, model: Path) -> Adapter:
    if folder.is_file():
        raise InputError(
            f"adapter {folder}: a file, not the directory that peft saves",
            hint=f"did you mean {folder.parent}?" if (folder.parent / CONFIG).is_file() else None,
        )
    if not folder.is_dir():
        hint = beside(folder, Path.is_dir)
        if hint is None and checkpoint.HUB_NAME.fullmatch(str(folder)):
            hint = f"if it is a name on the hub: hf download {folder} --local-dir DIR, then DIR"
        raise InputError(f"adapter {folder}: no such directory", hint=hint)
    for name, saved in ((CONFIG, "FOLDER"), (WEIGHTS, "FOLDER, safe_serialization=True")):
        if not (folder / name).is_file():
            raise InputError(
                f"adapter {folder}: no {name} in this directory",
                hint=f"save it with peft: model.save_pretrained({saved})",
            )
    config = parse_json(read_text(folder / CONFIG, "the adapter", MOST_BYTES), str(folder / CONFIG))
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG}: expected an object")
    rank, alpha = (_number(config, name, folder) for name in ("r", "lora_alpha"))
    if rank != int(rank) or rank > RANKS[-1]:
        raise InputError(f"adapter {folder}: rank {rank:g}; vLLM takes whole ones to {RANKS[-1]}")
    _check_kind(config, folder)
    tensors = _tensors(folder / WEIGHTS)
    shapes = _layers(folder, tensors, int(rank))
    _check_values(folder, tensors)
    _check_model(folder, shapes, model)
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    with (folder / WEIGHTS).open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    absolute = str(folder.absolute())
    return Adapter(absolute, folder.resolve().name, int(rank), scale, digest.hexdigest())


def _number(config: Mapping[str, Any], name: str, folder: Path) -> float:
    found = config.get(name)
    if not isinstance(found, int | float) or isinstance(found, bool) or not 0 < found < MOST_NUMBER:
        raise InputError(
            f"{folder / CONFIG}: `{name}` is {shown(found)}, expected a number above 0"
        )
    return float(found)


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse kinds of adapters that vLLM does not load, or not in every version."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"adapter {folder}: of the kind {kind!r}; only LORA is supported")
    found = [what for name, what in OTHER_KINDS.items() if config.get(name)]
    bias, begun = config.get("bias") or "none", str(config.get("init_lora_weights")).lower()
    if bias != "none":
        found.append(f"a bias (bias = {bias!r})")
    if begun not in KEEPS_BASE:
        found.append(f"a base of its own (init_lora_weights = {begun!r})")
    if found:
        raise InputError(
            f"adapter {folder}: has {found[0]}, which vLLM does not load alike in every version",
            hint=MERGE,
        )


class Tensor(NamedTuple):
    """One tensor of a safetensors file: its type, its shape, and its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _tensors(file: Path) -> dict[str, Tensor]:
    """What a safetensors file holds, by its header. Raises InputError."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if size == int.from_bytes(checkpoint.POINTER[:8], "little"):
            raise InputError(
                f"{file}: a pointer of Git LFS, not the weights",
                hint="git lfs pull, in that folder",
            )
        if not 0 < size <= MOST_HEADER:
            raise InputError(f"{file}: not a safetensors file, or a damaged one")
        header = parse_json(opened.read(size), str(file), "not a safetensors file")
    found = {}
    try:
        for name, each in header.items():
            if name != "__metadata__":
                begin, end = (8 + size + int(offset) for offset in each["data_offsets"])
                shape = tuple(map(int, each["shape"]))
                found[name] = Tensor(str(each["dtype"]), shape, begin, end)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{file}: not a safetensors file, or a damaged one") from None
    if max((each.end for each in found.values()), default=8 + size) != file.stat().st_size:
        raise InputError(f"{file}: a part of a safetensors file", hint="copy it again, whole")
    return found


def _layers(folder: Path, tensors: Mapping[str, Tensor], rank: int) -> dict[str, tuple[int, int]]:
    """The shape [out, in] of each adapted layer. Raises InputError."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        part = next((each for each in PARTS if name.endswith(each)), None)
        if part is None or not name.startswith(PREFIX):
            raise InputError(
                f"adapter {folder}: {name} is not a matrix of a LoRA adapter",
                hint=MERGE
                if any(each in name for each in NOT_LINEAR)
                else f"PEFT's save_pretrained names one {PREFIX}LAYER{PARTS[0]}",
            )
        layer = name.removeprefix(PREFIX).removesuffix(part)
        if layer.rpartition(".")[2] in NOT_LINEAR:
            raise InputError(
                f"adapter {folder}: adapts {layer}, which the versions of vLLM do not adapt alike",
                hint=MERGE,
            )
        inner = tensor.shape[PARTS.index(part) : PARTS.index(part) + 1]
        if len(tensor.shape) != 2 or inner != (rank,):
            raise InputError(
                f"adapter {folder}: {name} has the shape {list(tensor.shape)}, but the rank is "
                f"{rank}"
            )
        found.setdefault(layer, {})[part] = tensor.shape
    for layer, parts in found.items():
        for part in PARTS:
            if part not in parts:
                raise InputError(f"adapter {folder}: {layer}{part} is missing")
    if not found:
        raise InputError(f"adapter {folder}: {WEIGHTS} has no matrices")
    return {name: (parts[PARTS[1]][0], parts[PARTS[0]][1]) for name, parts in found.items()}


def _check_values(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse an adapter with unusable values, or one that changes nothing. Raises InputError."""
    moves: dict[str, set[str]] = {part: set() for part in PARTS}
    with (folder / WEIGHTS).open("rb") as file:
        for name, tensor in tensors.items():
            values = _values(file, tensor)
            if values is None:
                raise InputError(
                    f"adapter {folder}: {name} is of type {tensor.dtype}, or has not as many bytes "
                    f"as {list(tensor.shape)} needs",
                    hint=f"its matrices must be {', '.join(FLOATS)}",
                )
            if not np.isfinite(values).all():
                raise InputError(f"adapter {folder}: {name} has NaN or infinite values")
            part = next(each for each in PARTS if name.endswith(each))
            if values.any():
                moves[part].add(name.removesuffix(part))
    if not moves[PARTS[0]] & moves[PARTS[1]]:
        raise InputError(
            f"adapter {folder}: every product B A is 0, as before the first update, so it changes "
            "nothing",
            hint="compare the base model: leave the adapter out",
        )


def _values(file: BinaryIO, tensor: Tensor) -> NDArray[np.floating[Any]] | None:
    """The values of a tensor; None if it has no floats, or other bytes than its shape."""
    stored = FLOATS.get(tensor.dtype)
    size = tensor.end - tensor.begin
    if stored is None or size != math.prod(tensor.shape) * np.dtype(stored).itemsize:
        return None
    file.seek(tensor.begin)
    raw = np.frombuffer(file.read(size), stored)
    if tensor.dtype == "BF16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw


def _check_model(folder: Path, shapes: Mapping[str, tuple[int, int]], model: Path) -> None:
    """Refuse an adapter of another model: vLLM leaves out layers that it does not find.

    Nothing is known of a model on the hub or of quantised weights; of a checkpoint without
    safetensors, or with other names for all layers, what its config.json says. Raises InputError.
    """
    config = checkpoint.read_config(str(model)) or {}
    if config.get("quantization_config"):
        return
    has = {
        name.removesuffix(".weight"): tensor.shape
        for file in sorted(model.glob("*.safetensors"))
        for name, tensor in _tensors(file).items()
    }
    known = [name for name in shapes if name in has]
    if not known:
        _check_sizes(folder, shapes, config)
    for name in known:
        if has[name] != shapes[name]:
            raise InputError(
                f"adapter {folder}: of another model: it adapts {name} of the shape "
                f"{list(shapes[name])}, which is {list(has[name])} in {model.name}"
            )
    if known and len(known) < len(shapes):
        missing = next(name for name in shapes if name not in has)
        raise InputError(
            f"adapter {folder}: of another model: it adapts {missing}, which {model.name} does not "
            "have"
        )


def _check_sizes(
    folder: Path, shapes: Mapping[str, tuple[int, int]], config: Mapping[str, Any]
) -> None:
    """Compare width and depth with those of a decoder's config.json. Raises InputError."""
    width, depth = config.get("hidden_size"), config.get("num_hidden_layers")
    for name, (_, taken) in shapes.items():
        layer = re.search(r"\blayers\.(\d+)\.", name)
        if layer and isinstance(depth, int) and int(layer[1]) >= depth:
            raise InputError(
                f"adapter {folder}: of another model: it adapts {name}, and the model has {depth} "
                "layers"
            )
        if name.endswith(TAKE_HIDDEN) and isinstance(width, int) and taken != width:
            raise InputError(
                f"adapter {folder}: of another model: {name} takes {taken} values, and the model's "
                f"hidden size is {width}"
            )
