"""Rules about exact values: zeros where the other side is uncertain, and a column of one value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis import forms, places
from parity_check.diagnosis.case import Case, Match, listed, percent
from parity_check.diagnosis.evidence import Evidence, Flags, Floats, Ints
from parity_check.diagnosis.findings import Confidence
from parity_check.measure.invalid import ALL_ZERO, ZERO_DISAGREES

FEWEST = 3
NEARLY_ALL = 0.9
IMPROBABLE = -6.0
"""Nats. No likeliest token of a language model has so low a logprob (-4.4 measured)."""
FEWEST_TOKENS = 64
CONVINCING = 400
"""Tokens, none of them improbable, that only the likeliest ones can be."""
MOST_ENDS = 4
"""Ids that end completions."""
ROUNDED_TO_ZERO = -0.06
"""Nats. One decimal rounds likelier tokens to 0."""
UNLIKELY = float(np.log(0.5))
DICTATED = 0.05
"""Smallest share of tokens that a grammar dictates; fewer are isolated."""
MOST_ISOLATED = 0.5
"""Largest share of tokens whose logprobs were replaced."""
UNLIKELIER = 1.5
"""Ratio of the share of improbable tokens among zeros and among others: a grammar or a tool does
not ask the model, a replaced value can be any."""
LEAST_UNLIKELY = 0.5
"""The same with unlikely tokens, of replaced values at the least: truncation leaves 0 only where
one token is likely."""
LONG, SHORT = 16, 8
"""Zeros in a row: a tool's output, and what a grammar dictates between two values."""
MOST_IN_A_ROW = 3
"""Zeros in a row where single values were replaced."""
SEVERAL = 3
"""Runs of zeros in a sample."""


def contradicted(evidence: Evidence, role: Role) -> Flags:
    """Usable tokens [n] with a logprob of exactly 0 on this side, and less on the other."""
    least = ZERO_DISAGREES if forms.rounding(evidence, role) is None else ROUNDED_TO_ZERO
    ours, theirs = (
        side[:, 0]
        for side in (
            (evidence.reference, evidence.candidate)
            if role == "reference"
            else (evidence.candidate, evidence.reference)
        )
    )
    with np.errstate(invalid="ignore"):
        found: Flags = (ours == 0.0) & (theirs < least)
    return found


def appended_eos(case: Case) -> Match | None:
    """Exact zeros at the last tokens of samples alone, all with one id or a few."""
    evidence = case.evidence
    found = {role: ends for role in ROLES if (ends := _ends(evidence, role)) is not None}
    if not found:
        return None
    sentences = []
    for role, (at_end, _) in found.items():
        theirs = evidence.returned[OTHER[role]][at_end]
        sentences += [
            f"the last token of {at_end.sum():,} samples has a logprob of exactly 0 in the "
            f"{role}, and of {np.median(theirs):.1f} (median) in the {OTHER[role]}",
            f"{contradicted(evidence, role).sum() - at_end.sum():,} other tokens are 0 on that "
            "side alone",
        ]
    marked = np.logical_or.reduce([at_end for at_end, _ in found.values()])
    ids = np.unique(np.concatenate([ids for _, ids in found.values()]))
    return Match(
        next(iter(found)) if len(found) == 1 else None,
        "high",
        tuple(sentences),
        after=places.without_tokens(evidence, marked),
        words={"ids": listed(map(str, ids)), "count": f"{marked.sum():,}"},
    )


def _ends(evidence: Evidence, role: Role) -> tuple[Flags, Ints] | None:
    """The last tokens [n] that are 0 on this side alone, and their ids, if these are a few."""
    zero = contradicted(evidence, role)
    at_end = zero & evidence.last()
    if at_end.sum() < FEWEST or at_end.sum() < NEARLY_ALL * zero.sum():
        return None
    ids, counts = np.unique(evidence.ids[at_end, 0], return_counts=True)
    common = np.argsort(-counts)[:MOST_ENDS]
    if counts[common].sum() < NEARLY_ALL * at_end.sum() or len(ids) > at_end.sum() / 2:
        return None
    return at_end, ids[common]


def one_token_kept(case: Case) -> Match | None:
    """The tokens that a side sampled are all 0 there, and can be the likeliest ones."""
    evidence = case.evidence
    for role in ROLES:
        kept = _kept(evidence, role)
        if kept is None or not kept.sure:
            continue
        return Match(
            role,
            "medium",
            (
                f"{percent(kept.share)} of the logprobs of the tokens that the {role} sampled are "
                "exactly 0",
                f"under the {OTHER[role]} none of these tokens is below {kept.lowest:.2f} nats: "
                "each can be the likeliest one of its position, as it is where a single token is "
                "kept",
            ),
            share=1.0,
            settles=True,
        )
    return None


