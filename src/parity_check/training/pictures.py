"""The curves of every arm by step, over the band of the reference's seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from parity_check.measure.stats import Floats
from parity_check.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: tuple[tuple[str, str | tuple[int, tuple[int, ...]]], ...] = (
    ("bad", (0, (5, 2))),
    ("good", "-"),
    ("muted", (0, (1, 1))),
    ("candidate", (0, (6, 2, 1, 2))),
    ("ink", (0, (3, 1))),
    ("heat-5", (0, (8, 2))),
)
"""Colour and line of the arms behind the reference: the first red, the last green."""
REFERENCE = "data"
"""Its colour, blue."""


def style_of(place: int, arms: int) -> tuple[str, str | tuple[int, tuple[int, ...]]]:
    """The style of an arm: the first attempt is red, the last one, the fixed one, green."""
    if place == arms - 1 and arms > 1:
        return STYLES[1]
    if place == 0:
        return STYLES[0]
    return STYLES[2 + (place - 1) % (len(STYLES) - 2)]


def curve(
    axes: Axes, reference: Floats, arms: Mapping[str, Floats], half_width: float, label: str
) -> None:
    """`reference` [seeds, steps] as its mean and band; `arms` [runs, steps] as their means."""
    steps = np.arange(reference.shape[1])
    mean = reference.mean(axis=0)
    axes.fill_between(
        steps, mean - half_width, mean + half_width,
        color=COLOURS[REFERENCE], alpha=0.18, linewidth=0, label="reference, band of its seeds",
    )  # fmt: skip
    axes.plot(steps, mean, color=COLOURS[REFERENCE], label="reference")
    for place, (name, values) in enumerate(arms.items()):
        colour, line = style_of(place, len(arms))
        axes.plot(
            np.arange(values.shape[1]), values.mean(axis=0),
            color=COLOURS[colour], linestyle=line, label=name,
        )  # fmt: skip
    axes.set(xlabel="step", ylabel=label)
    axes.locator_params(axis="x", integer=True)
    axes.figure.subplots_adjust(left=0.2, top=0.82)
    _legend(axes)


def lags(axes: Axes, shares: Mapping[str, Floats]) -> None:
    """Share of the tokens at each lag, over all steps; `shares` by arm, [lags]."""
    width = 0.8 / len(shares)
    for place, (name, values) in enumerate(shares.items()):
        colour = REFERENCE if place == 0 else style_of(place - 1, len(shares) - 1)[0]
        axes.bar(
            np.arange(len(values)) + (place - (len(shares) - 1) / 2) * width, values, width,
            color=COLOURS[colour], label=name,
        )  # fmt: skip
    axes.set(xlabel="lag, updates", ylabel="share of tokens")
    axes.figure.subplots_adjust(left=0.2, top=0.82)
    _legend(axes)


def _legend(axes: Axes) -> None:
    entries = len(axes.get_legend_handles_labels()[0])
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.1, 1.0), ncols=max(1, math.ceil(entries / 2)),
        columnspacing=1.0, borderpad=0.1, fontsize=7.5,
    )  # fmt: skip
