"""Top-k gaps: logprob differences between the recorded alternatives of a token, on both engines.

A gap is the logprob of the behaviour engine's likeliest alternative minus that of another one. The
normalisation cancels, which leaves a logit difference over the temperature. The slope of candidate
over reference gaps is 1 for engines that agree, and T or 1/T if one of them returns raw logprobs.
Logits of a bf16 lm_head are multiples of a power of two, and so are their gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parity_check.config.models import ROLES, Role
from parity_check.diagnosis.gaps import SMALLEST_GAP, weighted_median
from parity_check.diagnosis.grid import FINEST, TOLERANCE
from parity_check.measure.metrics import F32, I32, PairedChunk
from parity_check.measure.stats import Floats, Ints

EXPONENTS = tuple(range(1, FINEST + 1))
"""Exponents k of the grids 2⁻ᵏ to test, in units of logits."""
TOKENS_PER_CHUNK = 4096
POINTS = 600


@dataclass(frozen=True, slots=True)
class Gaps:
    """Pairs of gaps: a sample to draw [points] with its slope, and the logit grid of all `pairs`.

    `slope` is the median of candidate over reference, weighted by the reference's gap; None if no
    gap is wide. `on_grid` has, for each engine and each k of EXPONENTS, the share of gaps that are
    multiples of 2⁻ᵏ; by chance that is FALSE_POSITIVES.
    """

    reference: Floats
    candidate: Floats
    pairs: int
    slope: float | None
    on_grid: dict[Role, tuple[float, ...]]


class GapCounter:
    """Collects gaps from evenly spaced tokens of every chunk.

    `scales` turn logprob differences into logit differences: the temperature for processed
    logprobs, 1 for raw ones.
    """

    def __init__(self, sampled_by: Role, scales: dict[Role, float]) -> None:
        self._sampled_by = sampled_by
        self._scales = scales
        self._points: list[tuple[Floats, Floats]] = []
        self._pairs = 0
        self._on_grid = {role: np.zeros(len(EXPONENTS), np.int64) for role in ROLES}
        self._gridded: dict[Role, int] = dict.fromkeys(ROLES, 0)

    def add(self, chunk: PairedChunk) -> None:
        both = _gaps(chunk)
        if both is None:
            return
        behaviour, evaluating = both
        first = self._sampled_by == "reference"
        gaps = dict(zip(ROLES, both if first else (evaluating, behaviour), strict=True))
        reference, candidate = gaps["reference"], gaps["candidate"]
        self._pairs += len(reference)
        drawn = _evenly(len(reference), POINTS)
        self._points.append((reference[drawn], candidate[drawn]))
        for role, values in gaps.items():
            logits = values[values != 0.0] * self._scales[role]
            self._gridded[role] += len(logits)
            for place, exponent in enumerate(EXPONENTS):
                steps = logits * 2.0**exponent
                off = np.abs(steps - np.rint(steps))
                self._on_grid[role][place] += int(np.count_nonzero(off < TOLERANCE))

    def found(self) -> Gaps | None:
        """None if no alternatives were recorded."""
        if not self._pairs:
            return None
        reference, candidate = (
            np.concatenate(column) for column in zip(*self._points, strict=True)
        )
        drawn = _evenly(len(reference), POINTS)
        reference, candidate = reference[drawn], candidate[drawn]
        wide = reference > SMALLEST_GAP
        ratios = candidate[wide] / reference[wide]
        return Gaps(
            reference=reference,
            candidate=candidate,
            pairs=self._pairs,
            slope=weighted_median(ratios, reference[wide]) if wide.any() else None,
            on_grid={
                role: tuple((counts / max(1, self._gridded[role])).tolist())
                for role, counts in self._on_grid.items()
            },
        )


def _evenly(size: int, most: int) -> Ints:
    """At most `most` evenly spaced numbers below `size`."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).astype(np.int64))


def _gaps(chunk: PairedChunk) -> tuple[Floats, Floats] | None:
    """Gaps of the behaviour and the evaluating engine, over the ids that both returned."""
    ids, logprobs = chunk.behaviour_top_ids, chunk.behaviour_top_logprobs
    other_ids, other_logprobs = chunk.evaluating_top_ids, chunk.evaluating_top_logprobs
    if ids is None or logprobs is None or other_ids is None or other_logprobs is None:
        return None
    drawn = _evenly(len(ids), TOKENS_PER_CHUNK)
    own = _usable(ids[drawn], logprobs[drawn])
    theirs = _matched(
        ids[drawn], other_ids[drawn], _usable(other_ids[drawn], other_logprobs[drawn])
    )
    best = np.nanargmax(np.where(np.isnan(own), -np.inf, own), axis=1)
    rows = np.arange(len(own))
    pair = (own[rows, best][:, None] - own, theirs[rows, best][:, None] - theirs)
    kept = ~(np.isnan(pair[0]) | np.isnan(pair[1]))
    kept[rows, best] = False
    return pair[0][kept], pair[1][kept]


def _usable(ids: I32, logprobs: F32) -> Floats:
    return np.where((ids >= 0) & np.isfinite(logprobs), logprobs, np.nan).astype(np.float64)


def _matched(ids: I32, other_ids: I32, other: Floats) -> Floats:
    """The other engine's logprobs [n, k] of these ids [n, k], NaN where it did not return one."""
    same: NDArray[np.bool_] = ids[:, :, None] == other_ids[:, None, :]
    values = np.take_along_axis(other, same.argmax(axis=2), axis=1)
    return np.where(same.any(axis=2), values, np.nan)
