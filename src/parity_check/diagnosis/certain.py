"""Rules about exact zeros: tokens that one side calls certain, and the other does not."""

from __future__ import annotations

import numpy as np

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis import places
from parity_check.diagnosis.case import Case, Match, percent
from parity_check.diagnosis.evidence import Evidence, Flags
from parity_check.measure.invalid import ALL_ZERO, ZERO_DISAGREES

FEWEST = 3
NEARLY_ALL = 0.9
IMPROBABLE = -6.0
"""Nats. No likeliest token of a language model has so low a logprob (-4.4 measured)."""
FEWEST_TOKENS = 64
DICTATED = 0.05
"""Smallest share of tokens that a grammar dictates; fewer are isolated."""


def contradicted(evidence: Evidence, role: Role) -> Flags:
    """Usable tokens [n] with a logprob of exactly 0 on this side, and less on the other."""
    ours, theirs = (
        side[:, 0]
        for side in (
            (evidence.reference, evidence.candidate)
            if role == "reference"
            else (evidence.candidate, evidence.reference)
        )
    )
    with np.errstate(invalid="ignore"):
        found: Flags = (ours == 0.0) & (theirs < ZERO_DISAGREES)
    return found


def appended_eos(case: Case) -> Match | None:
    """Exact zeros at the last tokens of samples alone, all with one id."""
    evidence = case.evidence
    for role in ROLES:
        zero = contradicted(evidence, role)
        at_end = zero & evidence.last()
        if at_end.sum() < FEWEST or at_end.sum() < NEARLY_ALL * zero.sum():
            continue
        ids, counts = np.unique(evidence.ids[at_end, 0], return_counts=True)
        if counts.max() < NEARLY_ALL * at_end.sum():
            continue
        theirs = evidence.returned[OTHER[role]][at_end]
        return Match(
            role,
            "high",
            (
                f"the last token of {at_end.sum():,} samples has a logprob of exactly 0 in the "
                f"{role}, and of {np.median(theirs):.1f} (median) in the {OTHER[role]}; "
                f"{percent(counts.max() / at_end.sum())} of them are id {ids[counts.argmax()]}",
                f"{zero.sum() - at_end.sum():,} other tokens are 0 on that side alone",
            ),
            after=places.without_tokens(evidence, at_end),
            words={"id": str(ids[counts.argmax()]), "count": f"{at_end.sum():,}"},
        )
    return None


def one_token_kept(case: Case) -> Match | None:
    """One side has nothing but zeros, at tokens that can be the likeliest ones."""
    evidence = case.evidence
    for role in ROLES:
        ours, theirs = evidence.returned[role], evidence.returned[OTHER[role]]
        zero = ours == 0.0
        if len(zero) < FEWEST_TOKENS or zero.mean() <= ALL_ZERO:
            continue
        lowest = float(np.nanmin(theirs))
        if lowest < IMPROBABLE or not contradicted(evidence, role).any():
            continue
        return Match(
            role,
            "medium",
            (
                f"{percent(float(zero.mean()))} of the {role}'s logprobs are exactly 0",
                f"under the {OTHER[role]} none of these tokens is below {lowest:.2f} nats: each "
                "can be the likeliest one of its position, as it is where a single token is kept",
            ),
            share=1.0,
            settles=True,
        )
    return None


def constrained(case: Case) -> Match | None:
    """Exact zeros at tokens that are improbable on the other side, between other logprobs."""
    evidence = case.evidence
    for role in ROLES:
        zero = contradicted(evidence, role)
        theirs = evidence.returned[OTHER[role]]
        with np.errstate(invalid="ignore"):
            improbable = zero & (theirs < IMPROBABLE)
        samples = len(np.unique(evidence.sample[improbable]))
        if samples < FEWEST or zero.mean() < DICTATED or improbable.sum() < DICTATED * zero.sum():
            continue
        if (evidence.returned[role] == 0.0).mean() > ALL_ZERO:
            continue
        return Match(
            role,
            "high" if improbable.sum() > zero.sum() / 2 else "medium",
            (
                f"{zero.sum():,} of {len(zero):,} tokens have a logprob of exactly 0 in the "
                f"{role} and {np.median(theirs[zero]):.1f} (median) in the {OTHER[role]}; they "
                f"are in {samples} samples, and other logprobs follow them",
            ),
            share=1.0,
            settles=True,
        )
    return None


def isolated_zeros(case: Case) -> Match | None:
    """A few exact zeros, at tokens that are unlikely on the other side."""
    evidence = case.evidence
    for role in ROLES:
        zero = contradicted(evidence, role)
        with np.errstate(invalid="ignore"):
            wrong = zero & (evidence.returned[OTHER[role]] < np.log(0.5))
        if wrong.sum() < FEWEST or zero.mean() > DICTATED or wrong.sum() < zero.sum() / 2:
            continue
        return Match(
            role,
            "medium",
            (
                f"{wrong.sum():,} of {len(zero):,} tokens have a logprob of exactly 0 in the "
                f"{role} and {np.median(evidence.returned[OTHER[role]][wrong]):.1f} (median) in "
                f"the {OTHER[role]}",
            ),
            after=places.without_tokens(evidence, zero),
            words={"count": f"{wrong.sum():,}"},
        )
    return None
