"""Checkpoints with one fault, created from a bundled one with numpy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WEIGHTS, CONFIG, DEFAULTS = "model.safetensors", "config.json", "generation_config.json"
PERTURBED = "model.layers.1."
ERROR = 0.3
"""Standard deviation of the error over that of the weights, for every matrix of that layer."""
ROPE_THETA = 20_000.0
"""In the format of transformers 5, which 0.8.5 and 0.18.1 do not read: they use 10000."""
REPETITION_PENALTY = 1.1


def make(variant: str, source: Path, target: Path, seed: int) -> Path:
    """A copy of the checkpoint with one change; created once."""
    if not target.is_dir():
        partial = target.with_name(target.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        VARIANTS[variant](partial, seed)
        partial.replace(target)
    return target


def perturb_one_layer(directory: Path, seed: int) -> None:
    tensors = read_weights(directory / WEIGHTS)
    draw = np.random.default_rng(seed)
    for name, tensor in tensors.items():
        if name.startswith(PERTURBED) and tensor.ndim == 2:
            weights = widen(tensor)
            noise = draw.normal(0.0, ERROR * weights.std(), weights.shape)
            tensors[name] = narrow((weights + noise).astype(np.float32))
    write_weights(directory / WEIGHTS, tensors)


def tie_embeddings(directory: Path, seed: int) -> None:
    del seed
    tensors = read_weights(directory / WEIGHTS)
    # Keep the output projection, so that the logits stay those of a trained model.
    tensors["model.embed_tokens.weight"] = tensors.pop("lm_head.weight")
    write_weights(directory / WEIGHTS, tensors)
    update(directory / CONFIG, tie_word_embeddings=True)


def write_rope_of_transformers_5(directory: Path, seed: int) -> None:
    del seed
    tree = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    tree.pop("rope_theta")
    tree.pop("rope_scaling", None)
    tree["rope_parameters"] = {"rope_type": "default", "rope_theta": ROPE_THETA}
    (directory / CONFIG).write_text(json.dumps(tree, indent=2), encoding="utf-8")


def penalise_repetition(directory: Path, seed: int) -> None:
    del seed
    update(directory / DEFAULTS, repetition_penalty=REPETITION_PENALTY)


VARIANTS: dict[str, Callable[[Path, int], None]] = {
    "perturbed": perturb_one_layer,
    "tied": tie_embeddings,
    "rope": write_rope_of_transformers_5,
    "penalised": penalise_repetition,
}


def update(path: Path, **keys: Any) -> None:
    tree = json.loads(path.read_text(encoding="utf-8")) | keys
    path.write_text(json.dumps(tree, indent=2), encoding="utf-8")


# --- safetensors, bfloat16 ------------------------------------------------------------------------


def read_weights(path: Path) -> dict[str, NDArray[np.uint16]]:
    """Each bfloat16 tensor as its 16 bits."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header.pop("__metadata__", None)
    data = memoryview(raw)[8 + size :]
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "BF16", f"{name}: {entry['dtype']}"
        start, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[start:end], np.uint16).reshape(entry["shape"])
    return tensors


def write_weights(path: Path, tensors: dict[str, NDArray[np.uint16]]) -> None:
    offset, entries = 0, {}
    for name, tensor in tensors.items():
        entry = {"dtype": "BF16", "shape": list(tensor.shape)}
        entries[name] = {**entry, "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to the nearest bfloat16."""
    return ((values.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
