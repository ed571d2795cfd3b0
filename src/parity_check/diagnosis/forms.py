"""Rules of form: one side's logprobs are a function of the other's, token by token or by sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis import places
from parity_check.diagnosis.case import Case, Match, listed, percent
from parity_check.diagnosis.evidence import Evidence, Flags, Floats, Ints
from parity_check.measure.invalid import FLOOR, ROUNDING

FEWEST_TOKENS = 64
LEFT = 0.1
"""A function fits if it leaves at most this share of the difference, and of its own size."""
FITS = 0.9
"""Smallest correlation of one side with the function of the other."""
LIKELY = float(np.log(0.5))
"""Above it, the sampled token is the likeliest one."""
SAME = 0.02
"""Nats. Logprobs this close are the same but for numeric noise."""
ONE_SIGNED = 0.98
FEWEST_HIGHER = 0.25
"""Smallest share of unlikely tokens that have another token's logprob if all have the largest."""
EXACT = 0.99
"""Smallest share of a side's logprobs on a grid if they were rounded to it."""
FEWEST_VALUES = 8
"""Different logprobs."""
HEAD = 8
"""Tokens at the start of a sample to tell it from others."""
SHORTEST_HEAD = 4
HEADS_AGREE = 0.05
"""Nats. Logprobs of one token in two engines are this close."""
AGREEING = 0.75
"""Smallest share of a head that agrees; the rest can have another fault."""
FEWEST_TELLING = 3
"""Tokens of a head that agree and are not certain."""
DISTINCT = 0.9
"""Smallest number of samples that the logprobs come from, for each that has another's."""
FAR = 0.1
"""Nats. E|Δ| of a sample whose logprobs may be another's."""
MOST_SAMPLES = 400
FEWEST_CLAMPED = 3
UNSAMPLED = 0.01
"""Nats by which the other side must lie below a limit that was clamped to."""

Form = Callable[[Evidence, Role], Floats]
"""Predicts the other side's logprobs [n] from this role's."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A side that equals a function of the other; `left` is E|difference| beside it, nats."""

    role: Role
    what: str
    left: float
    before: float
    tokens: int
    predicted: Floats


def _per_sample(values: Floats, evidence: Evidence, reduce: Callable[[Floats], Floats]) -> Floats:
    found = np.full(len(values), np.nan)
    for first, last in zip(evidence.starts[:-1], evidence.starts[1:], strict=True):
        if last > first:
            found[first:last] = reduce(values[first:last])
    return found


def _of(function: Callable[[Floats], Floats]) -> Form:
    return lambda evidence, role: function(evidence.returned[role])


def _by_sample(reduce: Callable[[Floats], Floats]) -> Form:
    return lambda evidence, role: _per_sample(evidence.returned[role], evidence, reduce)


def _likeliest(evidence: Evidence, role: Role) -> Floats:
    """The largest logprob of each row, where the row has alternatives."""
    rows = evidence.own[role]
    known = np.isfinite(rows[:, 1:]).any(axis=1)
    largest: Floats = np.where(known, np.nan_to_num(rows, nan=-np.inf).max(axis=1), np.nan)
    return largest


BASES: Mapping[str, Form] = {
    "in base 2": _of(lambda values: values / np.log(2.0)),
    "in base 10": _of(lambda values: values / np.log(10.0)),
}
NEGATED: Mapping[str, Form] = {
    "negated": _of(np.negative),
    "exponentiated": _of(np.exp),
}
SUMMED: Mapping[str, Form] = {
    "summed up from the start of the sample": _by_sample(np.cumsum),
    "summed over the sample, at every token": _by_sample(lambda v: np.full(len(v), v.sum())),
    "summed over the sample at its last token, with 0 before it": _by_sample(
        lambda v: np.append(np.zeros(len(v) - 1), v.sum())
    ),
}
AVERAGED: Mapping[str, Form] = {
    "divided by the length of their sample": _by_sample(lambda values: values / len(values)),
    "averaged over the sample, at every token": _by_sample(lambda v: np.full(len(v), v.mean())),
}


def fit(evidence: Evidence, forms: Mapping[str, Form]) -> Fit | None:
    """The form that fits best, of either side; None if none fits."""
    with np.errstate(over="ignore", invalid="ignore"):  # of what is no logprob at all
        found = [
            fitted
            for role in ROLES
            for what, form in forms.items()
            if (fitted := _fitted(evidence, role, what, form(evidence, OTHER[role]))) is not None
        ]
    return min(found, key=lambda each: each.left, default=None)


