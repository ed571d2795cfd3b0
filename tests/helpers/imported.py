"""Imported dumps, as the tests of the importers look at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parity_check.importers.formats import importer
from parity_check.importers.turns import Imported, collect

SAMPLES = Path(__file__).parents[2] / "docs" / "guides" / "dumps"
"""The same rollouts in every format."""
DUMPS = Path(__file__).parents[1] / "data" / "dumps"
"""Files that the frameworks' own code wrote."""


def imported(name: str, *paths: Path) -> Imported:
    return collect(importer(name).read(paths))


def values(logprobs: Sequence[float | None]) -> list[float]:
    """As the Parquet file keeps them."""
    return [float(np.float32(np.nan if each is None else each)) for each in logprobs]


def log_ratios(found: Imported) -> np.ndarray:
    """Δ of every token of a two-sided dump."""
    assert found.evaluating is not None
    pairs = zip(found.behaviour, found.evaluating, strict=True)
    return np.concatenate(
        [np.array(other.logprobs, float) - np.array(own.logprobs, float) for own, other in pairs]
    )


def tokens(found: Imported) -> int:
    return sum(len(each.completion_token_ids) for each in found.behaviour)
