"""The tokens with the largest |Δ|."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from parity_check.measure import invalid
from parity_check.measure.metrics import PairedChunk


@dataclass(frozen=True, slots=True)
class Outlier:
    """A token with a large |Δ|. `sample` and `position` (in the completion) count from 0."""

    sample: int
    position: int
    behaviour_logprob: float
    evaluating_logprob: float

    @property
    def log_ratio(self) -> float:
        return self.evaluating_logprob - self.behaviour_logprob


class Outliers:
    """Collects the `keep` largest |Δ| of the chunks that pass through `watch`."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._samples = 0
        self._found: list[Outlier] = []

    def watch(self, chunks: Iterable[PairedChunk]) -> Iterator[PairedChunk]:
        for chunk in chunks:
            self._add(chunk)
            yield chunk

    def largest(self) -> tuple[Outlier, ...]:
        """Largest |Δ| first; ties in trace order. Unusable logprobs are excluded."""
        return tuple(self._found)

    def _add(self, chunk: PairedChunk) -> None:
        behaviour, evaluating = chunk.behaviour_logprob, chunk.evaluating_logprob
        with np.errstate(invalid="ignore"):
            size = np.abs(evaluating.astype(np.float64) - behaviour)
        for logprobs in (behaviour, evaluating):
            if not invalid.looks_clean(logprobs):
                size[~invalid.usable_values(logprobs)] = 0.0
        full = len(self._found) == self._keep
        large = np.flatnonzero(size > (abs(self._found[-1].log_ratio) if full else 0.0))
        if len(large):
            largest = np.argsort(-size[large], kind="stable")[: self._keep]
            tokens = np.sort(large[largest])
            samples = np.searchsorted(chunk.starts, tokens, side="right") - 1
            self._found += [
                Outlier(
                    self._samples + int(sample),
                    int(token - chunk.starts[sample]),
                    float(behaviour[token]),
                    float(evaluating[token]),
                )
                for token, sample in zip(tokens, samples, strict=True)
            ]
            self._found.sort(key=lambda outlier: -abs(outlier.log_ratio))
            del self._found[self._keep :]
        self._samples += len(chunk.starts) - 1
