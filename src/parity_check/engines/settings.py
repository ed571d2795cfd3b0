"""The four parity settings: how each vLLM version applies them, and which values it supports.

The worker measures what is in force on a started engine, in `worker/proofs.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from parity_check.config.engines import Settings

LOGPROBS_MODE_SINCE = Version("0.10.0")
ASYNC_SCHEDULING_SINCE = Version("0.10.0")
NATIVE_FP32_HEAD_SINCE = Version("0.26.0")
"""From 0.10.2 to this version the override is accepted, but ignored for generation models."""
FP32_PRODUCT_SINCE = Version("0.10.2")
"""The GPU wheels since then have torch 2.8, which multiplies 16-bit weights into float32."""
V1_ON_CPU_SINCE = Version("0.10.0")
FAMILY_SWITCH_UNTIL = Version("0.11.0")
"""Below this version VLLM_USE_V1 selects the engine; later versions only have V1."""

Family = Literal["v0", "v1"]


@dataclass(frozen=True, slots=True)
class Way:
    """How engines of a family, platform and version range apply a setting.

    `only` is the only supported value, None if all are supported. An empty `versions` or `platform`
    matches every one.
    """

    setting: str
    family: Family
    versions: str
    platform: str
    how: str
    only: str | bool | None = None

    def supports(self, value: str | bool) -> bool:
        return value == "default" or self.only is None or value == self.only

    def applied(self, value: str | bool) -> str:
        """What the engine does with a value: `how` is about those that need something done."""
        if value == "default":
            return "left to the engine" if self.only is None else f"left to the engine: {self.how}"
        return (
            "the model's own" if self.setting == "lm_head_dtype" and value == "model" else self.how
        )


WAYS = (
    Way(
        "logprobs_mode",
        "v0",
        "",
        "",
        "V0 always returns processed logprobs",
        only="processed_logprobs",
    ),
    Way("logprobs_mode", "v1", "<0.10", "", "always raw before 0.10", only="raw_logprobs"),
    Way(
        *("logprobs_mode", "v1", "<0.10.2", ""),
        "native, but before 0.10.2 `processed` lacks temperature and truncation",
        only="raw_logprobs",
    ),
    Way("logprobs_mode", "v1", "", "", "native"),
    Way(
        "enable_prefix_caching", "v0", "", "cpu", "native; on requires intel_extension_for_pytorch"
    ),
    Way("enable_prefix_caching", "v0", "", "", "native"),
    Way("enable_prefix_caching", "v1", "", "", "native"),
    Way("async_scheduling", "v0", "", "", "V0 has no async scheduling", only=False),
    Way("async_scheduling", "v1", "<0.10", "", "available since 0.10", only=False),
    Way("async_scheduling", "v1", ">=0.14", "cpu", "forced off on this platform", only=False),
    Way("async_scheduling", "v1", "", "", "native"),
    Way("lm_head_dtype", "v0", "", "", "float32 by extension"),
    Way("lm_head_dtype", "v1", "<0.26", "", "float32 by extension"),
    Way("lm_head_dtype", "v1", "", "", "native: hf_overrides.head_dtype"),
)
"""The first match applies."""


def way(setting: str, family: Family, version: Version, platform: str) -> Way:
    """How an engine applies a setting; `platform` is cpu or cuda."""
    return next(
        way
        for way in WAYS
        if (way.setting, way.family) == (setting, family)
        and SpecifierSet(way.versions, prereleases=True).contains(version)
        and way.platform in ("", platform)
    )


def usual_family(version: Version, platform: str) -> Family:
    """The family that vLLM starts by default."""
    return "v0" if platform == "cpu" and version < V1_ON_CPU_SINCE else "v1"


def needed_family(asked: Settings, version: Version, platform: str) -> Family | None:
    """V0 where a version would start V1, which has raw logprobs alone, and processed are asked for.

    Without a GPU these versions start V0 anyway. None where the usual family will do.
    """
    raw = usual_family(version, platform) == "v1" and version < LOGPROBS_MODE_SINCE
    return "v0" if raw and asked.logprobs_mode == "processed_logprobs" else None


EXTENSION = "parity_check_extension.ParityExtension"


def engine_arguments(settings: Settings, version: Version) -> dict[str, Any]:
    """Arguments of vllm.LLM that request the settings, as far as this version has them.

    Settings without an argument are checked after the start: V0 only has processed logprobs, and no
    async scheduling.
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
    """Environment variables for settings without an argument."""
    variables: dict[str, str] = {}
    if settings.lm_head_dtype == "float32" and version < NATIVE_FP32_HEAD_SINCE:
        variables["PARITY_CHECK_LM_HEAD"] = "float32"
    if family and version < FAMILY_SWITCH_UNTIL:
        variables["VLLM_USE_V1"] = "1" if family == "v1" else "0"
    return variables
