"""File names in the directory of a `weight-sync` run."""

from __future__ import annotations

from pathlib import Path


def rollouts_name(role: str) -> str:
    """The file with every request of an engine: tokens, logprobs, later the replays' logprobs."""
    return f"{role}-weight-sync.jsonl"


def is_weight_sync(directory: Path) -> bool:
    """Whether a run directory is of `weight-sync`."""
    return any(directory.glob(rollouts_name("*")))