@dataclass(frozen=True, slots=True)
class Kept:
    """What a side gives the tokens that it sampled, if each can be the likeliest one there.

    `share` of them are 0. `sure`: they are too many to be all likely by chance, or the alternatives
    show them to be the likeliest.
    """

    share: float
    lowest: float
    sure: bool


def _kept(evidence: Evidence, role: Role) -> Kept | None:
    sampled = evidence.sampled_by_candidate == (role == "candidate")
    theirs = evidence.returned[OTHER[role]]
    ours = evidence.returned[role]
    if not sampled.any() or not np.isfinite(theirs[sampled]).any():
        return None
    share = float((ours[sampled] == 0.0).mean())
    with np.errstate(invalid="ignore"):
        uncertain = sampled & (theirs < ZERO_DISAGREES)
    if share <= ALL_ZERO or uncertain.sum() < FEWEST:
        return None
    if (ours[uncertain] == 0.0).mean() <= ALL_ZERO:
        return None
    lowest = float(np.nanmin(theirs[sampled]))
    rows = evidence.own[OTHER[role]][uncertain]
    known = np.isfinite(rows[:, 1:]).any(axis=1)
    if known.any():
        likeliest = rows[known, 0] >= np.nan_to_num(rows[known, 1:], nan=-np.inf).max(axis=1)
        # Tokens that are nearly as likely change places between the engines.
        return Kept(share, lowest, True) if likeliest.mean() > NEARLY_ALL else None
    if lowest < IMPROBABLE:
        return None
    return Kept(share, lowest, int(sampled.sum()) >= CONVINCING)


def constant(case: Case) -> Match | None:
    """One side has the same value at every token."""
    evidence = case.evidence
    for role in ROLES:
        ours, theirs = evidence.returned[role], evidence.returned[OTHER[role]]
        both = np.isfinite(ours) & np.isfinite(theirs)
        if both.sum() < FEWEST_TOKENS:
            continue
        values, counts = np.unique(ours[both], return_counts=True)
        value, share = float(values[counts.argmax()]), float(counts.max() / both.sum())
        off = np.abs(theirs[both] - value) > forms.SAME
        if share <= ALL_ZERO or off.sum() < FEWEST or np.ptp(theirs[both]) < forms.FAR:
            continue
        possible = value == 0.0 and _kept(evidence, role) is not None
        confidence: Confidence = "low" if possible else "high"
        return Match(
            role,
            confidence,
            (
                f"{percent(share)} of the {role}'s {both.sum():,} logprobs are {value:g}; the "
                f"{OTHER[role]}'s range from {theirs[both].min():.2f} to {theirs[both].max():.2f}",
                *(
                    (
                        "none of these tokens is improbable: sampling that keeps one token per "
                        "position (temperature or top_p near 0) gives zeros too",
                    )
                    if possible
                    else ()
                ),
            ),
            share=1.0,
            words={
                "value": f"{value:g}",
                "what": "the column was never filled, or a single token was kept per position"
                if possible
                else "the column was never filled",
            },
            settles=True,
        )
    return None


@dataclass(frozen=True, slots=True)
class Runs:
    """How exact zeros [n] of one side alone lie in their samples.

    `length` is the number of zeros in the run of the typical one, `number` that of the runs in the
    typical sample that has any; `from_start` is the share of these samples that begin with one.
    """

    length: float
    number: float
    from_start: float


def _runs(evidence: Evidence, role: Role, zero: Flags) -> Runs:
    # A certain token between two others continues a run.
    same = evidence.returned[role] == 0.0
    begins = same & ~np.concatenate([[False], same[:-1] & (np.diff(evidence.sample) == 0)])
    run = np.cumsum(begins) - 1
    lengths = np.bincount(run[same], weights=zero[same].astype(float)).astype(int)
    _, number = np.unique(evidence.sample[begins][lengths > 0], return_counts=True)
    first = np.unique(evidence.sample[zero & (evidence.position == 0)])
    return Runs(
        length=float(np.median(np.repeat(lengths, lengths))),
        number=float(np.median(number)),
        from_start=len(first) / len(number),
    )


@dataclass(frozen=True, slots=True)
class Zeros:
    """Exact zeros of one side at tokens that are less probable on the other than usual ones.

    `improbable` of the `tokens` [n] are, in `samples` samples.
    """

    role: Role
    tokens: Flags
    improbable: int
    samples: int
    runs: Runs

    @property
    def dictated(self) -> bool:
        """A constraint holds from the first token on, or again and again."""
        again = self.runs.number >= SEVERAL and self.runs.length <= SHORT
        return self.runs.from_start > 0.5 or again

    @property
    def inserted(self) -> bool:
        """Long, and never first: the model has to call a tool before its output follows."""
        few = self.runs.number < SEVERAL and self.runs.length >= LONG
        return few and self.runs.from_start == 0.0

    def sentence(self, theirs: Floats) -> str:
        return (
            f"{self.tokens.sum():,} of {len(self.tokens):,} tokens have a logprob of exactly 0 in "
            f"the {self.role} and {np.median(theirs[self.tokens]):.1f} (median) in the "
            f"{OTHER[self.role]}; they are in {self.samples} samples, typically in "
            f"{self.runs.number:.0f} runs of {self.runs.length:.0f}, and other logprobs follow "
            f"them; {percent(self.runs.from_start)} of the samples begin with one"
        )


