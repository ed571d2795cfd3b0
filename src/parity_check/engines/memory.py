"""The memory of a vLLM engine on each of its GPUs, estimated from the checkpoint before it loads.

Weights: the bytes of the checkpoint's files, divided by the devices. KV of a token: 2 x layers x KV
heads x head size x bytes of the dtype; a device has its part of the heads, and at least one. What
vLLM takes for activations and graphs comes from its share as well and is not known beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
HEAD_BUDGET = 1 << 28
"""Bytes of the float32 lm_head that exist at a time; as in worker/extension."""
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on each device."""

    weights: int
    kv_token: int
    head: int
    """Of the float32 lm_head while it computes; 0 where it needs none, or is not requested."""

    def sentence(self, room: int | None) -> str:
        """In one line; `room` is the engine's share of a device, in bytes."""
        kv = f"KV {self.kv_token / 1024:.0f} KiB a token"
        parts = [f"weights {self.weights / GIB:.1f} GiB", kv]
        if self.head:
            parts.append(f"float32 lm_head {self.head / GIB:.2f} GiB")
        text = f"{' + '.join(parts)} on each device"
        if room is None:
            return text
        left = room - self.weights - self.head
        if left <= 0:
            return f"{text}: more than its share of {room / GIB:.1f} GiB"
        tokens = left // self.kv_token
        return f"{text}; its share of {room / GIB:.1f} GiB has room for at most {tokens:,} tokens"


def estimate(
    checkpoint: Path, config: Mapping[str, Any], dtype: str, devices: int, *, upcasts: bool
) -> Estimate | None:
    """The memory of a checkpoint on so many devices; None if its files or sizes are not known.

    `upcasts`: whether a float32 lm_head is computed by upcasting its weight.
    """
    text = config.get("text_config") or config
    names = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
    sizes = [each for each in map(text.get, names) if isinstance(each, int) and each > 0]
    if len(sizes) < len(names):
        return None
    layers, heads, hidden, vocabulary = sizes
    weights = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    kv_heads = text.get("num_key_value_heads") or heads
    width = text.get("head_dim") or hidden // heads
    if not weights:
        return None
    head = min(HEAD_BUDGET, 4 * hidden * math.ceil(vocabulary / devices)) if upcasts else 0
    return Estimate(
        weights // devices,
        2 * layers * max(1, kv_heads // devices) * width * BYTES[dtype],
        head,
    )
