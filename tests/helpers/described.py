"""What an engine says of itself, where a test is about one of its facts."""

from __future__ import annotations

from typing import Any

from parity_check.traces.engine import EngineDescription, EngineSetting


def described(
    settings: dict[str, Any] | None = None, *, proof: str = "canned", **facts: Any
) -> EngineDescription:
    """A description with these facts; `settings` are in force as they were requested."""
    found = {"logprobs_mode": "processed_logprobs"} if settings is None else settings
    anything: dict[str, Any] = {
        "label": "an engine",
        "version": "0.18.1",
        "family": "v1",
        "device": "cpu",
        "packages": {},
        "config": {},
        "environment": {},
    }
    return EngineDescription(
        **{**anything, **facts},
        settings={name: EngineSetting(value, value, proof) for name, value in found.items()},
    )
