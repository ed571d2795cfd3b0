"""Rules about rows: invalid ones, and rows of a different token or a different text."""

from __future__ import annotations

import numpy as np

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis import alignment, semantic
from parity_check.diagnosis.case import TRUNCATING, Case, Match, percent
from parity_check.diagnosis.evidence import Evidence

ALIGNED = 0.85
"""Smallest correlation at the right lag."""
MISALIGNED = 0.6
"""Largest correlation at lag 0 if another lag is right."""
FEWEST_SHIFTED = 3
SHIFTED = 0.05
"""Smallest share of samples that are shifted if texts were tokenized again; two can be chance."""
DOUBLED = 0.9
"""Share of prompts that begin with the same id twice."""
ANOTHER_TEXT = 0.01
"""Nats. E|Δ| above this is more than numeric noise: the engines read different texts."""
MOST = 0.5
"""If more of the tokens are unusable, the others do not say anything about other causes."""
NOT_ROWS = ("negative_infinity", "top_missing", "sampled_not_returned", "impossible")
"""Defects that other causes produce: truncated support, shifted rows, the sampler."""


def off_by_one(case: Case) -> Match | None:
    """The engines' logprob series agree at a lag other than 0."""
    found = alignment.lag(case.evidence)
    if found is None or found.best == 0:
        return None
    if found.correlation < ALIGNED or found.unshifted > MISALIGNED:
        return None
    late, lag = found.best > 0, abs(found.best)
    return Match(
        None,
        "high",
        (
            f"the logprob series agree at lag {found.best:+d} (correlation "
            f"{found.correlation:.3f}), not at lag 0 ({found.unshifted:.3f})",
        ),
        after=alignment.realigned(case.evidence, found.best),
        words={
            "lag": f"{lag} token" if lag == 1 else f"{lag} tokens",
            "late": "late" if late else "early",
        },
    )


def shifted_by_prompt(case: Case) -> Match | None:
    """The engines' logprob series agree if one is shifted by the length of each prompt."""
    found = alignment.lag_by_prompt(case.evidence)
    if found is None:
        return None
    by, lag = found
    if lag.correlation < ALIGNED or lag.unshifted > MISALIGNED:
        return None
    # A side that starts at the prompt has each completion logprob a prompt length later.
    role: Role = "candidate" if lag.best > 0 else "reference"
    after = alignment.realigned(case.evidence, by)
    return Match(
        None,
        "high",
        (
            f"shifted by the length of each sample's prompt, the logprob series agree at "
            f"{np.isfinite(after.delta).sum():,} tokens (correlation {lag.correlation:.3f}); "
            f"as they are, they do not ({lag.unshifted:.3f})",
        ),
        after=after,
        words={"late": role, "early": OTHER[role]},
    )


def beyond_tokenizer(case: Case) -> Match | None:
    """Ids that no text leads to are sampled, or are among the likeliest."""
    sizes = {each for role in ROLES if (each := case.engines[role].model.get("tokenizer_size"))}
    if len(sizes) != 1:
        return None
    [size] = sizes
    evidence = case.evidence
    sampled = int((evidence.ids[:, 0] >= size).sum())
    of = {
        role: (evidence.own_ids[role] >= size) & np.isfinite(evidence.own[role]) for role in ROLES
    }
    if not any(each.any() for each in of.values()):
        return None
    masses = {
        role: float(np.where(of[role], np.exp(evidence.own[role]), 0.0).sum(axis=1).mean())
        for role in ROLES
    }
    vocabulary = max(case.engines[role].model.get("vocab_size") or size for role in ROLES)
    return Match(
        None,
        "high",
        (
            f"{sampled:,} of {len(evidence.position):,} sampled tokens have such an id; returned "
            "probability of these ids, mean over positions: "
            + ", ".join(f"{mass:.2g} in the {role}" for role, mass in masses.items()),
        ),
        share=0.0,
        words={"tokenizer": f"{size:,}", "vocabulary": f"{vocabulary:,}"},
    )


def retokenised(case: Case) -> Match | None:
    """Samples are aligned at their start and shifted at their end."""
    found = alignment.shifted_tails(case.evidence)
    if found.samples < FEWEST_SHIFTED or found.samples < SHIFTED * found.of:
        return None
    return Match(
        None,
        "high",
        (
            f"{found.samples} of {found.of} samples with at least {2 * alignment.TAIL} tokens "
            "agree at their start, but at their end only if one side is shifted by 1 to "
            f"{max(alignment.LAGS)} tokens: {found.tokens.sum():,} tokens are misaligned",
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
    )


def bad_rows(case: Case) -> Match | None:
    """Invalid logprobs or alternatives."""
    truncating = any(case.sampling[name] != off for name, off in TRUNCATING.items())
    truncating = truncating or semantic.truncated_support(case) is not None
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
    share = min(1.0, max(counts.values()) / max(1, case.evidence.total_tokens))
    role = max(ROLES, key=lambda each: counts[each])
    if not counts[role]:
        return None
    facts = [
        f"{kind.replace('_', ' ')}: {count:,} in the {each}"
        for each in ROLES
        for kind, count in defects[each].items()
    ]
    unsupported = _outside_support(case.evidence) and all(
        set(found) <= {"negative_infinity"} for found in defects.values()
    )
    if unsupported:
        facts.append("the other engine sampled these tokens: truncation or a mask leaves them out")
    return Match(
        role if not counts[OTHER[role]] else None,
        "low" if unsupported else "high",
        tuple(facts),
        rows=share,
        words={"kinds": ", ".join(kind.replace("_", " ") for kind in defects[role])},
        settles=share > MOST,
    )


def _outside_support(evidence: Evidence) -> bool:
    """Whether no engine has -inf for a token that it sampled itself."""
    by_candidate = evidence.sampled_by_candidate
    return not (
        np.isneginf(evidence.returned["candidate"][by_candidate]).any()
        or np.isneginf(evidence.returned["reference"][~by_candidate]).any()
    )
