"""The difference by depth of the model, over the noise of a healthy pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from parity_check.locate.differences import BEYOND_NOISE, Difference, layer_of, place_of
from parity_check.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TICKS = 12


def by_depth(axes: Axes, found: Sequence[Difference], first: Difference | None) -> None:
    """Relative difference of every module, in the order of the forward pass."""
    places = np.arange(len(found))
    noise = np.array([each.noise or 0.0 for each in found])
    relative = np.array([np.nan if each.relative is None else each.relative for each in found])
    smallest = min((value for value in (*noise, *relative) if value > 0), default=1e-9)
    axes.fill_between(
        places, smallest, np.maximum(BEYOND_NOISE * noise, smallest),
        color=COLOURS["good"], alpha=0.25, linewidth=0, label="explained by rounding",
    )  # fmt: skip
    axes.plot(
        places, np.maximum(relative, smallest), color=COLOURS["candidate"], marker=".",
        label="candidate against reference",
    )  # fmt: skip
    if first is not None:
        place = found.index(first)
        axes.axvline(place, color=COLOURS["bad"], linewidth=1, label=place_of(first.module))
    starts = [
        place
        for place, each in enumerate(found)
        if layer_of(each.module) != (layer_of(found[place - 1].module) if place else None)
    ]
    shown = starts[:: max(1, len(starts) // MOST_TICKS)]
    axes.set_yscale("log")
    axes.set_xticks(
        shown, [(layer_of(found[p].module) or "end").removeprefix("layer ") for p in shown]
    )
    axes.set(xlabel="layer", ylabel="relative difference")
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, columnspacing=1.2, borderpad=0.1
    )
