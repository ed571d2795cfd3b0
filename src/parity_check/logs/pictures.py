"""A metric's curves by step, with its limit as a band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from parity_check.logs.report import Series
from parity_check.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("data", "reference", "candidate", "heat-5", "heat-3")
"""Colours of the runs, in turn."""
BINS = 400
"""Above twice this many steps, a curve is drawn as the extremes of this many parts."""
NAMED = 6
"""With more runs than this, a legend has no room for their names."""


def curves(axes: Axes, series: Sequence[Series]) -> None:
    """All runs of one logged name."""
    lows, highs = [], []
    for number, each in enumerate(series):
        if not each.values:
            continue
        steps, values = thinned(np.array(each.steps), np.array(each.values))
        axes.plot(
            steps, values, color=COLOURS[LINES[number % len(LINES)]],
            marker="." if len(steps) == 1 else None,
            label=each.run if 1 < len(series) <= NAMED else None,
        )  # fmt: skip
        lows.append(float(np.min(values)))
        highs.append(float(np.max(values)))
        crossing = each.crossing
        if crossing is not None and crossing.since is not None:
            axes.axvline(crossing.since, color=COLOURS["bad"], linewidth=1, linestyle=(0, (3, 2)))
    low, high = min(lows), max(highs)
    band = series[0].band
    if band is not None:
        edges = [edge for edge in (band.low, band.high) if np.isfinite(edge)]
        low, high = min(low, *edges), max(high, *edges)
    margin = 0.08 * (high - low) or 0.1
    low, high = low - margin, high + margin
    if band is not None:
        axes.axhspan(
            max(low, band.low), min(high, band.high), color=COLOURS["good"], alpha=0.22,
            linewidth=0, label="inside the limit",
        )  # fmt: skip
    axes.set_ylim(low, high)
    axes.set(xlabel="step", ylabel=series[0].label)
    axes.figure.subplots_adjust(left=0.2)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.2, borderpad=0.1
        )


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve of few points that keeps every extreme of a long one."""
    if len(steps) <= 2 * BINS:
        return steps, values
    kept = set()
    for part in np.array_split(np.arange(len(steps)), BINS):
        kept |= {int(part[np.argmin(values[part])]), int(part[np.argmax(values[part])])}
    places = sorted(kept)
    return steps[places], values[places]
