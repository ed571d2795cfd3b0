"""Signals of truncated support: one side renormalised over the tokens that truncation keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity_check.config import Role
from parity_check.diagnosis import gaps
from parity_check.diagnosis.evidence import Evidence, Floats

VISIBLE = 0.02
"""Nats. A row's offset below this is numeric noise; it is a kept mass above 0.98."""


@dataclass(frozen=True, slots=True)
class Offset:
    """What the ids of a row have in common: candidate - reference, the same for every id.

    `mean` and `share` are over rows: mean offset in nats (log of a kept mass, by its sign), and the
    share of rows with a visible one. `positive` of these are positive. `spread` is the median
    range of D within such rows over their offset: 0 where only the normaliser differs.
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
    difference = evidence.candidate - evidence.reference
    rows = np.isfinite(difference).sum(axis=1) >= 2
    if rows.sum() < gaps.FEWEST_ROWS:
        return None
    difference = difference[rows]
    constant = np.nanmedian(difference, axis=1)
    spread = np.nanmax(difference, axis=1) - np.nanmin(difference, axis=1)
    seen = np.abs(constant) > VISIBLE
    sampled = difference[:, 0]
    usable = np.isfinite(sampled)
    variance = float(np.var(sampled[usable])) if usable.any() else 0.0
    left = float(np.var((sampled - constant)[usable])) if usable.any() else 0.0
    return Offset(
        mean=float(constant.mean()),
        share=float(seen.mean()),
        positive=float((constant[seen] > 0).mean()) if seen.any() else 0.0,
        spread=float(np.median(spread[seen] / np.abs(constant[seen]))) if seen.any() else 0.0,
        of_variance=max(0.0, 1.0 - left / variance) if variance else 0.0,
        rows=len(constant),
    )


def kept_mass(evidence: Evidence, role: Role, sampling: Mapping[str, Any]) -> Floats:
    """The mass [n] that truncation keeps of an untruncated engine's rows; NaN where unknown.

    Exact where the recorded alternatives reach beyond the last kept token.
    """
    rows = -np.sort(-np.nan_to_num(evidence.own[role], nan=-np.inf), axis=1)
    masses = np.exp(rows)
    total = np.cumsum(masses, axis=1)
    before = total - masses
    kept = masses > 0.0
    known = np.ones(len(rows), np.bool_)
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
