"""A gate as a strip: the interval and the floor against the limit's band, ready to be drawn.

Places are shares of the strip's width. The band takes a fixed part of it, so that rows can be
compared; what lies beyond the strip is cut at its end, and marked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from parity_check.measure.gates import GateResult

BEYOND = 1.5
"""How far a strip goes past the limit, in widths of the limit."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Places from 0 to 1, None outside. `cut_low` and `cut_high` say where more lies outside."""

    band: tuple[float, float]
    interval: tuple[float, float] | None
    value: float | None
    floor: float | None
    cut_low: bool
    cut_high: bool


def strip(gate: GateResult) -> Strip | None:
    """None where there is nothing to draw: no estimate, or a limit that allows one value."""
    if gate.estimate is None or gate.limit.kind == "exact":
        return None
    low, high = _range(gate)
    lower, upper = gate.limit.edges()
    span = high - low

    def place(value: float) -> float:
        return min(1.0, max(0.0, (value - low) / span))

    ends = [end for end in (gate.estimate.ci_low, gate.estimate.ci_high) if end is not None]
    reached = [*ends, gate.estimate.value]
    return Strip(
        band=(place(lower), place(upper)),
        interval=(place(ends[0]), place(ends[1])) if len(ends) == 2 else None,
        value=place(gate.estimate.value) if low <= gate.estimate.value <= high else None,
        floor=None if gate.floor is None else place(gate.floor.value),
        cut_low=min(reached) < low - 1e-9 * span,
        cut_high=max(reached) > high + 1e-9 * span,
    )


def _range(gate: GateResult) -> tuple[float, float]:
    """From where to where a strip goes, in the metric's unit."""
    limit = gate.limit
    if limit.kind == "two_sided":
        reach = (1.0 + BEYOND) * limit.value
        return limit.target - reach, limit.target + reach
    if limit.kind == "upper":
        return 0.0, (1.0 + BEYOND) * limit.value
    room = 1.0 - limit.value if limit.value < 1.0 else math.fabs(limit.value)
    return limit.value - BEYOND * room, limit.value + room