def _fitted(evidence: Evidence, role: Role, what: str, predicted: Floats) -> Fit | None:
    ours, theirs = evidence.returned[role], evidence.returned[OTHER[role]]
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(ours) & np.isfinite(predicted) & (theirs > FLOOR)
        usable &= theirs <= ROUNDING
    # The other side's values are logprobs, at most tokens: near 0, every form fits.
    if usable.sum() < max(FEWEST_TOKENS, np.isfinite(ours + theirs).sum() / 2):
        return None
    ours, theirs, predicted_ = ours[usable], theirs[usable], predicted[usable]
    left, before = np.abs(ours - predicted_).mean(), np.abs(ours - theirs).mean()
    # Where both sides are the same already, no form explains anything.
    if before == 0.0 or left > LEFT * min(before, np.abs(predicted_).mean()):
        return None
    if ours.std() == 0.0 or np.corrcoef(ours, predicted_)[0, 1] < FITS:
        return None
    return Fit(role, what, float(left), float(before), int(usable.sum()), predicted)


def _rule(forms: Mapping[str, Form]) -> Callable[[Case], Match | None]:
    def look(case: Case) -> Match | None:
        found = fit(case.evidence, forms)
        return None if found is None else _match(found)

    return look


def _match(found: Fit) -> Match:
    return Match(
        found.role,
        "high",
        (
            f"mean |difference| of the {found.role}'s logprobs from the {OTHER[found.role]}'s "
            f"{found.what}: {found.left:.2g} nats, from the {OTHER[found.role]}'s as they are: "
            f"{found.before:.2g}, n = {found.tokens:,} tokens",
        ),
        share=1.0 - found.left / found.before,
        words={"what": found.what},
        settles=True,
    )


other_base = _rule(BASES)
negated = _rule(NEGATED)
summed = _rule(SUMMED)
averaged = _rule(AVERAGED)


def argmax(case: Case) -> Match | None:
    """One side has the logprob of the likeliest token where another token was sampled."""
    evidence = case.evidence
    found = fit(evidence, {"largest ones of each position": _likeliest})
    if found is not None:
        return _match(found)
    return None if evidence.has_alternatives else _argmax_without_alternatives(evidence)


def _argmax_without_alternatives(evidence: Evidence) -> Match | None:
    """Equal where the sampled token has more than half of the mass, else larger on one side.

    The likeliest token has at most the mass that the sampled one leaves.
    """
    both = np.isfinite(evidence.delta)
    for role in ROLES:
        ours, theirs = (evidence.own[each][both, 0] for each in (role, OTHER[role]))
        likely = theirs > LIKELY
        if min(likely.sum(), (~likely).sum()) < FEWEST_TOKENS // 2:
            continue
        higher = (ours - theirs > SAME) & (ours < 0.0)
        room = np.log(-np.expm1(np.minimum(theirs, -1e-9))) + SAME
        allowed = (np.abs(ours - theirs) <= SAME) | (higher & (ours <= room))
        same = np.abs(ours - theirs)[likely] <= SAME
        if not _everywhere(evidence, both, higher):
            continue
        if min(same.mean(), allowed.mean()) > ONE_SIGNED and higher[~likely].mean() > FEWEST_HIGHER:
            return Match(
                role,
                "medium",
                (
                    f"equal at the {likely.sum():,} tokens with a probability above one half; at "
                    f"{percent(float(higher[~likely].mean()))} of the {(~likely).sum():,} others "
                    f"the {role} is larger, never by more than another token's logprob can be",
                ),
                share=1.0,
                words={"what": "largest ones of each position"},
                settles=True,
            )
    return None


def _everywhere(evidence: Evidence, usable: Flags, marked: Flags) -> bool:
    """Whether the marked ones [m] of the usable tokens [n] are not in a part of the data.

    A part is the first or the last tokens of the samples, or a few samples.
    """
    ends = (evidence.position[usable] == 0, evidence.last()[usable])
    if not marked.any() or any((marked & end).sum() > marked.sum() / 2 for end in ends):
        return False
    sample = evidence.sample[usable]
    return 2 * len(np.unique(sample[marked])) >= min(int(marked.sum()), len(np.unique(sample)))


