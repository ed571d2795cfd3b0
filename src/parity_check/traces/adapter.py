"""A LoRA adapter in PEFT's format, as every engine must load it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from parity_check.errors import InputError
from parity_check.reading import parse_json, read_text

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MOST_BYTES = 1 << 20
"""The largest adapter_config.json, and the largest header of the weights."""
BLOCK = 1 << 20
RANKS = (8, 16, 32, 64, 128, 256)
"""The values of `max_lora_rank` that every version of vLLM takes; 320 and 512 came later."""
MERGE = "merge it into its base model (peft: merge_and_unload), and pass that as the model"
PREFIX = "base_model.model."
NOT_LINEAR = ("lm_head", "embed_tokens")


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

    def loaded(self) -> dict[str, Any]:
        """What a worker gets; `label` is what it says that it loaded."""
        label = f"{self.name} (rank {self.rank}, scale {self.scale:g}, {self.digest[:12]})"
        return {"path": self.path, "scale": self.scale, "label": label}


def read_adapter(path: str) -> Adapter:
    """Read an adapter's directory, and refuse what one of the engines would load differently.

    Raises InputError.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"adapter {path}: no such directory")
    if not (folder / CONFIG).is_file():
        raise InputError(
            f"adapter {path}: no {CONFIG} in this directory",
            hint="save it with peft: model.save_pretrained(FOLDER)",
        )
    if not (folder / WEIGHTS).is_file():
        raise InputError(
            f"adapter {path}: no {WEIGHTS} in this directory",
            hint="save it with peft: model.save_pretrained(FOLDER, safe_serialization=True)",
        )
    config = parse_json(read_text(folder / CONFIG, "the adapter", MOST_BYTES), str(folder / CONFIG))
    if not isinstance(config, dict):
        raise InputError(f"{folder / CONFIG}: expected an object")
    rank, alpha = (_number(config, name, folder) for name in ("r", "lora_alpha"))
    _check_kind(config, folder)
    if rank > RANKS[-1]:
        raise InputError(f"adapter {path}: rank {rank}; vLLM's largest is {RANKS[-1]}")
    _check_weights(folder, rank)
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    with (folder / WEIGHTS).open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return Adapter(str(folder), folder.resolve().name, rank, scale, digest.hexdigest())


def _number(config: Mapping[str, Any], name: str, folder: Path) -> int:
    found = config.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputError(f"{folder / CONFIG}: `{name}` is {found!r}, expected a number from 1")
    return found


def _check_kind(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse kinds of adapters that vLLM does not load, or not in every version."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputError(f"adapter {folder}: of the kind {kind!r}; only LORA is supported")
    other = {
        "use_dora": "DoRA",
        "modules_to_save": "whole modules beside the adapter (modules_to_save)",
        "rank_pattern": "ranks of its own for some modules (rank_pattern)",
        "alpha_pattern": "an alpha of its own for some modules (alpha_pattern)",
        "target_parameters": "parameters that are not of a linear layer (target_parameters)",
    }
    found = [what for name, what in other.items() if config.get(name)]
    if config.get("bias", "none") != "none":
        found.append(f"a bias (bias = {config['bias']!r})")
    if found:
        raise InputError(
            f"adapter {folder}: has {found[0]}, which vLLM does not load",
            hint=MERGE,
        )


def _check_weights(folder: Path, rank: int) -> None:
    """Check names and shapes in the header, and that B is not 0 everywhere. Raises InputError."""
    file = folder / WEIGHTS
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        text = opened.read(size) if 0 < size <= MOST_BYTES else b""
        try:
            header = json.loads(text)
        except ValueError:
            raise InputError(f"{file}: not a safetensors file, or a part of one") from None
        begin, moved = 8 + size, False
        if not isinstance(header, dict):
            _damaged(file)
        tensors = {name: each for name, each in header.items() if name != "__metadata__"}
        for name, each in tensors.items():
            part = next((p for p in (".lora_A.weight", ".lora_B.weight") if name.endswith(p)), None)
            module = name.removeprefix(PREFIX).removesuffix(part or "")
            if part is None or not name.startswith(PREFIX):
                raise InputError(
                    f"{file}: {name} is not a matrix of a LoRA adapter of a linear layer"
                )
            if module.rpartition(".")[2] in NOT_LINEAR:
                raise InputError(
                    f"adapter {folder}: adapts {module}, which changes the logits outside of the "
                    "layers that all versions of vLLM adapt alike",
                    hint=MERGE,
                )
            try:
                (shape, (start, end)) = each["shape"], each["data_offsets"]
                inner = shape[0] if part.startswith(".lora_A") else shape[1]
            except (KeyError, TypeError, ValueError, IndexError):
                _damaged(file)
            if inner != rank:
                raise InputError(f"{file}: {name} has the shape {shape}, but the rank is {rank}")
            if part.startswith(".lora_B") and not moved:
                opened.seek(begin + start)
                moved = any(opened.read(end - start))
        if not tensors:
            raise InputError(f"{file}: has no matrices")
    if not moved:
        raise InputError(
            f"adapter {folder}: every B is 0, as before its first update, so it changes nothing",
            hint="compare the base model: leave the adapter out",
        )


def _damaged(file: Path) -> NoReturn:
    raise InputError(f"{file}: not a safetensors file, or a damaged one") from None
