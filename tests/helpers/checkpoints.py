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
