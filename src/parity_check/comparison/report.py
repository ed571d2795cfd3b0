"""The frozen ComparisonReport: everything that its document needs, already computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parity_check.comparison.located import Located
from parity_check.comparison.practices import Logprobs, Practice
from parity_check.diagnosis.findings import Diagnosis
from parity_check.errors import ExitCode
from parity_check.measure.decomposition import Decomposition
from parity_check.measure.gates import GateResult, Verdict
from parity_check.measure.objectives import Objective
from parity_check.measure.results import ClipEstimate, Measurement
from parity_check.measure.stats import Estimate, Ints
from parity_check.report.document import Coverage, Head
from parity_check.traces.provenance import Difference

if TYPE_CHECKING:
    from parity_check.comparison.pictures.collect import Pictures
    from parity_check.comparison.pictures.samples import WorstSample

EXIT_CODES: dict[Verdict, ExitCode] = {
    "parity": ExitCode.PARITY,
    "drift": ExitCode.DRIFT,
    "inconclusive": ExitCode.INCONCLUSIVE,
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One parity setting: requested, in force, and how that was proved."""

    requested: Any
    in_force: Any
    proof: str


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One engine as it really ran, and how it computed its logprobs.

    `config` is what is in force, with what the modules compute with. `entropy` is the mean over
    tokens of the full distribution's, nats, where the engine returns it.
    """

    role: str
    label: str
    version: str
    family: str
    device: str
    packages: dict[str, str]
    settings: dict[str, Setting]
    config: dict[str, Any]
    environment: dict[str, str]
    logprob_path: str
    entropy: float | None


@dataclass(frozen=True, slots=True)
class Floor:
    """The same engine replaying the same tokens in a different batch order."""

    engine: str
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Direction:
    """One behaviour engine's rollouts, evaluated by another engine."""

    sampled_by: str
    evaluated_by: str
    title: str
    """Which engine sampled the tokens, and how the other evaluated them."""
    measurement: Measurement
    gates: tuple[GateResult, ...]
    floors: dict[str, Estimate]
    """The larger noise floor of the engines, by metric, quantile or length bin of the clip."""
    largest_floor: float | None
    """The largest |Δ| of either engine's A/A runs."""
    beside: ClipEstimate | None
    """The truncation share, if the objective's own number is a clip rate."""


@dataclass(frozen=True, slots=True)
class WorstToken:
    """A token with a large |Δ| in its context. Logprobs in nats, position from 0."""

    sampled_by: str
    sample_id: str
    position: int
    token_id: int
    log_ratio: float
    behaviour_logprob: float
    evaluating_logprob: float
    before: str
    token: str
    after: str


@dataclass(frozen=True, slots=True)
class FloorPicture:
    """Counts of Δ of an engine's A/A runs, on the scale of `pictures.spread`."""

    engine: str
    tokens: int
    log_ratio: Ints


@dataclass(frozen=True, slots=True)
class PairPictures:
    """The plot data of one pair. Not part of report.json."""

    directions: tuple[Pictures, ...]
    worst_samples: tuple[WorstSample, ...]


@dataclass(frozen=True, slots=True)
class ReportPictures:
    """The plot data of a page: the pairs in the order of the report."""

    pairs: tuple[PairPictures, ...]
    floors: tuple[FloorPicture, ...]


@dataclass(frozen=True, slots=True)
class ReportWarning:
    """Something a reader must know to interpret the numbers."""

    id: str
    message: str


@dataclass(frozen=True, slots=True)
class WorkloadReport:
    """What was compared."""

    prompts: int
    clusters: int
    samples: int
    tokens: int
    sampling: dict[str, Any]
    logprob_path: str
    looks: int
    """How often the run was judged while it sampled: 1 if only at the end."""
    most_looks: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two engines, compared on the tokens that one of them sampled, or both in turn.

    A direction has the engine that sampled as its denominator, so each is judged.
    """

    reference: str
    candidate: str
    directions: tuple[Direction, ...]
    differences: tuple[Difference, ...]
    diagnosis: Diagnosis
    worst_tokens: tuple[WorstToken, ...]

    @property
    def gates(self) -> tuple[GateResult, ...]:
        return tuple(gate for direction in self.directions for gate in direction.gates)


@dataclass(frozen=True, slots=True)
class Scored:
    """Two engines on the tokens of a third or of one of them: Δ = evaluating − behaviour.

    Where `behaviour` did not sample the tokens, the ratio is no importance ratio.
    """

    evaluating: str
    behaviour: str
    measurement: Measurement
    truncation: ClipEstimate
    verdict: Verdict | None
    """The verdict of the pair's gates; None if `behaviour` did not sample and nothing is judged."""


@dataclass(frozen=True, slots=True)
class FirstStep:
    """What a loss would see on its first step, before any update of the policy.

    `ratio` and `clip` are of the policy ratio, `truncation` of the importance weight; None where
    the loss has no such thing, or where the trainer was not repeated.
    """

    trainer: str
    logprobs: Logprobs
    configured: bool
    ratio: Estimate | None
    clip: ClipEstimate | None
    truncation: ClipEstimate | None


@dataclass(frozen=True, slots=True)
class Rollouts:
    """One engine's rollouts, and every engine's logprobs on them."""

    sampled_by: str
    scored: tuple[Scored, ...]
    decompositions: tuple[Decomposition, ...]
    first_steps: tuple[FirstStep, ...]

    def pair(self, evaluating: str, behaviour: str) -> Scored:
        return next(
            each
            for each in self.scored
            if (each.evaluating, each.behaviour) == (evaluating, behaviour)
        )

    @property
    def size(self) -> Measurement:
        """Of the first pair: how many prompts, samples and tokens there are."""
        return self.scored[0].measurement


@dataclass(frozen=True, slots=True)
class Matrix:
    """All pairs of three or more engines. `practices` are of `trainer` on `rollout`'s tokens."""

    rollouts: tuple[Rollouts, ...]
    trainer: str
    rollout: str
    practices: tuple[Practice, ...]


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """The result of a comparison: computed once, then rendered."""

    head: Head
    engines: tuple[EngineReport, ...]
    """The reference first."""
    workload: WorkloadReport
    objective: Objective
    level: float
    pairs: tuple[Pair, ...]
    """Reference and candidate, then every other pair in which one engine sampled."""
    floors: tuple[Floor, ...]
    matrix: Matrix | None
    """With three or more engines."""
    verdict: Verdict
    warnings: tuple[ReportWarning, ...]
    coverage: Coverage
    located: Located | None
    """Where the reference and the candidate part inside the model, if they were asked."""
    artifacts: tuple[str, ...]
    pictures: ReportPictures | None = None

    @property
    def gates(self) -> tuple[GateResult, ...]:
        return tuple(gate for pair in self.pairs for gate in pair.gates)

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.verdict]

    def engine(self, role: str) -> EngineReport:
        return next(engine for engine in self.engines if engine.role == role)
