"""Signals of penalties: logits of ids that occur in the context are moved on one side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from parity_check.diagnosis import gaps
from parity_check.diagnosis.evidence import Evidence, Flags, Floats

Kind = Literal["presence_penalty", "frequency_penalty", "repetition_penalty"]


@dataclass(frozen=True, slots=True)
class Contrast:
    """What distinguishes ids seen before from new ids of the same row.

    `shift` is the mean of D on seen minus new ids, nats, over `rows` rows that hold both; negative
    where the candidate penalises. `kind` is the penalty that fits best: presence moves all ids of
    the completion alike, frequency by their count, repetition those of the prompt too and in
    proportion to their logit. `fits` is the share of the within-row variance of D it accounts for.
    `value` is the parameter that it implies, at temperature 1.
    """

    kind: Kind
    value: float
    shift: float
    fits: float
    rows: int


def contrast(evidence: Evidence) -> tuple[Contrast, Floats] | None:
    """The best fitting penalty and its shift of D [n, 1 + k]; None without rows that tell."""
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
    # A second parameter fits a little better by itself.
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
        # A penalty p leaves z / p of a positive logit z: D falls by (1 - 1/p) z. From a penalised
        # reference the same slope has the other sign.
        value = 1.0 / (1.0 - min(0.9, abs(slopes[1])))
    return Contrast(kind, float(value), float(np.mean(moved)), fits, int(mixed.sum())), shift


def _levelled(evidence: Evidence, shift: Floats, seen: Flags) -> Floats:
    """The shift with each row's own level: a logit is its logprob plus the row's normaliser.

    A row's level is read from its seen alternatives, the sampled token left out.
    """
    constant = gaps.row_constant(evidence, ~seen)
    left = evidence.candidate - evidence.reference - constant[:, None] - shift
    left = np.where(seen, left, np.nan)[:, 1:]
    told = np.isfinite(left)
    level = np.where(told, left, 0.0).sum(axis=1) / np.maximum(1, told.sum(axis=1))
    levelled: Floats = np.where(seen, shift + level[:, None], shift)
    return levelled


def _fit(
    difference: Floats, there: Flags, columns: list[Floats], rows: Flags
) -> tuple[float, list[float]]:
    """Least squares of D on the columns within rows: share of the variance, and slopes."""
    target = _centred(difference, there)[rows]
    design = np.stack([_centred(column, there)[rows].ravel() for column in columns], axis=1)
    total = float((target**2).sum())
    if total == 0.0 or not design.any():
        return 0.0, [0.0] * len(columns)
    slopes, *_ = np.linalg.lstsq(design, target.ravel(), rcond=None)
    left = target.ravel() - design @ slopes
    return 1.0 - float((left**2).sum()) / total, [float(slope) for slope in slopes]


def _centred(values: Floats, there: Flags) -> Floats:
    """Values less their row's mean, 0 where there is none."""
    known = np.where(there, values, 0.0)
    mean = known.sum(axis=1) / np.maximum(1, there.sum(axis=1))
    centred: Floats = np.where(there, values - mean[:, None], 0.0)
    return centred


def without_penalty(evidence: Evidence, shift: Floats) -> Evidence:
    """The evidence without the shift of the seen ids, rows normalised alike."""
    moved = evidence.with_candidate(evidence.candidate - shift)
    return moved.with_candidate(moved.candidate - gaps.row_constant(moved)[:, None])
