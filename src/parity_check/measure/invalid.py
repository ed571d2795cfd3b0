"""Invalid logprobs: counted by kind, and excluded from every mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

FLOOR = -9000.0
"""Values at or below this are placeholders for a missing logprob, usually exactly -9999."""

ROUNDING = 1e-5
"""Rounding may lift a log softmax slightly above 0; a larger value is not a logprob."""

IMPOSSIBLE = -28.0
"""A sampled token cannot have a logprob below this, nats: if all 262,144 entries of a vocabulary
were that unlikely, one of them would be sampled once in five million tokens."""

IMPROBABLE = -20.0
"""A random token is improbable on the other engine too. One that is not is a difference."""

ZERO_RUN = 4
"""A run of exact zeros counts as padding if the other engine contradicts at least this many."""

ZERO_DISAGREES = -1e-3
"""The other engine contradicts a zero if its logprob is below this."""

UNLIKELY = -0.7
"""And one token of the run must be below this (p = 1/2) on the other engine."""

ALL_ZERO = 0.99
"""A side with more zeros than this states them as its logprobs: nothing is left that they pad."""

KINDS: dict[str, str] = {
    "missing": "the engine returned no logprob for a token it had just sampled; seen once every "
    "few thousand rollouts in vLLM (SkyRL generate_wire)",
    "nan": "usually a softmax over garbage: uninitialised KV pages, a failed weight update, or a "
    "prefix-cache hit on a hybrid model; a wrapper may also write NaN for a missing entry",
    "positive_infinity": "a division by zero probability or temperature somewhere in the wrapper",
    "negative_infinity": "the sampled token was masked out of the distribution that was scored: "
    "truncated support on one side, or a row overwritten by another request of the batch",
    "floor": "-9999, a placeholder for a missing or non-finite logprob; it passes as a number and "
    "drives sequence weights to their cap",
    "positive": "not a logprob: a sentinel such as 1.0 for an invalid position, or a probability",
    "zero_run": "padding instead of logprobs, typically after a text round trip: the other engine "
    "gives these tokens a probability below 1",
    "impossible": f"sampled although its logprob is below {IMPOSSIBLE:g}: sampled from another "
    "distribution (raw logprobs at a temperature above 1), or at random: on CPU, torch 2.6 (vLLM "
    "0.8.5) returns 1e-38 for one exponential variate in about 33 million; the sampler divides "
    "each probability by a variate, so one token in (33 million / vocabulary size) is random",
    "wrong_length": "more or fewer logprobs than tokens: an off-by-one from a prompt token, or a "
    "re-tokenised completion",
    "top_duplicate": "an id occurs twice among a token's alternatives: the sampled token was "
    "written over an alternative (vLLM 36660)",
    "top_sum_above_1": "the probabilities of a token's alternatives sum to more than 1.05: they "
    "are no natural logarithms of one distribution (another base, a division, two engines merged)",
    "top_missing": "fewer alternatives than for other tokens: some entries were lost",
    "sampled_not_returned": "the sampled token is likelier than a returned alternative but is not "
    "among them: ids and logprobs belong to different positions",
}
"""Each kind, and its usual cause."""


@dataclass(frozen=True, slots=True)
class InvalidCount:
    """How many tokens (samples for `wrong_length`) of one engine have one kind of defect."""

    kind: str
    engine: str
    count: int
    sentence: str


def invalid_counts(engine: str, counts: Mapping[str, int]) -> tuple[InvalidCount, ...]:
    """One entry per kind that occurred, in the order of KINDS."""
    return tuple(
        InvalidCount(kind, engine, counts[kind], sentence)
        for kind, sentence in KINDS.items()
        if counts.get(kind, 0)
    )


def looks_clean(logprobs: NDArray[np.float32]) -> bool:
    """Whether every logprob [n] is finite and plausible, in two cheap passes."""
    if len(logprobs) == 0:
        return True
    # A NaN fails both comparisons, because min and max propagate it.
    return bool(logprobs.min() > FLOOR and logprobs.max() <= ROUNDING)


def count_values(logprobs: NDArray[np.float32], nulls: int = 0, voided: int = 0) -> Counter[str]:
    """Count unusable values of logprobs [n].

    `nulls` of the NaN stand for missing entries, and `voided` for samples of a wrong length, which
    are counted separately.
    """
    nan = int(np.isnan(logprobs).sum())
    return Counter(
        missing=nulls,
        nan=nan - nulls - voided,
        positive_infinity=int(np.isposinf(logprobs).sum()),
        negative_infinity=int(np.isneginf(logprobs).sum()),
        floor=int(((logprobs <= FLOOR) & np.isfinite(logprobs)).sum()),
        positive=int(((logprobs > ROUNDING) & np.isfinite(logprobs)).sum()),
    )


def usable_values(logprobs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which logprobs [n] may enter a mean."""
    return (logprobs > FLOOR) & (logprobs <= ROUNDING)


