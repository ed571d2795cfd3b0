"""Judge every curve of every arm against the reference's seeds. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parity_check.config.training import FIRST, Training
from parity_check.measure.stats import Floats
from parity_check.training.band import Band, band, distance
from parity_check.training.curves import CURVES, Curve, Step, table
from parity_check.training.report import Result

LEAST_STEPS = 2
WIDEST = 3.0
"""The widest limit of a parity, in distances that matter."""


def judge(steps: Sequence[Step], training: Training, level: float) -> tuple[Result, ...]:
    """A result for each curve of each arm that has at least two steps, the reference's first."""
    return tuple(
        result for arm in (FIRST, *training.arms) for result in _arm(arm, steps, training, level)
    )


def _arm(arm: str, steps: Sequence[Step], training: Training, level: float) -> Iterator[Result]:
    for curve in CURVES:
        own, reference = table(steps, arm, curve.name), table(steps, FIRST, curve.name)
        if own.shape[1] >= LEAST_STEPS:
            found = band(reference, len(own), level)
            yield _result(arm, curve, own, reference, found, training, level)


def _result(
    arm: str,
    curve: Curve,
    own: Floats,
    reference: Floats,
    found: Band,
    training: Training,
    level: float,
) -> Result:
    unresolved = curve.judging == "if resolved" and found.half_width > training.reward_resolution
    judged = None
    if arm != FIRST and curve.judging != "shown":
        judged = distance(
            own, reference, found, level=level, times=training.band, matters=curve.matters,
            most=curve.most, widest=WIDEST * curve.matters,
        )  # fmt: skip
    return Result(arm, curve.name, float(own.mean()), found, judged, unresolved)
