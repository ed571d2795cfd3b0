"""Observations about a drift that no rule explains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity_check.diagnosis import gaps, places
from parity_check.diagnosis.case import Case, percent


def known(case: Case) -> tuple[str, ...]:
    """Observations as text: size and sign, location, scale, differences between the engines."""
    delta = case.evidence.delta[np.isfinite(case.evidence.delta)]
    if not len(delta):
        return ("no token has usable logprobs on both sides",)
    size = (
        f"mean |Δ| is {np.abs(delta).mean():.2g} nats over {len(delta):,} tokens; candidate minus "
        f"reference is {delta.mean():+.2g} nats on average"
    )
    return (size, *_where(case), _scale(case), *_differing(case))


def _where(case: Case) -> Iterator[str]:
    evidence = case.evidence
    held = places.held_by_the_largest(evidence, 0.01)
    yield f"the 1 % of tokens with the largest |Δ| account for {percent(held)} of Σ|Δ|"
    rare = places.unlikely(evidence)
    if rare is not None:
        yield f"tokens with a probability below one half account for {percent(rare)} of Σ|Δ|"
    trend = places.growth(evidence)
    if trend is not None:
        yield f"the rank correlation of |Δ| with the position is {trend:+.2f}"
    first = places.first_token(evidence)
    if first is not None:
        yield f"mean |Δ| of the first token of a completion is {first:.1f} times that of the others"


def _scale(case: Case) -> str:
    found = gaps.scale(case.evidence)
    if found is None:
        return (
            "the traces have no or too few top-k alternatives: temperature, truncated support, "
            "penalties and lm_head precision cannot be checked"
        )
    return (
        f"the top-k gaps have the same scale: slope {found.slope:.4f} [{found.low:.4f}, "
        f"{found.high:.4f}]"
    )


def _differing(case: Case) -> Iterator[str]:
    if case.unrequested:
        yield f"these settings differ without being requested: {', '.join(case.unrequested)}"
