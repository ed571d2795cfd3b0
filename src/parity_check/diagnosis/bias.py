"""A logit bias: the logits of a few ids are shifted by constants on one side."""

from __future__ import annotations

import numpy as np

from parity_check.diagnosis import gaps
from parity_check.diagnosis.case import Case, Match
from parity_check.diagnosis.evidence import Evidence, Floats

FEWEST_IN_ROW = 3
"""Ids of a row, of which the middle one shows the normaliser."""
MOST_IDS = 8
FEWEST_OF_ID = 8
VISIBLE = 0.05
"""Nats. A smaller shift is not told from numeric noise."""
HELD = 0.8
"""Smallest share of what differs within the rows that the ids hold."""
SPREAD = 0.2
"""Largest spread of an id's shift, relative to it: a bias is the same wherever the id is."""
LEFT = 0.5
"""Largest share of E|Δ| that is left without the bias."""


def logit_bias(case: Case) -> Match | None:
    """A few ids are shifted by a constant each, relative to the other ids of their rows."""
    evidence = case.evidence
    found = _shifts(evidence)
    if found is None:
        return None
    shift = np.zeros_like(evidence.candidate)
    for each, value in found.items():
        shift[evidence.ids == each] = value
    moved = evidence.with_candidate(evidence.candidate - shift)
    after = moved.with_candidate(moved.candidate - gaps.row_constant(moved)[:, None])
    if after.size() > LEFT * evidence.size():
        return None
    values = ", ".join(f"{value:+.2f} (id {each})" for each, value in found.items())
    return Match(
        None,
        "medium",
        (
            "candidate minus reference, relative to the other ids of the same position: "
            f"{values} nats, the same wherever the id is an alternative",
            f"without these shifts E|Δ| is {after.size():.2g} of {evidence.size():.2g} nats",
        ),
        after=after,
        words={"shifts": values},
    )


def _shifts(evidence: Evidence) -> dict[int, float] | None:
    """The constant shift of each id that holds what differs within rows; None if it is not so."""
    difference = evidence.candidate - evidence.reference
    there = np.isfinite(difference)
    rows = there.sum(axis=1) >= FEWEST_IN_ROW
    if rows.sum() < gaps.FEWEST_ROWS:
        return None
    level = np.nanmedian(difference[rows], axis=1, keepdims=True)
    left: Floats = (difference[rows] - level)[there[rows]]
    ids, place, count = np.unique(
        evidence.ids[rows][there[rows]], return_inverse=True, return_counts=True
    )
    total = np.bincount(place, weights=np.abs(left))
    largest = np.argsort(-total)[:MOST_IDS]
    found = {}
    held = 0.0
    for each in largest:
        if held >= HELD * total.sum():
            break
        own = left[place == each]
        shift = float(np.median(own))
        spread = float(np.abs(own - shift).mean())
        if count[each] < FEWEST_OF_ID or abs(shift) < VISIBLE or spread > SPREAD * abs(shift):
            return None
        found[int(ids[each])] = shift
        held += float(total[each])
    return found if found and held >= HELD * total.sum() else None
