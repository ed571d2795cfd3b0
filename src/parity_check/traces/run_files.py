"""The names of a run's traces."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from parity_check.config.models import OTHER, Role

WORKLOAD_NAME = "workload.parquet"
"""The trace whose tokens both engines replayed, where neither sampled."""


def sampled_name(role: str) -> str:
    """The trace that an engine sampled."""
    return f"{role}.parquet"


def replayed_name(sampled_by: Role) -> str:
    """That trace, replayed by the other engine."""
    return evaluated_name(sampled_by, OTHER[sampled_by])


def evaluated_name(sampled_by: str, by: str) -> str:
    """That trace, evaluated by the named engine."""
    return f"{sampled_by}-replayed-by-{by}.parquet"


def evaluators(directory: Path, sampled_by: str) -> list[str]:
    """The engines whose logprobs on that trace lie in a run's directory."""
    before, after = evaluated_name(sampled_by, "*").split("*")
    found = (path.name for path in directory.glob(f"{before}*{after}"))
    return sorted(name.removeprefix(before).removesuffix(after) for name in found)


def repeat_name(role: str, number: int | Literal["*"]) -> str:
    """An engine's own logprobs once more, in another batch order and composition."""
    return f"{role}-repeat-{number}.parquet"
