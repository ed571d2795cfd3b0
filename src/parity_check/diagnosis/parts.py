"""Rules about a part of the data that is off while the rest agrees: tokens, samples, ids."""

from __future__ import annotations

import numpy as np

from parity_check.diagnosis import places
from parity_check.diagnosis.case import Case, Match, listed, percent
from parity_check.diagnosis.evidence import Evidence, Flags, Floats, Ints

FEWEST_SAMPLES = 8
FEWEST_OTHERS = 64
"""Tokens that agree; of fewer, those of another fault can look so."""
HELD = 0.7
"""Smallest share of Σ|Δ| in a part that is off."""
RATIO = 5.0
"""Smallest ratio of |Δ| inside and outside of a part, of means and of medians."""
USUAL, MOST_APART = 0.9, 0.7
"""Smallest share of the part's tokens that differ by more than nearly all others do."""
OFF = 0.02
"""Nats. A smaller E|Δ| of the part is numeric noise."""
FEWEST_OFF = 2
END = 0.3
"""The part of a sample at either end."""
MOST_OFF = 0.5
"""Largest share of the samples that are called the exception."""
MOST_IDS = 5
FEWEST_OF_ID = 5
ONE_SIGNED = 0.95
MOST_OF_TOKENS = 0.3


def first_token(case: Case) -> Match | None:
    """Only the first token of the completions is off."""
    return _token(case, case.evidence.position == 0)


def last_token(case: Case) -> Match | None:
    """Only the last token of the completions is off."""
    evidence = case.evidence
    return _token(case, evidence.last() & (evidence.position > 0))


def _token(case: Case, tokens: Flags) -> Match | None:
    found = _apart(case.evidence, tokens)
    if found is None or tokens.sum() < FEWEST_SAMPLES:
        return None
    others = np.isfinite(case.evidence.delta) & ~tokens
    return Match(
        None,
        "high" if others.sum() >= FEWEST_OTHERS else "low",
        (found,),
        after=places.without_tokens(case.evidence, tokens),
    )


def _apart(evidence: Evidence, tokens: Flags) -> str | None:
    """The contrast of these tokens [n] with the others as a sentence, if they hold the drift."""
    size = np.abs(evidence.delta)
    usable = np.isfinite(size)
    inside, outside = size[usable & tokens], size[usable & ~tokens]
    if not len(inside) or len(outside) < len(inside):
        return None
    held = float(inside.sum() / max(size[usable].sum(), places.SMALLEST))
    mean, rest = float(inside.mean()), float(outside.mean())
    typical = max(float(np.median(outside)), places.SMALLEST)
    if held < HELD or mean < max(OFF, RATIO * rest) or np.median(inside) < RATIO * typical:
        return None
    if (inside > np.quantile(outside, USUAL)).mean() < MOST_APART:
        return None  # a few of them hold it
    evened = places.evened(evidence)
    if places.times_evened(evened[usable & tokens], evened[usable & ~tokens]) < places.LARGER:
        return None  # the model is less sure of these
    return (
        f"mean |Δ| is {mean:.2g} nats at these {len(inside):,} tokens and {rest:.2g} at the "
        f"{len(outside):,} others; they hold {percent(held)} of Σ|Δ|"
    )


def outlier_samples(case: Case) -> Match | None:
    """A few samples are off as a whole, and the others agree."""
    evidence = case.evidence
    samples = _off(evidence)
    if samples is None:
        return None
    found = _apart(evidence, samples[evidence.sample])
    if found is None:
        return None
    prompts = np.array(evidence.prompt_ids)
    off, agree = set(prompts[samples]), set(prompts[~samples])
    whole = sorted(off - agree)
    names = listed(whole) if not off & agree else listed(np.array(evidence.sample_ids)[samples])
    kind = "prompts" if not off & agree else "samples"
    return Match(
        None,
        "medium",
        (found, f"the {kind}: {names}"),
        after=places.without_tokens(evidence, samples[evidence.sample]),
        words={"count": str(int(samples.sum())), "of": str(len(samples))},
    )


def _off(evidence: Evidence) -> Flags | None:
    """The samples [S] that lie above the widest gap between the samples' levels, as a whole.

    A sample's level is its median |Δ|: a few tokens that are far off do not raise it. Both ends of
    the samples have to be off: what begins within a sample is not about the sample.
    """
    size = np.abs(evidence.delta)
    usable = np.isfinite(size)
    number = len(evidence.starts) - 1
    median = places.median_by_sample(evidence, usable)
    there = np.flatnonzero(np.isfinite(median))
    if len(there) < FEWEST_SAMPLES:
        return None
    level = np.log(np.maximum(median[there], places.SMALLEST))
    order = np.argsort(level)
    least = int(np.ceil(len(there) * (1.0 - MOST_OFF)))
    steps = np.diff(level[order])[least - 1 : len(there) - FEWEST_OFF]
    if not len(steps) or steps.max() <= np.log(2.0):
        return None
    off = np.zeros(number, np.bool_)
    off[there[order[least + int(steps.argmax()) :]]] = True
    if any(off[each].mean() > MOST_OFF for each in _by_sampler(evidence) if len(each)):
        return None  # all that one engine sampled
    others = max(float(np.median(size[usable & ~off[evidence.sample]])), places.SMALLEST)
    for end in (evidence.from_start() < END, evidence.from_start() >= 1.0 - END):
        tokens = usable & off[evidence.sample] & end
        if not tokens.any() or np.median(size[tokens]) < RATIO * others:
            return None
    return off


def _by_sampler(evidence: Evidence) -> list[Ints]:
    """The samples of either engine."""
    first = evidence.starts[:-1][np.diff(evidence.starts) > 0]
    number = np.flatnonzero(np.diff(evidence.starts) > 0)
    by_candidate = evidence.sampled_by_candidate[first]
    return [number[by_candidate], number[~by_candidate]]


def biased_ids(case: Case) -> Match | None:
    """A few ids are off, all in one direction, wherever they occur."""
    evidence = case.evidence
    delta = evidence.delta
    usable = np.isfinite(delta)
    ids, size = evidence.ids[usable, 0], np.abs(delta[usable])
    if not len(ids) or not size.sum():
        return None
    distinct, place, count = np.unique(ids, return_inverse=True, return_counts=True)
    total = np.bincount(place, weights=size)
    signed = np.abs(np.bincount(place, weights=delta[usable])) / np.maximum(total, 1e-12)
    chosen: list[int] = []
    for each in np.argsort(-total)[:MOST_IDS]:
        if count[each] < FEWEST_OF_ID or signed[each] < ONE_SIGNED:
            break
        chosen.append(int(each))
        if total[chosen].sum() >= HELD * size.sum():
            break
    marked = np.isin(evidence.ids[:, 0], distinct[chosen])
    if not chosen or marked[usable].mean() > MOST_OF_TOKENS:
        return None
    found = _apart(evidence, marked)
    if found is None:
        return None
    shifts: Floats = delta[marked & usable]
    names = ", ".join(str(distinct[each]) for each in chosen)
    return Match(
        None,
        "medium",
        (
            found,
            f"candidate minus reference at id {names}: {shifts.mean():+.3f} nats on average, "
            f"{shifts.min():+.3f} to {shifts.max():+.3f}",
        ),
        after=places.without_tokens(evidence, marked),
        words={"ids": names},
    )
