"""Signals of penalties: logits of ids in the context are shifted on one side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from parity_check.diagnosis import gaps
from parity_check.diagnosis.evidence import Evidence, Flags, Floats

Kind = Literal["presence_penalty", "frequency_penalty", "repetition_penalty"]


@dataclass(frozen=True, slots=True)
class Contrast:
    """The difference between ids seen before and new ids of the same row.

    `shift` is the mean of D on seen minus new ids, nats, over the `rows` rows that have both;
    negative if the candidate penalises. `kind` is the best-fitting penalty: presence shifts all ids
    of the completion equally, frequency by their count, repetition also those of the prompt, in
    proportion to their logit. `fits` is its share of the within-row variance of D. `value` is the
    implied parameter at temperature 1.
    """

    kind: Kind
    value: float
    shift: float
    fits: float
    rows: int


def contrast(evidence: Evidence) -> tuple[Contrast, Floats] | None:
    """The best-fitting penalty and its shift of D [n, 1 + k]; None for too few mixed rows."""
    difference = evidence.candidate - evidence.reference
    there = np.isfinite(difference)
    output, anywhere = evidence.seen_output > 0, (evidence.seen_output + evidence.seen_prompt) > 0
    mixed = (there & anywhere).any(axis=1) & (there & ~anywhere).any(axis=1)
    if mixed.sum() < gaps.FEWEST_ROWS:
        return None
    logprob = np.nan_to_num(np.maximum(evidence.reference, evidence.candidate))
    designs: dict[Kind, list[Floats]] = {
        "presence_penalty": [output.astype(float)],
        "frequency_penalty": [np.maximum(evidence.seen_output, 0).astype(float)],
        "repetition_penalty": [anywhere.astype(float), anywhere * logprob],
    }
    rows = there.sum(axis=1) >= 2
    fitted = {kind: _fit(difference, there, columns, rows) for kind, columns in designs.items()}
    # A second parameter always fits slightly better.
    kind = max(fitted, key=lambda each: fitted[each][0] - 0.02 * len(designs[each]))
    fits, slopes = fitted[kind]
    shift = np.sum([s * c for s, c in zip(slopes, designs[kind], strict=True)], axis=0)
    if kind == "repetition_penalty":
        shift = _levelled(evidence, shift, anywhere)
    seen = np.where(there & anywhere, difference, np.nan)[mixed]
    new = np.where(there & ~anywhere, difference, np.nan)[mixed]
    moved = np.nanmean(seen, axis=1) - np.nanmean(new, axis=1)
    value = -slopes[0]
    if kind == "repetition_penalty":
        # A penalty p turns a positive logit z into z / p: D falls by (1 - 1/p) z. If the reference
        # is penalised, the slope has the opposite sign.
        value = 1.0 / (1.0 - min(0.9, abs(slopes[1])))
    return Contrast(kind, float(value), float(np.mean(moved)), fits, int(mixed.sum())), shift


def _levelled(evidence: Evidence, shift: Floats, seen: Flags) -> Floats:
    """The shift plus each row's own level: a logit is its logprob plus the row's normaliser.

    A row's level is estimated from its seen alternatives, without the sampled token.
    """
    constant = gaps.row_constant(evidence, ~seen)
    left = evidence.candidate - evidence.reference - constant[:, None] - shift
    left = np.where(seen, left, np.nan)[:, 1:]
    known = np.isfinite(left)
    level = np.where(known, left, 0.0).sum(axis=1) / np.maximum(1, known.sum(axis=1))
    levelled: Floats = np.where(seen, shift + level[:, None], shift)
    return levelled


def _fit(
    difference: Floats, there: Flags, columns: list[Floats], rows: Flags
) -> tuple[float, list[float]]:
    """Within-row least squares of D on the columns: explained variance and slopes."""
    target = _centred(difference, there)[rows]
    design = np.stack([_centred(column, there)[rows].ravel() for column in columns], axis=1)
    total = float((target**2).sum())
    if total == 0.0 or not design.any():
        return 0.0, [0.0] * len(columns)
    slopes, *_ = np.linalg.lstsq(design, target.ravel(), rcond=None)
    left = target.ravel() - design @ slopes
    return 1.0 - float((left**2).sum()) / total, [float(slope) for slope in slopes]


def _centred(values: Floats, there: Flags) -> Floats:
    """Values minus their row's mean; 0 if missing."""
    known = np.where(there, values, 0.0)
    mean = known.sum(axis=1) / np.maximum(1, there.sum(axis=1))
    centred: Floats = np.where(there, values - mean[:, None], 0.0)
    return centred


def without_penalty(evidence: Evidence, shift: Floats) -> Evidence:
    """The evidence without the shift of the seen ids, rows renormalised."""
    moved = evidence.with_candidate(evidence.candidate - shift)
    return moved.with_candidate(moved.candidate - gaps.row_constant(moved)[:, None])