def impossible_values(logprobs: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the behaviour engine's logprobs [n] belong to tokens that it cannot have sampled."""
    return (logprobs < IMPOSSIBLE) & (logprobs > FLOOR)


def padding(
    logprobs: NDArray[np.float32], other: NDArray[np.float32], starts: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    """Tokens in runs of exact zeros that the other engine contradicts; None if there are none.

    A single zero is legitimate: the logprob of a certain token rounds to 0. A run of zeros on one
    side only, up to the end of its sample, is padding, including its certain tokens. Runs do not
    cross samples (`starts` [S + 1]).

    Zeros where a grammar or a small top-p leaves one token are logprobs: other logprobs follow
    them, or the sample has contradicted zeros outside the run, or most of them are outside such
    runs, or the side has nothing but zeros.
    """
    zero = logprobs == 0.0
    one_sided = zero & (other < ZERO_DISAGREES)
    if np.count_nonzero(one_sided) < ZERO_RUN or zero.mean() > ALL_ZERO:
        return None
    # A run ends with its zeros or with its sample.
    breaks = np.ones(len(zero) + 1, np.bool_)
    breaks[1:-1] = zero[1:] != zero[:-1]
    breaks[starts[:-1]] = True
    edges = np.flatnonzero(breaks)
    contradicted, unlikely = (
        np.diff(np.concatenate([[0], np.cumsum(flags)])[edges])
        for flags in (one_sided, zero & (other < UNLIKELY))
    )
    invented = (contradicted >= ZERO_RUN) & (unlikely > 0)
    # The sample that each run belongs to, and all contradicted zeros of that sample.
    sample = np.searchsorted(starts, edges[:-1], side="right") - 1
    of_sample = np.diff(np.concatenate([[0], np.cumsum(one_sided)])[starts])[sample]
    invented &= (edges[1:] == starts[sample + 1]) & (contradicted == of_sample)
    padded = zero & np.repeat(invented, np.diff(edges))
    # Where most such zeros are elsewhere, those at the end of a sample are of their kind.
    most = 2 * np.count_nonzero(padded & one_sided) >= np.count_nonzero(one_sided)
    return padded if most and padded.any() else None


def inspect_logprobs(
    sides: Mapping[str, NDArray[np.float32]],
    nulls: Mapping[str, int],
    starts: NDArray[np.int64],
    defects: Mapping[str, Counter[str]],
    voided: Mapping[str, int] | None = None,
) -> NDArray[np.bool_] | None:
    """Add both sides' defects to `defects`. Returns which tokens may enter a mean; None if all may.

    `sides` holds the logprobs [n] of the behaviour and of the evaluating engine.
    """
    masks = []
    behaviour = sides["behaviour"]
    # NaN fails the comparison, because the minimum propagates it.
    if len(behaviour) and not behaviour.min() >= IMPOSSIBLE:
        unlikely = impossible_values(behaviour)
        defects["behaviour"]["impossible"] += int(np.count_nonzero(unlikely))
        random = unlikely & ~(sides["evaluating"] >= IMPROBABLE)
        if random.any():
            masks.append(~random)
    for side, other in permutations(sides):
        logprobs = sides[side]
        if not looks_clean(logprobs):
            gone = (voided or {}).get(side, 0)
            defects[side].update(count_values(logprobs, nulls[side], gone))
            masks.append(usable_values(logprobs))
        padded = padding(logprobs, sides[other], starts)
        if padded is not None:
            defects[side]["zero_run"] += int(padded.sum())
            masks.append(~padded)
    return np.logical_and.reduce(masks) if masks else None
