"""Signals of truncated support: one side renormalised over the tokens that truncation keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity_check.config.models import Role
from parity_check.diagnosis import gaps
from parity_check.diagnosis.evidence import Evidence, Floats

VISIBLE = 0.02
"""Nats. A row's offset below this is numeric noise; it is a kept mass above 0.98."""


@dataclass(frozen=True, slots=True)
class Offset:
    """What the ids of a row have in common: candidate - reference, the same for every id.

    `mean` and `share` are over rows: mean offset in nats (log of a kept mass, by its sign), and the
    share of rows with a visible one. `positive` is the share of the visible offsets' sum that is
    positive. `spread` is the median of what the ids of such a row differ by beside it (mean
    |D - offset|, by probability), over the offset: 0 where only the normaliser differs.
    `of_variance` is the offsets' share of Var(D).
    """

    mean: float
    share: float
    positive: float
    spread: float
    of_variance: float
    rows: int


def offset(evidence: Evidence) -> Offset | None:
    """The offsets of the rows; None where rows with two common ids are too few."""
    constant = gaps.row_constant(evidence)
    rows = np.isfinite(constant)
    if rows.sum() < gaps.FEWEST_ROWS:
        return None
    constant = constant[rows]
    difference = evidence.candidate[rows] - evidence.reference[rows]
    weights = np.where(np.isfinite(difference), np.exp(evidence.reference[rows]), 0.0)
    beside = np.nan_to_num(np.abs(difference - constant[:, None]))
    spread = (weights * beside).sum(axis=1) / weights.sum(axis=1)
    seen = np.abs(constant) > VISIBLE
    sampled = difference[:, 0]
    usable = np.isfinite(sampled)
    variance = float(np.var(sampled[usable])) if usable.any() else 0.0
    left = float(np.var((sampled - constant)[usable])) if usable.any() else 0.0
    visible = constant[seen]
    return Offset(
        mean=float(constant.mean()),
        share=float(seen.mean()),
        positive=float(visible[visible > 0].sum() / np.abs(visible).sum()) if seen.any() else 0.0,
        spread=float(np.median(spread[seen] / np.abs(visible))) if seen.any() else 0.0,
        of_variance=max(0.0, 1.0 - left / variance) if variance else 0.0,
        rows=len(constant),
    )


def kept_mass(evidence: Evidence, role: Role, sampling: Mapping[str, Any]) -> Floats:
    """The mass [n] that truncation keeps of an untruncated engine's rows; NaN where unknown.

    Exact where the recorded alternatives reach beyond the last kept token.
    """
    recorded = evidence.own[role].shape[1] - 1
    # A sampled token below the alternatives is not next to the last of them: leave it out.
    rows = -np.sort(-np.nan_to_num(evidence.own[role], nan=-np.inf), axis=1)[:, :recorded]
    masses = np.exp(rows)
    total = np.cumsum(masses, axis=1)
    before = total - masses
    kept = masses > 0.0
    known = np.full(len(rows), recorded > 0)
    if sampling["top_p"] < 1.0:
        kept &= before < sampling["top_p"]
        known &= total[:, -1] >= sampling["top_p"]
    if sampling["min_p"] > 0.0:
        least = masses[:, :1] * sampling["min_p"]
        kept &= masses >= least
        known &= (masses[:, -1:] < least)[:, 0] | (sampling["top_p"] < 1.0)
    if sampling["top_k"] > 0:
        kept[:, sampling["top_k"] :] = False
        known &= sampling["top_k"] < rows.shape[1]
    mass = np.where(kept, masses, 0.0).sum(axis=1)
    return np.where(known & (mass > 0.0), mass, np.nan)


def without_offset(evidence: Evidence, predicted: Floats | None) -> Evidence:
    """Rows normalised alike; a row that has one id in common takes the predicted offset."""
    constant = gaps.row_constant(evidence)
    if predicted is not None:
        constant = np.where(np.isfinite(constant), constant, predicted)
    return evidence.with_candidate(evidence.candidate - constant[:, None])
