"""Signals of truncated support: one side renormalises over the tokens that truncation keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity_check.config.models import Role
from parity_check.diagnosis import gaps
from parity_check.diagnosis.evidence import Evidence, Floats

VISIBLE = 0.02
"""Nats. A smaller offset is numeric noise (a kept mass above 0.98)."""


@dataclass(frozen=True, slots=True)
class Offset:
    """The offset common to all ids of a row: candidate - reference.

    `mean` is the mean offset over rows in nats (± log of a kept mass), `share` the share of rows
    with a visible offset, `positive` the positive share of the sum of visible offsets. `spread` is
    the median over these rows of mean |D - offset| (weighted by probability) over the offset: 0 if
    only the normaliser differs. `of_variance` is the offsets' share of Var(D).
    """

    mean: float
    share: float
    positive: float
    spread: float
    of_variance: float
    rows: int


def offset(evidence: Evidence) -> Offset | None:
    """The offsets of the rows; None if too few rows have two common ids."""
    constant = gaps.row_constant(evidence)
    rows = np.isfinite(constant)
    if rows.sum() < gaps.FEWEST_ROWS:
        return None
    constant = constant[rows]
    difference = evidence.candidate[rows] - evidence.reference[rows]
    weights = np.where(np.isfinite(difference), np.exp(evidence.reference[rows]), 0.0)
    residual = np.nan_to_num(np.abs(difference - constant[:, None]))
    spread = (weights * residual).sum(axis=1) / weights.sum(axis=1)
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
    """The mass [n] that truncation keeps of an untruncated engine's rows; NaN if unknown.

    Exact if the recorded alternatives include all kept tokens.
    """
    recorded = evidence.own[role].shape[1] - 1
    # A sampled token below the alternatives does not follow directly after them: exclude it.
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
    """Renormalise all rows; a row with only one common id uses the predicted offset."""
    constant = gaps.row_constant(evidence)
    if predicted is not None:
        constant = np.where(np.isfinite(constant), constant, predicted)
    return evidence.with_candidate(evidence.candidate - constant[:, None])