def _zeros(evidence: Evidence) -> list[Zeros]:
    """Of each side, what a grammar or a tool may have written."""
    found = []
    for role in ROLES:
        zero = contradicted(evidence, role)
        with np.errstate(invalid="ignore"):
            improbable = zero & (evidence.returned[OTHER[role]] < IMPROBABLE)
        samples = len(np.unique(evidence.sample[improbable]))
        if samples < FEWEST or improbable.sum() < DICTATED * zero.sum():
            continue
        if (evidence.returned[role] == 0.0).mean() > ALL_ZERO:
            continue
        if _ratio(evidence, role, zero, IMPROBABLE) < UNLIKELIER:
            continue
        runs = _runs(evidence, role, zero)
        if zero.mean() >= DICTATED or runs.length > MOST_IN_A_ROW:
            found.append(Zeros(role, zero, int(improbable.sum()), samples, runs))
    return found


def constrained(case: Case) -> Match | None:
    """Exact zeros at tokens that are improbable on the other side, between other logprobs."""
    found = _zeros(case.evidence)
    if not found or all(each.inserted for each in found):
        return None
    dictated = all(each.dictated for each in found)
    mostly = all(each.improbable > each.tokens.sum() / 2 for each in found)
    confidence: Confidence = "low"
    if dictated:
        confidence = "high" if mostly else "medium"
    facts = [each.sentence(case.evidence.returned[OTHER[each.role]]) for each in found]
    if not dictated:
        facts.append("a constraint (structured output, allowed tokens) leaves such zeros, and so "
                     "do tokens that were inserted (a tool's output)")  # fmt: skip
    return Match(
        found[0].role if len(found) == 1 else None,
        confidence,
        tuple(facts),
        share=1.0,
        words={
            "what": "constrained (structured output, allowed tokens)"
            if dictated
            else "constrained, or in part not sampled but inserted (a tool's output)"
        },
        settles=True,
    )


def tool_output(case: Case) -> Match | None:
    """Long runs of exact zeros within samples, at tokens that are improbable on the other side."""
    found = _zeros(case.evidence)
    if not found or not all(each.inserted for each in found):
        return None
    marked = np.logical_or.reduce([each.tokens for each in found])
    return Match(
        found[0].role if len(found) == 1 else None,
        "medium",
        tuple(each.sentence(case.evidence.returned[OTHER[each.role]]) for each in found),
        after=places.without_tokens(case.evidence, marked),
        words={"count": f"{marked.sum():,}"},
    )


def isolated_zeros(case: Case) -> Match | None:
    """Exact zeros here and there, at tokens of any probability on the other side."""
    evidence = case.evidence
    for role in ROLES:
        if forms.rounding(evidence, role) is not None:
            continue  # 0 is the logprob of a likely token
        zero = contradicted(evidence, role)
        with np.errstate(invalid="ignore"):
            wrong = zero & (evidence.returned[OTHER[role]] < UNLIKELY)
        if len(zero) < FEWEST_TOKENS or wrong.sum() < FEWEST or zero.mean() > MOST_ISOLATED:
            continue
        after = places.without_tokens(evidence, zero)
        if after.size() > evidence.size():
            continue  # the other tokens differ by more: these can be certain ones
        if _ratio(evidence, role, zero, UNLIKELY) < LEAST_UNLIKELY:
            continue
        if zero.mean() > DICTATED and _ratio(evidence, role, zero, IMPROBABLE) >= UNLIKELIER:
            continue
        if _runs(evidence, role, zero).length > MOST_IN_A_ROW:
            continue
        return Match(
            role,
            "medium",
            (
                f"{zero.sum():,} of {len(zero):,} tokens have a logprob of exactly 0 in the {role} "
                f"alone; {wrong.sum():,} of them have a probability below one half in the "
                f"{OTHER[role]}, as other tokens do",
            ),
            after=after,
            words={"count": f"{zero.sum():,}"},
        )
    return None


def _ratio(evidence: Evidence, role: Role, zero: Flags, below: float) -> float:
    """How much more often zeros [n] are below a logprob on the other side than other tokens are."""
    theirs = evidence.returned[OTHER[role]]
    with np.errstate(invalid="ignore"):
        others = (evidence.returned[role] < 0.0) & (theirs < ZERO_DISAGREES)
        share = float((theirs[zero] < below).mean())
        # One more token, so that none among a few others is not never.
        usual = float(((theirs[others] < below).sum() + 1) / (others.sum() + 1))
    return share / usual
