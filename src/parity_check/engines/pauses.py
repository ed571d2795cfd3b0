"""How engines can be paused for a weight update, by family and version."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.version import Version

MODES_SINCE = Version("0.17")
"""Since this version the scheduler implements the modes, and clearing preempts requests."""
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""Only an engine stepped by its caller can be paused at a chosen token."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """The pauses of one engine, by family and version (None for the fake engine)."""

    label: str
    family: str
    version: Version | None = None

    def refusal(self, mode: str, clear_cache: bool) -> str | None:
        """Why this engine does not support this pause; None if it does."""
        wanted = f'mode = "{mode}", clear_cache = {str(clear_cache).lower()}'
        if self.family == "v0":
            if (mode, clear_cache) == ("keep", False):
                return None
            return (
                f"{wanted}: {self.label} is a V0 engine, which can only be paused "
                'between two steps: mode = "keep", clear_cache = false'
            )
        if self.version is not None and self.version < MODES_SINCE:
            return f"{wanted}: {self.label} has no such pause; V1 has them since {MODES_SINCE}"
        return None
