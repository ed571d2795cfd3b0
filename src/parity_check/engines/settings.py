"""The four parity settings: how each vLLM version spells a request for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packaging.version import Version

from parity_check.config import Settings
from parity_check.trace import Distribution

LOGPROBS_MODE_SINCE = Version("0.10.0")
ASYNC_SCHEDULING_SINCE = Version("0.10.0")
NATIVE_FP32_HEAD_SINCE = Version("0.26.0")
"""From 0.10.2 on the override is accepted, and silently ignored for generation models."""
FAMILY_SWITCH_UNTIL = Version("0.11.0")
"""VLLM_USE_V1 chooses the engine below this version; later ones know V1 alone."""

EXTENSION = "parity_check_extension.ParityExtension"


def engine_arguments(settings: Settings, version: Version) -> dict[str, Any]:
    """Arguments of vllm.LLM that request the settings, as far as this version has words for them.

    What a version has no word for is left out here and settled by what is read back after start:
    V0 has processed logprobs only, and no async scheduling.
    """
    arguments: dict[str, Any] = {}
    if settings.logprobs_mode != "default" and version >= LOGPROBS_MODE_SINCE:
        arguments["logprobs_mode"] = settings.logprobs_mode
    if settings.enable_prefix_caching != "default":
        arguments["enable_prefix_caching"] = settings.enable_prefix_caching
    if settings.async_scheduling != "default" and version >= ASYNC_SCHEDULING_SINCE:
        arguments["async_scheduling"] = settings.async_scheduling
    if settings.lm_head_dtype == "float32" and version >= NATIVE_FP32_HEAD_SINCE:
        arguments["hf_overrides"] = {"head_dtype": "float32"}
    return arguments


def environment_variables(
    settings: Settings, version: Version, family: str | None
) -> dict[str, str]:
    """Variables that request the settings where no argument does."""
    variables: dict[str, str] = {}
    if settings.lm_head_dtype == "float32" and version < NATIVE_FP32_HEAD_SINCE:
        variables["PARITY_CHECK_LM_HEAD"] = "float32"
    if family and version < FAMILY_SWITCH_UNTIL:
        variables["VLLM_USE_V1"] = "1" if family == "v1" else "0"
    return variables


def distribution_in_force(description: Mapping[str, Any]) -> Distribution:
    """The distribution that a started engine's decode logprobs belong to."""
    mode: str = description["settings"]["logprobs_mode"]["in_force"]
    return "processed" if mode == "processed_logprobs" else "raw"
