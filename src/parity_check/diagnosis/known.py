"""What can be said of a drift that no rule names."""

from __future__ import annotations

import numpy as np

from parity_check.diagnosis import gaps
from parity_check.diagnosis.case import Case, percent
from parity_check.diagnosis.evidence import Floats


def known(case: Case) -> tuple[str, ...]:
    """Facts in words: size, sign, scale, where the drift is."""
    evidence = case.evidence
    delta = evidence.delta[np.isfinite(evidence.delta)]
    if not len(delta):
        return ("no token has usable logprobs on both sides",)
    facts = [
        f"mean |Δ| is {np.abs(delta).mean():.2g} nats over {len(delta):,} tokens, and the "
        f"candidate's logprobs are {delta.mean():+.2g} nats from the reference's on average",
        f"the largest 1 % of the tokens hold {percent(_held_by_the_largest(delta))} of Σ|Δ|",
    ]
    found = gaps.scale(evidence)
    if found is None:
        facts.append(
            "no top-k alternatives in both traces: nothing can be said of temperature, truncated "
            "support, penalties or the precision of the lm_head"
        )
    else:
        facts.append(
            f"the top-k gaps have the same scale: slope {found.slope:.4f} [{found.low:.4f}, "
            f"{found.high:.4f}]"
        )
    return tuple(facts)


def _held_by_the_largest(delta: Floats) -> float:
    sizes = np.sort(np.abs(delta))
    total = sizes.sum()
    return float(sizes[-max(1, len(sizes) // 100) :].sum() / total) if total else 0.0
