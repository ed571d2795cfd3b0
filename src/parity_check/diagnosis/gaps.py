"""Signals of the top-k gaps: the scale between the engines, and the offset common to a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity_check.diagnosis.evidence import Evidence, Flags, Floats, Ints
from parity_check.measure.stats import t_quantile

SMALLEST_GAP = 0.5
"""Nats. For smaller gaps, numeric noise of 0.01 changes the ratio by more than 2 %."""
FEWEST_ROWS = 50
FEWEST_PROMPTS = 8


@dataclass(frozen=True, slots=True)
class Scale:
    """Candidate gaps over reference gaps of the same ids: 1 if both have the same temperature.

    `slope` is the median of the ratios, weighted by the reference's gap, over `rows` positions;
    `low` and `high` are its 95 % interval by prompt (by sample if there are few prompts). Raw
    logprobs against processed ones at temperature T give T or 1/T. `left` is the median distance of
    a candidate gap from the scaled reference gap, relative to the latter: numeric noise if one
    engine has the logits of the other, at another temperature.
    """

    slope: float
    low: float
    high: float
    rows: int
    left: float


def scale(evidence: Evidence) -> Scale | None:
    """The scale of the gaps; None if too few rows have two ids with a wide gap.

    Ids that occur in the context are excluded, because a penalty shifts them.
    """
    fresh = (evidence.seen_prompt <= 0) & (evidence.seen_output <= 0)
    for usable in (fresh, np.ones_like(fresh)):
        reference, candidate, rows = _widest_gaps(evidence, usable)
        if len(rows) >= FEWEST_ROWS:
            break
    else:
        return None
    ratios = candidate / reference
    sample = evidence.sample[rows]
    owner = evidence.prompt[sample]
    if len(np.unique(owner)) < FEWEST_PROMPTS:
        owner = sample
    order = np.argsort(owner, kind="stable")
    borders = np.flatnonzero(np.diff(owner[order])) + 1
    slopes = [weighted_median(ratios[each], reference[each]) for each in np.split(order, borders)]
    slope = weighted_median(ratios, reference)
    count = len(slopes)
    spread = float(np.std(slopes, ddof=1)) if count > 1 else abs(slope)
    margin = t_quantile(max(2, count), 0.95) * spread / count**0.5
    left = float(np.median(np.abs(ratios / slope - 1.0))) if slope else np.inf
    return Scale(slope, slope - margin, slope + margin, len(rows), left)


def _widest_gaps(evidence: Evidence, usable: Flags) -> tuple[Floats, Floats, Ints]:
    """Each row's widest gap in the reference, the candidate's gap of these two ids, and the row."""
    there = usable & np.isfinite(evidence.reference) & np.isfinite(evidence.candidate)
    rows = np.flatnonzero(there.sum(axis=1) >= 2)
    if not len(rows):
        return np.zeros(0), np.zeros(0), rows
    reference = evidence.reference[rows]
    best = np.where(there[rows], reference, -np.inf).argmax(axis=1)
    least = np.where(there[rows], reference, np.inf).argmin(axis=1)
    every = np.arange(len(rows))
    gaps = reference[every, best] - reference[every, least]
    candidate = evidence.candidate[rows]
    others = candidate[every, best] - candidate[every, least]
    wide = gaps > SMALLEST_GAP
    return gaps[wide], others[wide], rows[wide]


def weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def row_constant(evidence: Evidence, usable: Flags | None = None) -> Floats:
    """log of candidate mass over reference mass on each row's common ids [n]; NaN below two ids
    with a mass above 0 (a logprob below -745 has none).

    Renormalisation shifts all ids of a row alike. Subtracting this constant compares the two
    distributions on the ids that both returned. `usable` [n, 1 + k] restricts these ids.
    """
    there = np.isfinite(evidence.reference) & np.isfinite(evidence.candidate)
    if usable is not None:
        there &= usable
    found = np.full(len(there), np.nan)
    masses = [
        np.exp(np.where(there, side, -np.inf)).sum(axis=1)
        for side in (evidence.candidate, evidence.reference)
    ]
    rows = (there.sum(axis=1) >= 2) & (masses[0] > 0.0) & (masses[1] > 0.0)
    found[rows] = np.log(masses[0][rows]) - np.log(masses[1][rows])
    return found


def rescaled(evidence: Evidence, slope: float) -> Evidence:
    """The evidence with the candidate's gaps divided by the slope, and rows renormalised."""
    moved = evidence.with_candidate(evidence.candidate / slope)
    return moved.with_candidate(moved.candidate - row_constant(moved)[:, None])
