"""How engines can be paused for a weight update, by family and version."""

from __future__ import annotations

from packaging.version import Version

from parity_check.engines.base import EngineSpec
from parity_check.engines.settings import usual_family

MODES_SINCE = Version("0.17")
"""Since this version the scheduler implements the modes, and clearing preempts requests."""
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""Only an engine stepped by its caller can be paused at a chosen token."""


def family_of(spec: EngineSpec) -> str:
    """The family that will start: the requested one, or this version's default."""
    if spec.family is not None:
        return spec.family
    return "v1" if spec.version is None else usual_family(spec.version, spec.platform)


def refusal(spec: EngineSpec, mode: str, clear_cache: bool) -> str | None:
    """Why this engine does not support this pause; None if it does."""
    wanted = f'mode = "{mode}", clear_cache = {str(clear_cache).lower()}'
    if family_of(spec) == "v0":
        if (mode, clear_cache) == ("keep", False):
            return None
        return (
            f"{wanted}: {spec.label} is a V0 engine, which can only be paused between two steps: "
            'use mode = "keep", clear_cache = false'
        )
    if spec.version is not None and spec.version < MODES_SINCE:
        return f"{wanted}: not supported by {spec.label}; V1 has pause modes since {MODES_SINCE}"
    return None
