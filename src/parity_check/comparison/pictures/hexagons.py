"""Count points of a plane in hexagonal bins, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity_check.measure.stats import Floats, Ints

WIDTH = 0.25
"""Distance of neighbouring centres in a row. Nats."""
ROW = WIDTH * np.sqrt(3.0)
"""Distance of every second row, which are aligned."""
LOWEST = -20.0
"""Lower logprobs are counted here."""
_COLUMNS, _ROWS = (int(np.ceil(-LOWEST / step)) + 2 for step in (WIDTH, ROW))


@dataclass(frozen=True, slots=True)
class Hexagons:
    """The non-empty hexagons: their centres [n] and point counts [n]."""

    x: Floats
    y: Floats
    counts: Ints


class Lattice:
    """Hexagons as two interleaved rectangular grids; a point belongs to the nearest centre."""

    def __init__(self) -> None:
        self._even = np.zeros((_COLUMNS, _ROWS), np.int64)
        self._odd = np.zeros((_COLUMNS, _ROWS), np.int64)

    def add(self, x: Floats, y: Floats) -> None:
        """Count points with coordinates of at most 0."""
        across, along = (-np.clip(axis, LOWEST, 0.0) for axis in (x, y))
        across, along = across / WIDTH, along / ROW
        even = np.rint(across), np.rint(along)
        odd = np.floor(across), np.floor(along)
        nearer_odd = _distance(across - odd[0] - 0.5, along - odd[1] - 0.5) < _distance(
            across - even[0], along - even[1]
        )
        for grid, (column, row), chosen in (
            (self._even, even, ~nearer_odd),
            (self._odd, odd, nearer_odd),
        ):
            cells = (column[chosen] * _ROWS + row[chosen]).astype(np.int64)
            grid += np.bincount(cells, minlength=grid.size).reshape(grid.shape)

    def found(self) -> Hexagons:
        x, y, counts = [], [], []
        for grid, shift in ((self._even, 0.0), (self._odd, 0.5)):
            column, row = np.nonzero(grid)
            x.append(-(column + shift) * WIDTH)
            y.append(-(row + shift) * ROW)
            counts.append(grid[column, row])
        return Hexagons(np.concatenate(x), np.concatenate(y), np.concatenate(counts))


def _distance(across: Floats, along: Floats) -> Floats:
    """Squared, in widths."""
    return across * across + 3.0 * along * along