def clamped(case: Case) -> Match | None:
    """One side has no logprob below a limit, at which several of its tokens lie."""
    evidence = case.evidence
    for role in ROLES:
        ours, theirs = (evidence.own[each][:, 0] for each in (role, OTHER[role]))
        both = np.isfinite(ours) & np.isfinite(theirs)
        if both.sum() < FEWEST_TOKENS:
            continue
        limit = float(ours[both].min())
        at = both & (ours == limit)
        below = at & (theirs < limit - UNSAMPLED)
        if limit > LIKELY or below.sum() < max(FEWEST_CLAMPED, at.sum() // 2):
            continue
        if (both & (theirs < limit - SAME) & ~at).sum() > below.sum() // 10:
            continue
        return Match(
            role,
            "high",
            (
                f"{at.sum():,} tokens of the {role} are at {limit:g} nats exactly, none is lower; "
                f"the {OTHER[role]} has {below.sum():,} of them lower, down to "
                f"{theirs[at].min():.2f}",
            ),
            after=places.without_tokens(evidence, at),
            words={"limit": f"{limit:g}"},
        )
    return None


def rounded(case: Case) -> Match | None:
    """One side's logprobs lie on a grid: a few decimals, bfloat16 or float16."""
    evidence = case.evidence
    for role in ROLES:
        if (found := rounding(evidence, role)) is None or rounding(evidence, OTHER[role]):
            continue
        grid, share = found
        theirs = evidence.own[OTHER[role]][:, 0]
        theirs = theirs[np.isfinite(theirs)]
        lost = float(np.abs(GRIDS[grid](theirs) - theirs).mean())
        size = evidence.size()
        removed = 1.0 - np.sqrt(max(0.0, 1.0 - min(1.0, lost / size) ** 2)) if size else 0.0
        return Match(
            role,
            "high",
            (
                f"{percent(share)} of the {role}'s logprobs are exactly those of {grid}; rounding "
                f"to it changes a logprob by {lost:.2g} nats on average",
            ),
            share=float(removed),
            words={"grid": grid},
        )
    return None


def rounding(evidence: Evidence, role: Role) -> tuple[str, float] | None:
    """The coarsest grid that holds nearly all of a side's logprobs but 0, and their share."""
    values = evidence.own[role][:, 0]
    values = values[np.isfinite(values) & (values != 0.0)]
    if len(values) < FEWEST_TOKENS or len(np.unique(values)) < FEWEST_VALUES:
        return None
    for grid, onto in GRIDS.items():
        share = float((onto(values).astype(np.float32) == values.astype(np.float32)).mean())
        if share >= EXACT:
            return grid, share
    return None


def _decimals(digits: int) -> Callable[[Floats], Floats]:
    return lambda values: np.round(values, digits)


def _bfloat16(values: Floats) -> Floats:
    bits = values.astype(np.float32).view(np.uint32)
    nearest = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (nearest & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


GRIDS: Mapping[str, Callable[[Floats], Floats]] = {
    **{f"{digits} decimals": _decimals(digits) for digits in range(1, 5)},
    "bfloat16": _bfloat16,
    "float16": lambda values: values.astype(np.float16).astype(np.float64),
}
"""What logprobs were rounded to, the coarsest first."""


def swapped_samples(case: Case) -> Match | None:
    """Samples that are far off have the logprobs of one another."""
    evidence = case.evidence
    lengths = np.diff(evidence.starts)
    sample = evidence.sample
    total = np.bincount(
        sample, weights=np.nan_to_num(np.abs(evidence.delta)), minlength=len(lengths)
    )
    off = np.flatnonzero((total > FAR * np.maximum(lengths, 1)) & (lengths >= SHORTEST_HEAD))
    off = off[:MOST_SAMPLES]
    if len(off) < 2:
        return None
    heads = {role: _heads(evidence, role, off) for role in ROLES}
    with np.errstate(invalid="ignore"):
        apart = np.abs(heads["candidate"][:, None] - heads["reference"][None])
        agree = apart < HEADS_AGREE
        # Tokens that are certain in both samples agree by chance.
        telling = (agree & (heads["reference"][None] < -FAR)).sum(axis=2)
    shared = np.isfinite(apart).sum(axis=2)
    same = agree.sum(axis=2) >= AGREEING * np.maximum(shared, SHORTEST_HEAD)
    same &= telling >= FEWEST_TELLING
    rows = np.arange(len(off))
    own = agree[rows, rows].sum(axis=1) > AGREEING * shared[rows, rows] / 2
    nearest = np.where(same, telling, -1).argmax(axis=1)
    taken = same[rows, nearest] & (nearest != rows) & ~own
    if taken.sum() < max(2, len(off) // 2):
        return None
    # One sample's logprobs in the place of many are not an exchange.
    if len(np.unique(nearest[taken])) < DISTINCT * taken.sum():
        return None
    names = [evidence.sample_ids[off[row]] for row in np.flatnonzero(taken)]
    marked = np.isin(sample, off[taken])
    return Match(
        None,
        "high",
        (
            f"in {taken.sum()} samples, the candidate's first logprobs (up to {HEAD}) are those "
            f"that the reference has for another sample: {listed(names)}",
        ),
        after=places.without_tokens(evidence, marked),
        words={"count": str(int(taken.sum()))},
    )


def _heads(evidence: Evidence, role: Role, samples: Ints) -> Floats:
    """The first logprobs [samples, HEAD] of a side; NaN after the end of a short sample."""
    found = np.full((len(samples), HEAD), np.nan)
    for row, each in enumerate(samples):
        head = evidence.returned[role][evidence.starts[each] : evidence.starts[each + 1]][:HEAD]
        found[row, : len(head)] = head
    return found
