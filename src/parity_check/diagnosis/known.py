"""What can be said of a drift that no rule names."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity_check.diagnosis import gaps, places
from parity_check.diagnosis.case import Case, percent


def known(case: Case) -> tuple[str, ...]:
    """Facts in words: size and sign, where the drift is, what its scale is, what differs."""
    delta = case.evidence.delta[np.isfinite(case.evidence.delta)]
    if not len(delta):
        return ("no token has usable logprobs on both sides",)
    size = (
        f"mean |Δ| is {np.abs(delta).mean():.2g} nats over {len(delta):,} tokens, and the "
        f"candidate's logprobs are {delta.mean():+.2g} nats from the reference's on average"
    )
    return (size, *_where(case), _scale(case), *_differing(case))


def _where(case: Case) -> Iterator[str]:
    evidence = case.evidence
    held = places.held_by_the_largest(evidence, 0.01)
    yield f"the largest 1 % of the tokens hold {percent(held)} of Σ|Δ|"
    rare = places.unlikely(evidence)
    if rare is not None:
        yield f"tokens with a probability below one half hold {percent(rare)} of it"
    trend = places.growth(evidence)
    if trend is not None:
        yield f"the rank correlation of |Δ| with the position is {trend:+.2f}"
    first = places.first_token(evidence)
    if first is not None:
        yield f"a completion's first token differs {first:.1f} times as much as the others"


def _scale(case: Case) -> str:
    found = gaps.scale(case.evidence)
    if found is None:
        return (
            "the traces hold no top-k alternatives, or too few: nothing can be said of "
            "temperature, truncated support, penalties or the precision of the lm_head"
        )
    return (
        f"the top-k gaps have the same scale: slope {found.slope:.4f} [{found.low:.4f}, "
        f"{found.high:.4f}]"
    )


def _differing(case: Case) -> Iterator[str]:
    if case.unrequested:
        yield f"these differ though nobody asked for it: {', '.join(case.unrequested)}"
