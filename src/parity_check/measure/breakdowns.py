"""The same estimates bin by bin: by position, turn, the behaviour engine's probability, group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from parity_check.measure.accumulator import (
    BROKEN_DOWN,
    POSITION_EDGES,
    PROBABILITY_BINS,
    SURPRISAL_EDGES,
    TURN_EDGES,
    Accumulator,
)
from parity_check.measure.estimator import Estimator
from parity_check.measure.results import Bin


def range_label(low: float, high: float) -> str:
    """Label of the integers from `low` up to but excluding `high`."""
    if high == low + 1:
        return f"{low:g}"
    return f"{low:g}–{high - 1:g}" if high < math.inf else f"≥ {low:g}"


def breakdowns(
    estimator: Estimator, sums: Accumulator, groups: Mapping[str, int]
) -> dict[str, tuple[Bin, ...]]:
    """The non-empty bins of each breakdown. `groups` maps names to numbers of the prompt groups.

    By turn only where a rollout has more than one.
    """
    names = {number: name for name, number in groups.items()}
    clusters, width = len(sums.sums), len(BROKEN_DOWN)
    positions = sums.part("position").reshape(clusters, len(POSITION_EDGES), width)
    surprisals = sums.part("probability").reshape(clusters, PROBABILITY_BINS, width)
    totals = sums.part("totals")[:, BROKEN_DOWN]
    by_position = [
        estimator.bin(range_label(low, high), low, high, positions[:, index])
        for index, (low, high) in enumerate(
            zip(POSITION_EDGES, (*POSITION_EDGES[1:], math.inf), strict=True)
        )
    ]
    by_probability = [
        estimator.bin(
            f"p {math.exp(-high):.2g}–{math.exp(-low):.2g}",
            math.exp(-high),
            math.exp(-low),
            surprisals[:, index],
        )
        for index, (low, high) in enumerate(pairwise(SURPRISAL_EDGES))
    ]
    by_group = [
        estimator.bin(names.get(group, str(group)), group, group + 1, totals[sums.group == group])
        for group in np.unique(sums.group[totals[:, 0] > 0]).tolist()
    ]
    found = {
        "position": by_position,
        "behaviour_probability": by_probability,
        "prompt_group": by_group,
    }
    if sums.turns > 1:
        turns = sums.part("turn").reshape(clusters, len(TURN_EDGES), width)
        found["turn"] = [
            estimator.bin(f"turn {range_label(low + 1, high + 1)}", low, high, turns[:, index])
            for index, (low, high) in enumerate(pairwise((*TURN_EDGES, math.inf)))
        ]
    return {
        name: tuple(entry for entry in bins if entry is not None) for name, bins in found.items()
    }
