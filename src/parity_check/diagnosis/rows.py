"""Patterns of the rows: broken ones, and rows that belong to another token or another text."""

from __future__ import annotations

import numpy as np

from parity_check.config.models import OTHER, ROLES
from parity_check.diagnosis import alignment
from parity_check.diagnosis.case import TRUNCATING, Case, Match, percent

ALIGNED = 0.85
"""Correlation that the right lag has at least."""
MISALIGNED = 0.6
"""Correlation that lag 0 has at most where another lag is right."""
DOUBLED = 0.9
"""Share of prompts that begin with the same id twice."""
ANOTHER_TEXT = 0.01
"""Nats. E|Δ| above this is more than numeric noise: the engines read another text."""
NOT_ROWS = ("negative_infinity", "top_missing", "sampled_not_returned", "impossible")
"""Defects that follow from other causes: truncated support, rows out of place, the sampler."""


def off_by_one(case: Case) -> Match | None:
    """The engines' series agree at another lag than 0."""
    found = alignment.lag(case.evidence)
    if found is None or found.best == 0:
        return None
    if found.correlation < ALIGNED or found.unshifted > MISALIGNED:
        return None
    late = found.best > 0
    return Match(
        None,
        "high",
        (
            f"the logprob series agree at lag {found.best:+d} (correlation "
            f"{found.correlation:.3f}), not at lag 0 ({found.unshifted:.3f})",
        ),
        after=alignment.realigned(case.evidence, found.best),
        words={"lag": str(abs(found.best)), "late": "late" if late else "early"},
    )


def retokenised(case: Case) -> Match | None:
    """Samples are aligned at their start and shifted at their end."""
    found = alignment.shifted_tails(case.evidence)
    if found.samples < 2 or found.samples < 0.02 * found.of:
        return None
    return Match(
        None,
        "high",
        (
            f"{found.samples} of {found.of} samples of {2 * alignment.TAIL} tokens and more agree "
            "at their start, and agree at their end only when one side is shifted by 1 to "
            f"{max(alignment.LAGS)} tokens: {found.tokens.sum():,} tokens are out of place",
        ),
        after=case.evidence.with_candidate(
            np.where(found.tokens[:, None], np.nan, case.evidence.candidate)
        ),
    )


def bos_twice(case: Case) -> Match | None:
    """Prompts begin with the same id twice."""
    common, share = alignment.doubled_bos(case.evidence)
    if share < DOUBLED:
        return None
    size = case.evidence.size()
    return Match(
        None,
        "medium",
        (
            f"{percent(share)} of the prompts begin with id {common} twice",
            f"mean |Δ| is {size:.2g} nats",
        ),
        share=1.0 if size > ANOTHER_TEXT else 0.0,
        words={"id": str(common)},
        settles=size > ANOTHER_TEXT,
    )


def bad_rows(case: Case) -> Match | None:
    """Logprobs or alternatives that cannot be what they claim."""
    truncating = any(case.sampling[name] != off for name, off in TRUNCATING.items())
    defects = {
        role: {
            kind: count
            for kind, count in case.engines[role].defects.items()
            if kind not in NOT_ROWS
            or (kind in ("negative_infinity", "top_missing") and not truncating)
        }
        for role in ROLES
    }
    counts = {role: sum(found.values()) for role, found in defects.items()}
    role = max(ROLES, key=lambda each: counts[each])
    if not counts[role]:
        return None
    return Match(
        role if not counts[OTHER[role]] else None,
        "high",
        tuple(
            f"{kind.replace('_', ' ')}: {count:,} in the {each}"
            for each in ROLES
            for kind, count in defects[each].items()
        ),
        words={"kinds": ", ".join(kind.replace("_", " ") for kind in defects[role])},
    )
