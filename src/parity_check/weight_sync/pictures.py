"""The timeline of a weight update as plots: version and lag, and |Δ|, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from parity_check.report.svg import COLOURS
from parity_check.weight_sync.observed import Phase
from parity_check.weight_sync.timeline import TimelineStep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES: dict[Phase, str] = {"in_flight": "in flight", "reissued": "sent again", "fresh": "new"}
"""Of the phases, for people."""
VERSIONS = ("reference", "candidate", "good", "bad")
"""Colours of the cold engines, by version."""
DASHED = (0, (3, 1.5))


def version(axes: Axes, steps: Sequence[TimelineStep]) -> None:
    """Policy version and lag, one phase after another."""
    for number, (places, phase) in enumerate(_phases(axes, steps)):
        for role, style, label, values in (
            ("data", "-", "policy version", [step.version for step in phase]),
            ("candidate", DASHED, "lag, updates", [step.lag for step in phase]),
        ):
            axes.plot(
                places, values, color=COLOURS[role], linestyle=style, drawstyle="steps-mid",
                label=label if number == 0 else None,
            )  # fmt: skip
    most = max(max(step.version, step.lag) for step in steps)
    axes.set_ylim(-0.1, 1.25 * max(most, 1.0))
    axes.set_yticks(range(int(most) + 1))
    axes.set(ylabel="version, updates behind")
    _finish(axes)


def distance(axes: Axes, steps: Sequence[TimelineStep], limit: float) -> None:
    """Mean |Δ| to the cold engine of each version, and to the new weights over the kept KV."""
    axes.axhspan(0, limit, color=COLOURS["good"], alpha=0.25, linewidth=0, label="limit")
    for number, (places, phase) in enumerate(_phases(axes, steps)):
        for cold, values in enumerate(zip(*(step.to_cold for step in phase), strict=True)):
            axes.plot(
                places, values, color=COLOURS[VERSIONS[cold % len(VERSIONS)]],
                label=f"cold {cold}" if number == 0 else None,
            )  # fmt: skip
        kept = [np.nan if step.to_kept is None else step.to_kept for step in phase]
        if not np.isnan(kept).all():
            axes.plot(places, kept, color=COLOURS["data"], linestyle=DASHED, label="kept KV")
    most = max(max(step.to_cold) for step in steps)
    axes.set_ylim(-0.04 * max(most, limit), 1.2 * max(most, 2 * limit))
    axes.set(ylabel="mean |Δ|, nats")
    _finish(axes)


def _phases(
    axes: Axes, steps: Sequence[TimelineStep]
) -> Iterator[tuple[range, list[TimelineStep]]]:
    """Each phase with its positions on the axis; a line and its name where it begins."""
    first = 0
    for name, members in groupby(steps, key=lambda step: step.phase):
        phase = list(members)
        places = range(first, first + len(phase))
        if first:
            axes.axvline(first - 0.5, color=COLOURS["rule"], linewidth=1)
        axes.text(
            first, 0.98, NAMES[name], transform=axes.get_xaxis_transform(), va="top",
            color=COLOURS["muted"],
        )  # fmt: skip
        yield places, phase
        first += len(phase)


def _finish(axes: Axes) -> None:
    axes.set(xlabel="token, one phase after another")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, columnspacing=1.2, borderpad=0.1
    )
