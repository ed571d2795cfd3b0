"""How far an engine's logprobs are from those of a replay, and whether that is within a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from parity_check.measure.gates import Verdict
from parity_check.measure.stats import Estimate, mean_estimate
from parity_check.weight_sync.observed import Floats, Request


@dataclass(frozen=True, slots=True)
class Distance:
    """Mean |Δ| to a replay, and how many prompts have a mean of their own above the limit."""

    estimate: Estimate
    prompts_outside: int

    @property
    def value(self) -> float:
        return self.estimate.value


@dataclass(frozen=True, slots=True)
class Ruler:
    """Measures and judges the distances of one engine.

    A mean is outside the limit when its interval is. |Δ| has no sign and a long tail, so that takes
    many prompts; a mean is therefore also outside when so many prompts have a mean above the limit
    that a median inside it is ruled out (sign test at the same level).
    """

    role: str
    limit: float
    level: float

    def measure(
        self, requests: Sequence[Request], distance: Callable[[Request], Floats]
    ) -> Distance | None:
        """Mean over the tokens that `distance` returns, clustered by prompt; None for no token."""
        sums: dict[str, float] = {}
        sizes: dict[str, float] = {}
        for request in requests:
            values = distance(request)
            if len(values):
                sums[request.prompt_id] = sums.get(request.prompt_id, 0.0) + float(values.sum())
                sizes[request.prompt_id] = sizes.get(request.prompt_id, 0.0) + len(values)
        if not sizes:
            return None
        totals, counts = np.array(list(sums.values())), np.array(list(sizes.values()))
        estimate = mean_estimate(
            "mean_abs_log_ratio",
            "nats",
            totals,
            counts,
            sampled_by=self.role,
            level=self.level,
            lowest=0.0,
        )
        return Distance(estimate, int((totals / counts > self.limit).sum()))

    def inside(self, distance: Distance) -> Verdict:
        """Equivalence by the interval; inconclusive without one."""
        estimate = distance.estimate
        if estimate.ci_low is None or estimate.ci_high is None:
            return "inconclusive"
        if estimate.ci_high <= self.limit:
            return "parity"
        chance = special.bdtrc(distance.prompts_outside - 1, estimate.clusters, 0.5)
        if estimate.ci_low > self.limit or chance <= (1.0 - self.level) / 2:
            return "drift"
        return "inconclusive"

    def judge(self, distance: Distance, floor: Distance) -> tuple[Verdict, str]:
        """The verdict on a distance, and why where it is inconclusive."""
        verdict, own = self.inside(distance), self.inside(floor)
        if own != "parity" and not floor.estimate.note:
            return "inconclusive", (
                f"; the engine differs from itself by {floor.value:.5f} before any update, which "
                f"is too much for a limit of {self.limit:g}"
            )
        if "inconclusive" in (verdict, own):
            note = distance.estimate.note or floor.estimate.note
            note = note or "the interval straddles the limit"
            return "inconclusive", f"; {note}"
        return verdict, ""
