"""The samples on which two engines disagree most, token by token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity_check.measure.metrics import F32, RATIO_CAP, PairedChunk
from parity_check.measure.stats import Floats

SHADES = (0.01, 0.05, 0.2, 1.0)
"""|Δ| at which the shade of a token gets darker. Nats."""
MOST_TOKENS = 128
"""A longer sample is cut to this many tokens around its largest |Δ|."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample that may be among the worst: its index in the trace, and its tokens' logprobs.

    `log_ratio` is NaN if a logprob is unusable.
    """

    number: int
    squares: float
    behaviour: F32
    evaluating: F32
    log_ratio: Floats


@dataclass(frozen=True, slots=True)
class ShownToken:
    """One token of a shown sample. `log_ratio` is None if a logprob is unusable."""

    position: int
    token_id: int
    text: str
    behaviour_logprob: float
    evaluating_logprob: float
    log_ratio: float | None
    ratio: float | None
    shade: int
    """-4 to 4: how many of SHADES |Δ| has reached, with the sign of Δ."""


@dataclass(frozen=True, slots=True)
class WorstSample:
    """A sample with a large Σ Δ², and the part of it to show."""

    sampled_by: str
    sample_id: str
    prompt_end: str
    """The end of the prompt's text."""
    length: int
    mean_log_ratio: float
    largest: float
    share: float
    """Its part of the Σ Δ² of its direction."""
    tokens: tuple[ShownToken, ...]


class WorstSamples:
    """Collects the `keep` samples with the largest Σ Δ², in one pass over the chunks."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._samples = 0
        self._found: list[Candidate] = []

    def add(self, chunk: PairedChunk, log_ratio: Floats, squares: Floats) -> None:
        """`squares` [samples] is each sample's Σ Δ² over its usable tokens."""
        for sample in np.argsort(-squares, kind="stable")[: self._keep].tolist():
            tokens = slice(int(chunk.starts[sample]), int(chunk.starts[sample + 1]))
            if squares[sample] > 0.0:
                self._found.append(
                    Candidate(
                        self._samples + sample,
                        float(squares[sample]),
                        chunk.behaviour_logprob[tokens].copy(),
                        chunk.evaluating_logprob[tokens].copy(),
                        log_ratio[tokens].copy(),
                    )
                )
        self._found.sort(key=lambda candidate: -candidate.squares)
        del self._found[self._keep :]
        self._samples += len(squares)

    def largest(self) -> tuple[Candidate, ...]:
        """Largest Σ Δ² first; ties in the order of the trace."""
        return tuple(self._found)


def shown_tokens(
    candidate: Candidate, token_ids: Sequence[int], texts: Mapping[int, str]
) -> tuple[ShownToken, ...]:
    """The tokens of a sample; of a long one, those around its largest |Δ|."""
    delta = candidate.log_ratio
    first = _window(len(delta), int(np.nanargmax(np.abs(delta))))
    return tuple(
        _shown(place, token_ids[place], texts, candidate, float(delta[place]))
        for place in range(first, min(len(delta), first + MOST_TOKENS))
    )


def _window(length: int, largest: int) -> int:
    return max(0, min(largest - MOST_TOKENS // 2, length - MOST_TOKENS))


def _shown(
    place: int, token_id: int, texts: Mapping[int, str], candidate: Candidate, delta: float
) -> ShownToken:
    known = not math.isnan(delta)
    reached = sum(abs(delta) >= edge for edge in SHADES)
    return ShownToken(
        position=place,
        token_id=token_id,
        text=texts.get(token_id, "\N{REPLACEMENT CHARACTER}"),
        behaviour_logprob=float(candidate.behaviour[place]),
        evaluating_logprob=float(candidate.evaluating[place]),
        log_ratio=delta if known else None,
        ratio=math.exp(max(-RATIO_CAP, min(RATIO_CAP, delta))) if known else None,
        shade=-reached if delta < 0 else reached,
    )
