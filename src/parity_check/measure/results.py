"""The results of one sampling direction: estimates, breakdowns and clip rates."""

from __future__ import annotations

from dataclasses import dataclass

from parity_check.measure.invalid import InvalidCount
from parity_check.measure.objective import Objective
from parity_check.measure.stats import Estimate
from parity_check.measure.worth import Worth


@dataclass(frozen=True, slots=True)
class ClipEstimate:
    """What one objective does to these tokens at its first step.

    `low` and `high` are the shares beyond each edge, `band` is their sum. `active` is the share
    whose clipping changes a gradient if `positive_share` of the advantages are positive. `counted`
    is what the framework's own counter would show.
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
    """One bin of a breakdown, from `low` (inclusive) to `high` (exclusive), with its estimates."""

    label: str
    low: float
    high: float
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class FirstDivergence:
    """Where samples first stop being bit-identical. Positions count completion tokens from 0."""

    samples: int
    diverged: int
    earliest: int | None
    median: float | None


@dataclass(frozen=True, slots=True)
class Measurement:
    """All results of one sampling direction.

    `certain` tokens have a logprob of 0 on both sides, `repeated` ones another number that the
    token before them has as well, on both sides. `copied` ones are in samples that have, on either
    side, the logprobs of a sample with other tokens. `samples` have usable tokens; where they are
    turns, `rollouts` of them are whole sequences, which is what `worth` counts.
    """

    sampled_by: str
    level: float
    tokens: int
    excluded: int
    certain: int
    repeated: int
    copied: int
    samples: int
    rollouts: int
    prompts: int
    clusters: int
    worth: Worth
    estimates: tuple[Estimate, ...]
    tails: tuple[tuple[float, Estimate], ...]
    quantiles: dict[str, Estimate]
    largest: float
    first_divergence: FirstDivergence
    clips: tuple[ClipEstimate, ...]
    breakdowns: dict[str, tuple[Bin, ...]]
    clips_by_length: tuple[tuple[str, ClipEstimate], ...]
    invalid: tuple[InvalidCount, ...]

    def __getitem__(self, name: str) -> Estimate:
        return {estimate.name: estimate for estimate in self.estimates}[name]

    def get(self, name: str) -> Estimate | None:
        """The named estimate, or None if it was not recorded."""
        return {estimate.name: estimate for estimate in self.estimates}.get(name)
