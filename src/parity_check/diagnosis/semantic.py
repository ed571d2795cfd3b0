"""Patterns of the semantic layer: the returned number means something else."""

from __future__ import annotations

from parity_check.config import ROLES, Role
from parity_check.diagnosis import gaps
from parity_check.diagnosis.case import Case, Match

SCALED = 0.01
"""Slopes nearer to 1 than this are numeric noise; a temperature off by 1 % goes unseen."""
SAME_SCALE = 0.02
"""How near a slope must be to T, or 1/T, to be called that."""
EXPLAINS = 0.3
"""A change of scale that removes less of E|Δ| than this is not the cause."""


def _scaled(case: Case) -> tuple[gaps.Scale, Match] | None:
    """The change of scale between the engines, where there is one; the match names no engine."""
    found = gaps.scale(case.evidence)
    if found is None or found.low <= 1.0 <= found.high or abs(found.slope - 1.0) < SCALED:
        return None
    after = gaps.rescaled(case.evidence, found.slope)
    if after.size() > (1.0 - EXPLAINS) * case.evidence.size():
        return None
    sentence = (
        f"the candidate's top-k gaps are {found.slope:.4f} times the reference's "
        f"[{found.low:.4f}, {found.high:.4f}], n = {found.rows:,} positions"
    )
    return found, Match(None, "medium", (sentence,), after=after)


def raw_logprobs(case: Case) -> Match | None:
    scaled = _scaled(case)
    if scaled is None:
        return None
    found, match = scaled
    temperature = case.temperature()
    implied = {"candidate": found.slope, "reference": 1.0 / found.slope}
    raw: list[Role] = [role for role in ROLES if case.engines[role].distribution == "raw"]
    if len(raw) != 1:
        raw = [
            role
            for role in ROLES
            if temperature != 1.0 and abs(implied[role] / temperature - 1.0) < SAME_SCALE
        ]
    if len(raw) != 1:
        return None
    [role] = raw
    agrees = abs(implied[role] / temperature - 1.0) < SAME_SCALE
    stated = case.engines[role].distribution == "raw"
    return Match(
        role,
        "high" if agrees and stated else "medium",
        (
            *match.evidence,
            f"implied temperature {implied[role]:.3f}, requested {temperature:g}",
            f"logprobs_mode in force in the {role}: "
            f"{case.engines[role].settings.get('logprobs_mode', 'not known')}",
        ),
        after=match.after,
        words={"temperature": f"{temperature:g}", "implied": f"{implied[role]:.3f}"},
    )
