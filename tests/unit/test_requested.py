"""Arguments of an engine against what its live config and its modules say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from unit.test_proofs import worker_module


class Dtype:
    def __str__(self) -> str:
        return "torch.bfloat16"


def without_effect(
    arguments: dict[str, Any], cap: float | None = None, **facts: str
) -> dict[str, str]:
    hf_config = SimpleNamespace(rope_theta=1e4, hidden_size=8, attn_logit_softcapping=cap)
    config = SimpleNamespace(
        model_config=SimpleNamespace(dtype=Dtype(), hf_config=hf_config),
        cache_config=SimpleNamespace(block_size=128, cache_dtype="auto", swap_space=4 << 30),
    )
    built = {"rope_type": "RotaryEmbedding", "norm_eps": "1e-05", **facts}
    found: dict[str, str] = worker_module("requested").without_effect(arguments, config, built)
    return found


def test_what_is_in_force_is_not_reported() -> None:
    arguments = {
        "dtype": "bfloat16", "block_size": 128, "kv_cache_dtype": "auto", "swap_space": 4,
        "unknown_to_the_config": 1, "hf_overrides": {"rope_theta": 1e4, "rms_norm_eps": 1e-5},
    }  # fmt: skip
    assert without_effect(arguments) == {}


@pytest.mark.parametrize(
    ("arguments", "name", "said"),
    [
        ({"block_size": 16}, "block_size", "16 was requested, 128 is in force"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype", "fp8 was requested, auto is in force"),
        (
            {"hf_overrides": {"rms_norm_eps": 0.01}},
            "hf_overrides.rms_norm_eps",
            "0.01 was requested, the modules have 1e-05",
        ),
        (
            {"hf_overrides": {"rope_scaling": {"type": "linear", "factor": 2.0}}},
            "hf_overrides.rope_scaling",
            "the linear scaling was requested, the model was built without scaling",
        ),
        (
            {"hf_overrides": {"no_such_key": 3}},
            "hf_overrides.no_such_key",
            "3 was requested, the config has no such key",
        ),
    ],
)
def test_what_is_not_in_force(arguments: dict[str, Any], name: str, said: str) -> None:
    assert without_effect(arguments) == {name: said}


@pytest.mark.parametrize(("cap", "built"), [(None, "none"), (50.0, "50"), (50.0, "none")])
def test_a_soft_cap_that_a_backend_leaves_out(cap: float | None, built: str) -> None:
    found = without_effect({}, cap, attention_soft_cap=built)
    named = {"attn_logit_softcapping": "50 is the model's, the modules have none"}
    assert found == (named if cap and built == "none" else {})


def test_a_soft_cap_that_was_requested_is_reported_once() -> None:
    requested = {"hf_overrides": {"attn_logit_softcapping": 50.0}}
    assert without_effect(requested, 50.0, attention_soft_cap="none") == {
        "hf_overrides.attn_logit_softcapping": "50 was requested, the modules have none"
    }


def test_an_applied_scaling() -> None:
    yarn = {"hf_overrides": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}}
    assert without_effect(yarn, rope_type="YaRNScalingRotaryEmbedding") == {}


def variables(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, package: Path, **now: str
) -> dict[str, str]:
    for name, value in {**given, **now}.items():
        monkeypatch.setenv(name, value)
    known, backends = {"VLLM_KNOWN", "VLLM_ATTENTION_BACKEND"}, ["FlashAttention"]
    found: dict[str, str] = worker_module("requested").variables(given, known, package, backends)
    return found


def test_variables_that_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("os.getenv('VLLM_READ_ELSEWHERE')")
    given = {
        "VLLM_KNOWN": "1", "VLLM_READ_ELSEWHERE": "1", "OMP_NUM_THREADS": "2",
        "VLLM_ATTENTION_BACKEND": "FLASH_ATTN_VLLM_V1",
    }  # fmt: skip
    assert variables(given, monkeypatch, tmp_path) == {}


def test_variables_without_effect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {"VLLM_TYPO": "1", "VLLM_KNOWN": "1", "VLLM_ATTENTION_BACKEND": "XFORMERS"}
    assert variables(given, monkeypatch, tmp_path, VLLM_KNOWN="0") == {
        "VLLM_TYPO": "1 was requested, this version does not read it",
        "VLLM_KNOWN": "1 was requested, 0 is in force",
        "VLLM_ATTENTION_BACKEND": "XFORMERS was requested, FlashAttention is in force",
    }


@pytest.mark.parametrize(
    ("head", "tensors", "named"),
    [
        ("the embedding", {"a": [1, 2], "b": [1, 3]}, True),
        ("the embedding", {"a": [1, 2], "b": [1, 2]}, False),
        ("the embedding", {"a": [1, 2]}, False),
        ("its own weight", {"a": [1, 2], "b": [1, 3]}, False),
    ],
)
def test_a_head_that_the_tied_flag_discards(
    head: str, tensors: dict[str, list[int]], named: bool
) -> None:
    def read(*_: str) -> dict[str, Any]:
        return {name: np.array(values) for name, values in tensors.items()}

    found = worker_module("requested").own_head({"head": head}, read)
    assert list(found) == (["lm_head.weight"] if named else [])
