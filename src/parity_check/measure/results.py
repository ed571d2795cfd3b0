"""What is known of one sampling direction: every estimate, breakdown and clip rate."""

from __future__ import annotations

from dataclasses import dataclass

from parity_check.measure.invalid import HygieneCount
from parity_check.measure.objectives import Objective
from parity_check.measure.stats import Estimate


@dataclass(frozen=True, slots=True)
class ClipEstimate:
    """What one objective would do to these tokens at its first step.

    `low` and `high` are the shares beyond each edge, `band` their sum, `active` the share whose
    clipping changes a gradient when `positive_share` of the advantages are positive, and `counted`
    what the framework's own counter would show.
    """

    objective: Objective
    positive_share: float
    counted: Estimate
    band: Estimate
    low: Estimate
    high: Estimate
    active: Estimate


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a breakdown, from `low` up to below `high`, with its estimates."""

    label: str
    low: float
    high: float
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class FirstDivergence:
    """Where samples first differ in a bit: positions count completion tokens from 0."""

    samples: int
    diverged: int
    earliest: int | None
    median: float | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything measured of one sampling direction."""

    sampled_by: str
    level: float
    tokens: int
    excluded: int
    samples: int
    clusters: int
    effective_clusters: float
    """How many prompts of equal size they are worth, (Σn)² / Σn² over their tokens."""
    estimates: tuple[Estimate, ...]
    tails: tuple[tuple[float, Estimate], ...]
    quantiles: dict[str, Estimate]
    largest: float
    first_divergence: FirstDivergence
    clips: tuple[ClipEstimate, ...]
    breakdowns: dict[str, tuple[Bin, ...]]
    clips_by_length: tuple[tuple[str, ClipEstimate], ...]
    hygiene: tuple[HygieneCount, ...]

    def __getitem__(self, name: str) -> Estimate:
        return {estimate.name: estimate for estimate in self.estimates}[name]

    def get(self, name: str) -> Estimate | None:
        """The named estimate, or None where it was not recorded."""
        return {estimate.name: estimate for estimate in self.estimates}.get(name)
