"""File names of the traces in a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from parity_check.config.models import OTHER, Role

WORKLOAD_NAME = "workload.parquet"
"""The trace that both engines replayed, if neither of them sampled."""


def sampled_name(role: str) -> str:
    """The rollouts that an engine sampled."""
    return f"{role}.parquet"


def replayed_name(sampled_by: Role) -> str:
    """These rollouts, replayed by the other engine."""
    return evaluated_name(sampled_by, OTHER[sampled_by])


def evaluated_name(sampled_by: str, by: str) -> str:
    """These rollouts, evaluated by the named engine."""
    return f"{sampled_by}-replayed-by-{by}.parquet"


def evaluators(directory: Path, sampled_by: str) -> list[str]:
    """The engines with logprobs on that trace in a run directory."""
    before, after = evaluated_name(sampled_by, "*").split("*")
    found = (path.name for path in directory.glob(f"{before}*{after}"))
    return sorted(name.removeprefix(before).removesuffix(after) for name in found)


def repeat_name(role: str, number: int | Literal["*"]) -> str:
    """An A/A run of an engine, in a different batch order."""
    return f"{role}-repeat-{number}.parquet"
