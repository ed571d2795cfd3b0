"""The names of a run's traces."""

from __future__ import annotations

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


def repeat_name(role: str, number: int | Literal["*"]) -> str:
    """An engine's own logprobs once more, in another batch order and composition."""
    return f"{role}-repeat-{number}.parquet"
