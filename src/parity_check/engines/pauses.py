"""How engines can be paused for a weight update, by family and version."""

from __future__ import annotations

from packaging.version import Version

from parity_check.engines.base import EngineSpec
from parity_check.engines.settings import usual_family

MODES_SINCE = Version("0.17")
"""Here the engine's own scheduler took over the modes, and clearing came to preempt requests."""
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""Only an engine that is stepped from outside can be paused at a chosen token."""


def family_of(spec: EngineSpec) -> str:
    """The family that will start: as asked for, or as this version does by itself."""
    if spec.family is not None:
        return spec.family
    return "v1" if spec.version is None else usual_family(spec.version, spec.platform)


def refusal(spec: EngineSpec, mode: str, clear_cache: bool) -> str | None:
    """Why this engine cannot be paused so, in a sentence; None where it can."""
    wanted = f'mode = "{mode}", clear_cache = {str(clear_cache).lower()}'
    if family_of(spec) == "v0":
        if (mode, clear_cache) == ("keep", False):
            return None
        return (
            f"{wanted}: {spec.label} is a V0 engine, which has no pause but the boundary between "
            'two steps: mode = "keep", clear_cache = false'
        )
    if spec.version is not None and spec.version < MODES_SINCE:
        return f"{wanted}: {spec.label} has no such pause, V1 has them from {MODES_SINCE}"
    return None
