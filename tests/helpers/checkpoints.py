"""Checkpoints for tests: the bundled one with noise on every weight."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from parity_check.traces.prompts import ASSETS


def perturbed(directory: Path, scale: float, seed: int = 0) -> Path:
    """A copy of the bundled checkpoint with noise of `scale` times each tensor's own spread."""
    shutil.copytree(ASSETS / "tiny", directory)
    file = directory / "model.safetensors"
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8 : 8 + size])
    source = np.random.default_rng(seed)
    for name in sorted(tensors.keys() - {"__metadata__"}):
        start, end = (8 + size + offset for offset in tensors[name]["data_offsets"])
        half = np.frombuffer(bytes(data[start:end]), dtype=np.uint16)
        values = (half.astype(np.uint32) << 16).view(np.float32)
        noisy = values + scale * values.std() * source.standard_normal(len(values))
        bits = noisy.astype(np.float32).view(np.uint32)
        data[start:end] = (bits >> 16).astype(np.uint16).tobytes()
    file.write_bytes(data)
    return directory


LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_adapter(directory: Path, size: float = 0.05, rank: int = 4, **config: object) -> Path:
    """A LoRA adapter of the bundled checkpoint, in PEFT's format, whose B has this `size`."""
    model = json.loads((ASSETS / "tiny" / "config.json").read_text())
    hidden, inner, head = model["hidden_size"], model["intermediate_size"], model["head_dim"]
    queries, keys = (head * model[f"num_{name}_heads"] for name in ("attention", "key_value"))
    attention = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
    mlp = [(inner, hidden), (inner, hidden), (hidden, inner)]
    shapes = dict(zip(LAYERS, (*attention, *mlp), strict=True))
    source = np.random.default_rng(rank)
    tensors = {}
    for layer in range(model["num_hidden_layers"]):
        for name, (outputs, inputs) in shapes.items():
            part = "self_attn" if name in LAYERS[:4] else "mlp"
            module = f"base_model.model.model.layers.{layer}.{part}.{name}"
            a = source.standard_normal((rank, inputs)) / np.sqrt(inputs)
            tensors[f"{module}.lora_A.weight"] = a
            tensors[f"{module}.lora_B.weight"] = size * source.standard_normal((outputs, rank))
    directory.mkdir()
    write_safetensors(directory / "adapter_model.safetensors", tensors)
    settings = {
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(LAYERS),
        "bias": "none", "task_type": "CAUSAL_LM", **config,
    }  # fmt: skip
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def write_safetensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """Float32 tensors in the format of safetensors."""
    header, data = {}, b""
    for name, values in tensors.items():
        raw = values.astype(np.float32).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
