"""Tiny random checkpoints of other architectures, with the bundled model's tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faults.checkpoints import CONFIG, WEIGHTS, narrow, write_weights

HIDDEN, INNER, HEADS, KV_HEADS, HEAD, LAYERS, EXPERTS = 256, 512, 4, 2, 64, 3, 4
NOT_COPIED = (WEIGHTS, CONFIG)
PREFERENCE = 2.0
"""Step between a token's preferences for the experts, about the size of the residual stream."""

SHARED: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 4,
    "attention_dropout": 0.0,
    "use_cache": True,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_act": "gelu_pytorch_tanh",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": HEAD,
        "sliding_window": 512,
        "attention_bias": False,
        "tie_word_embeddings": True,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "hidden_act": "silu",
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
}


def make(name: str, tokenizer: Path, target: Path, seed: int) -> Path:
    """A checkpoint with random weights, whose activations keep about the size of their inputs."""
    if not target.is_dir():
        target.mkdir(parents=True)
        for file in tokenizer.iterdir():
            if file.name not in NOT_COPIED:
                shutil.copy(file, target)
        vocabulary = json.loads((tokenizer / CONFIG).read_text(encoding="utf-8"))["vocab_size"]
        config = {**SHARED, **CONFIGS[name], "vocab_size": vocabulary}
        (target / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
        draw = np.random.default_rng(seed)
        write_weights(
            target / WEIGHTS,
            {
                tensor: _weights(draw, tensor, shape, name)
                for tensor, shape in _shapes(name, vocabulary).items()
            },
        )
    return target


def _weights(
    draw: np.random.Generator, tensor: str, shape: tuple[int, ...], name: str
) -> NDArray[np.uint16]:
    if len(shape) == 1:  # a norm; Gemma's add one
        values = draw.normal(0.0 if name == "gemma2" else 1.0, 0.1, shape)
    elif "embed_tokens" in tensor:
        values = draw.normal(0.0, 0.05, shape)
    else:
        values = draw.normal(0.0, 1.5 / np.sqrt(shape[1]), shape)
    if name == "mixtral":
        values = _routed(draw, tensor, values)
    return narrow(values.astype(np.float32))


def _routed(
    draw: np.random.Generator, tensor: str, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights whose router decides clearly, by the token alone.

    A random router is at a tie for many tokens, so that rounding changes the expert. Here the first
    channels of the residual stream hold each token's preferences: each expert is the first choice
    of a quarter of the vocabulary. The router reads these channels, and no layer writes to them.
    """
    if "embed_tokens" in tensor:
        values *= 10.0
        ranks = draw.permuted(np.tile(np.arange(EXPERTS), (len(values), 1)), axis=1)
        values[:, :EXPERTS] = PREFERENCE * (ranks - ranks.mean(axis=1, keepdims=True))
    elif tensor.endswith(("o_proj.weight", "w2.weight")):
        values[:EXPERTS] = 0.0
    elif tensor.endswith("gate.weight"):
        values = np.eye(*values.shape)
    return values


def _shapes(name: str, vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        inner: dict[str, tuple[int, ...]] = {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
            "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
            "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
            "post_attention_layernorm": (HIDDEN,),
        }
        if name == "qwen3":
            inner |= {"self_attn.q_norm": (HEAD,), "self_attn.k_norm": (HEAD,)}
        if name == "gemma2":
            inner |= {
                "pre_feedforward_layernorm": (HIDDEN,),
                "post_feedforward_layernorm": (HIDDEN,),
            }
        if name == "mixtral":
            inner["block_sparse_moe.gate"] = (EXPERTS, HIDDEN)
            for expert in range(EXPERTS):
                moe = f"block_sparse_moe.experts.{expert}."
                inner |= {
                    moe + "w1": (INNER, HIDDEN),
                    moe + "w3": (INNER, HIDDEN),
                    moe + "w2": (HIDDEN, INNER),
                }
        else:
            inner |= {
                "mlp.gate_proj": (INNER, HIDDEN),
                "mlp.up_proj": (INNER, HIDDEN),
                "mlp.down_proj": (HIDDEN, INNER),
            }
        shapes |= {f"{prefix}{key}.weight": shape for key, shape in inner.items()}
    shapes["model.norm.weight"] = (HIDDEN,)
    if name != "gemma2":
        shapes["lm_head.weight"] = (vocabulary, HIDDEN)
    return shapes
