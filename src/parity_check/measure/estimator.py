"""Turn sums of one sampling direction into named estimates with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from parity_check.measure import stats
from parity_check.measure.objective import Objective
from parity_check.measure.results import Bin, ClipEstimate
from parity_check.measure.stats import Estimate, Floats


@dataclass(frozen=True, slots=True)
class Estimator:
    """Computes estimates of one sampling direction; `sums` and `weights` are per cluster."""

    sampled_by: str
    level: float
    positive_share: float

    def mean(
        self, name: str, unit: str, sums: Floats, weights: Floats, lowest: float = -math.inf
    ) -> Estimate:
        """A mean with similar tails."""
        return stats.mean_estimate(
            name, unit, sums, weights, sampled_by=self.sampled_by, level=self.level, lowest=lowest
        )

    def size(
        self, name: str, unit: str, sums: Floats, weights: Floats, lowest: float = 0.0
    ) -> Estimate:
        """A mean with a long upper tail: of squares, magnitudes, divergences."""
        return stats.mean_estimate(
            name, unit, sums, weights, sampled_by=self.sampled_by, level=self.level,
            lowest=lowest, interval=stats.long_tailed_interval,
        )  # fmt: skip

    def share(
        self, name: str, sums: Floats, weights: Floats, trials: float | None = None
    ) -> Estimate:
        [estimate] = self._shares([name], sums[None], weights, trials)
        return estimate

    def _shares(
        self, names: Sequence[str], sums: Floats, weights: Floats, trials: float | None
    ) -> list[Estimate]:
        return stats.share_estimates(
            names, sums, weights, sampled_by=self.sampled_by, level=self.level, trials=trials
        )

    def clip(
        self,
        row: Objective,
        low: Floats,
        high: Floats,
        weights: Floats,
        trials: float | None = None,
        both: Floats | float = 0.0,
    ) -> ClipEstimate:
        """The shares beyond each edge; `both` of them are beyond the two, and count once."""
        name = "clip_fraction" if row.kind == "clip" else "truncation_fraction"
        positive = self.positive_share
        parts = {
            "counted": row.counted(low, high, positive) - both,
            "band": low + high - both,
            "low": low,
            "high": high,
            "active": positive * high + (1.0 - positive) * low,
        }
        names = [name if part == "counted" else f"{name}_{part}" for part in parts]
        estimates = self._shares(names, np.stack(list(parts.values())), weights, trials)
        return ClipEstimate(row, positive, *estimates)

    def bin(self, label: str, low: float, high: float, cells: Floats) -> Bin | None:
        """Estimates of one bin from cells [clusters, count Δ |Δ| k3]; None for an empty bin."""
        count, delta, size, k3 = cells.T
        if not count.any():
            return None
        estimates = (
            self.mean("mean_log_ratio", "nats", delta, count),
            self.size("mean_abs_log_ratio", "nats", size, count),
            self.size("k3_kl", "nats", k3, count),
        )
        return Bin(label, low, high, estimates)
