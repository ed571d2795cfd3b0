"""The logit-grid fingerprint: the gaps of a 16-bit lm_head lie on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity_check.diagnosis.evidence import Floats

TOLERANCE = 0.02
"""In grid steps, on either side."""
FALSE_POSITIVES = 2 * TOLERANCE
"""Share of a float32 head's gaps that are this close to a multiple by chance."""
FINEST = 10
"""2^-10: the finest grid that float32 logprobs resolve within the tolerance."""
FEWEST_GAPS = 200


@dataclass(frozen=True, slots=True)
class Grid:
    """The share of an engine's top-k gaps × T that are multiples of 2^-`exponent`.

    `exponent` is the coarsest grid with nearly the best share. `step` is the mean over the gaps of
    the coarsest grid step that each lies on, in units of logits. `gaps` is their number. A float32
    head has a share of 4 %.
    """

    exponent: int
    step: float
    share: float
    gaps: int


def grid(rows: Floats, temperature: float) -> Grid | None:
    """The grid of an engine's logprob rows [n, 1 + k] at a temperature; None for too few gaps."""
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
    # Half of the multiples of a step are multiples of twice that step, and some match by chance.
    # Without these, the gaps with a step of 2^-k or coarser are 2 s(k) - s(k + 1).
    certain = np.maximum((np.array(shares) - FALSE_POSITIVES) / (1 - FALSE_POSITIVES), 0.0)
    coarser = np.maximum(2 * certain[: exponent - 1] - certain[1:exponent], 0.0)
    own = np.diff(np.maximum.accumulate([0.0, *coarser, certain[exponent - 1]]))
    step = float((own * 2.0 ** -np.arange(1, exponent + 1)).sum() / max(own.sum(), TOLERANCE))
    return Grid(exponent, step, best, len(gaps))


def exposure(rows: Floats) -> float:
    """How much of a logit's rounding error enters the sampled token's logprob, on average.

    The error of z_s - log Σ exp z is (1 - p_s) e_s - Σ p_j e_j, with independent e. For e uniform
    within a step, E|e| is a quarter of the step.
    """
    masses = np.nan_to_num(np.exp(rows))
    spread = np.sqrt((1.0 - masses[:, 0]) ** 2 + (masses[:, 1:] ** 2).sum(axis=1))
    return float(spread[np.isfinite(rows[:, 0])].mean())
