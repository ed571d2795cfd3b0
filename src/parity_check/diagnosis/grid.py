"""The logit-grid fingerprint: a head that ran in 16 bits leaves its gaps on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity_check.diagnosis.evidence import Floats

TOLERANCE = 0.02
"""In grid steps, to either side."""
FALSE_POSITIVES = 2 * TOLERANCE
"""Share of the gaps of a float32 head that lie so near to a multiple by chance."""
FINEST = 10
"""2^-10: float32 logprobs resolve steps that large to within the tolerance."""
FEWEST_GAPS = 200


@dataclass(frozen=True, slots=True)
class Grid:
    """How many of an engine's top-k gaps × T are multiples of 2^-`exponent`.

    `exponent` is the coarsest grid on which nearly all lie that lie on any; `share` that of it.
    `step` is the mean step of the gaps, in units of logits: that of the coarsest grid on which each
    lies. `gaps` is their number. A float32 head shows a share of 4 %.
    """

    exponent: int
    step: float
    share: float
    gaps: int


def grid(rows: Floats, temperature: float) -> Grid | None:
    """The grid of an engine's rows [n, 1 + k] of logprobs at a temperature; None for too few."""
    largest = np.nanmax(np.nan_to_num(rows, nan=-np.inf), axis=1)
    gaps = (largest[:, None] - rows) * temperature
    gaps = gaps[np.isfinite(gaps) & (gaps > 0.0)]
    if len(gaps) < FEWEST_GAPS:
        return None
    shares = []
    for exponent in range(1, FINEST + 1):
        steps = gaps * 2.0**exponent
        shares.append(float((np.abs(steps - np.round(steps)) < TOLERANCE).mean()))
    best = max(shares)
    exponent = 1 + next(i for i, share in enumerate(shares) if share >= 0.95 * best)
    new = np.diff(np.maximum.accumulate([0.0, *shares[:exponent]]))
    step = float((new * 2.0 ** -np.arange(1, exponent + 1)).sum() / best) if best else 0.0
    return Grid(exponent, step, best, len(gaps))
