"""Rules about ids that one side never allows: a list of allowed ids, bad words, a minimum length.

Truncation leaves out the least likely ids of a position. A mask also leaves out ids that are
likelier than those that it keeps, and the same ones at every position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis import gaps, support
from parity_check.diagnosis.case import Case, Match, listed
from parity_check.diagnosis.evidence import Evidence, Flags, Floats, Ints

MARGIN = 0.5
"""Nats by which an id that is left out is likelier than the least likely one that is kept."""
FEWEST_ROWS = 10
"""Positions at which ids are left out."""
HELD = 0.9
"""Smallest share of the mass that is left out that the named ids have."""
MOST_FORBIDDEN = 20
"""Of more ids, it is the list of allowed ones that was given."""
MOST_ENDS = 4
"""Ids that can end a completion: the end of sequence, and a few stop ids."""
FEWEST_LATER = 3
"""Times that an id is there after the minimum length."""
SEEN = 0.02
"""Nats. Smaller offsets are not compared."""
LARGEST = 0.9
"""Mass above which what is left is too small to tell the offset."""
SHORT = 0.25
"""Largest relative shortfall of an offset from that by the mass of the ids."""
EXPLAINS = 0.3
"""Smallest share of E|Δ| that renormalising removes."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Ids of the other side's rows that a side does not have.

    `rows`, `ids` and `masses` [m]: the token, the id and its probability on the other side;
    `likelier`, whether that is more than that of an id which this side keeps. Of each of the
    `names` [i] that are likelier anywhere: how often they are (`count`), the last position of a
    completion where they are, the first where this side has it, and how often it has it.
    """

    role: Role
    rows: Ints
    ids: Ints
    masses: Floats
    likelier: Flags
    names: Ints
    count: Ints
    last_missing: Ints
    first_there: Ints
    times_there: Ints


def missing(evidence: Evidence, role: Role) -> Missing | None:
    """What this side leaves out; None without alternatives."""
    ours, theirs = evidence.own[role], evidence.own[OTHER[role]]
    our_ids, their_ids = evidence.own_ids[role], evidence.own_ids[OTHER[role]]
    if min(ours.shape[1], theirs.shape[1]) < 2:
        return None
    there, absent = np.isfinite(ours), np.isfinite(theirs)
    for column in range(our_ids.shape[1]):
        absent &= ~(there[:, column, None] & (our_ids[:, column, None] == their_ids))
    rows, columns = np.nonzero(absent)
    least = np.where(there[:, 1:], ours[:, 1:], np.inf).min(axis=1)
    values, ids = theirs[rows, columns], their_ids[rows, columns]
    likelier = values > least[rows] + MARGIN
    if not likelier.any():
        return None
    names, place, count = np.unique(ids[likelier], return_inverse=True, return_counts=True)
    last = np.full(len(names), -1)
    np.maximum.at(last, place, evidence.position[rows[likelier]])
    our_rows, our_columns = np.nonzero(there)
    present = our_ids[our_rows, our_columns]
    known = np.isin(present, names)
    at = np.searchsorted(names, present[known])
    first = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(first, at, evidence.position[our_rows[known]])
    times = np.bincount(at, minlength=len(names))
    return Missing(role, rows, ids, np.exp(values), likelier, names, count, last, first, times)


def leaves_out_likelier(evidence: Evidence, role: Role) -> bool:
    """Whether this side does what truncation never does, at more than a few positions."""
    found = missing(evidence, role)
    return found is not None and len(np.unique(found.rows[found.likelier])) >= FEWEST_ROWS


def forbidden_ids(case: Case) -> Match | None:
    """The same few ids are never there on one side."""
    for found, ids in _never(case):
        if len(ids) > MOST_FORBIDDEN:
            continue
        marked = np.isin(found.ids, ids)
        after = _without(case.evidence, found, marked)
        if after is None:
            continue
        return Match(
            found.role,
            "high",
            (
                _left_out(found, marked, "never"),
                f"renormalising over the other ids leaves E|Δ| = "
                f"{after.size():.2g} of {case.evidence.size():.2g} nats",
            ),
            after=after,
            words={"ids": listed(map(str, ids))},
        )
    return None


def allowed_ids(case: Case) -> Match | None:
    """One side has the ids of a list alone; the other has many more."""
    for found, ids in _never(case):
        if len(ids) <= MOST_FORBIDDEN:
            continue
        evidence = case.evidence
        used = np.unique(evidence.own_ids[found.role][np.isfinite(evidence.own[found.role])])
        # A sum over fewer ids is smaller, so each of their logprobs is larger.
        delta = (1.0 if found.role == "candidate" else -1.0) * evidence.delta
        changed = delta[np.isfinite(delta) & (np.abs(delta) > MARGIN)]
        if len(changed) and (changed > 0.0).mean() < HELD:
            continue
        return Match(
            found.role,
            "high",
            (
                _left_out(found, np.isin(found.ids, ids), "never"),
                f"{len(used):,} different ids are ever returned by the {found.role}",
            ),
            share=1.0,
            words={"allowed": f"{len(used):,}"},
            settles=True,
        )
    return None


def min_tokens(case: Case) -> Match | None:
    """One side leaves out an id at the beginning of completions, and has it later."""
    for role in ROLES:
        found = missing(case.evidence, role)
        if found is None:
            continue
        late = (found.times_there >= FEWEST_LATER) & (found.first_there > found.last_missing)
        ids = found.names[late]
        first = np.where(late, found.first_there, 0).max(initial=0)
        marked = np.isin(found.ids, ids) & (case.evidence.position[found.rows] < first)
        if not 0 < len(ids) <= MOST_ENDS or not _holds(found, marked):
            continue
        after = _without(case.evidence, found, marked)
        if after is None:
            continue
        return Match(
            role,
            "high",
            (
                _left_out(found, marked, "not"),
                f"it is there {found.times_there[late].sum():,} times later, from token "
                f"{found.first_there[late].min() + 1} of a completion on",
            ),
            after=after,
            words={
                "ids": listed(map(str, ids)),
                "least": str(int(found.last_missing[late].max()) + 1),
            },
        )
    return None


def _never(case: Case) -> list[tuple[Missing, Ints]]:
    """Of each side, the ids that it never has, where they hold what it leaves out."""
    found = []
    for role in ROLES:
        left_out = missing(case.evidence, role)
        if left_out is None:
            continue
        ids = left_out.names[left_out.times_there == 0]
        if len(ids) and _holds(left_out, np.isin(left_out.ids, ids)):
            found.append((left_out, ids))
    return found


def _holds(found: Missing, marked: Flags) -> bool:
    """Whether these entries [m] have nearly all of the likelier mass that is missing."""
    sure = marked & found.likelier
    enough = len(np.unique(found.rows[sure])) >= FEWEST_ROWS
    return enough and bool(found.masses[sure].sum() >= HELD * found.masses[found.likelier].sum())


def _without(evidence: Evidence, found: Missing, marked: Flags) -> Evidence | None:
    """The evidence without the offset that the mask causes; None if it is not this offset.

    Of the offset of a position, the other side's alternatives show a part: `marked` [m] among them.
    The measured offset must be that or more.
    """
    mass = np.bincount(
        found.rows[marked], weights=found.masses[marked], minlength=len(evidence.position)
    )
    sign = 1.0 if found.role == "candidate" else -1.0
    shown = -sign * np.log1p(-np.minimum(mass, 1.0 - 1e-9))
    measured = gaps.row_constant(evidence)
    both = np.isfinite(measured) & (np.abs(shown) > SEEN) & (mass < LARGEST)
    enough = measured[both] / shown[both] > 1.0 - SHORT
    if both.any() and enough.mean() < HELD:
        return None
    after = support.without_offset(evidence, shown)
    return after if after.size() <= (1.0 - EXPLAINS) * evidence.size() else None


def _left_out(found: Missing, marked: Flags, how: str) -> str:
    other, rows = OTHER[found.role], len(np.unique(found.rows[marked & found.likelier]))
    mass = np.bincount(found.rows[marked], weights=found.masses[marked])
    return (
        f"at {rows:,} positions the {found.role} does {how} have an id that is likelier in the "
        f"{other} than some that the {found.role} returns; the {other} gives these ids a "
        f"probability of {mass[mass > 0.0].mean():.2g} there on average"
    ).replace("does never have", "never has")
