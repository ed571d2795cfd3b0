"""The frozen ParityReport: everything that a renderer needs, already computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity_check.comparison.pictures.collect import Pictures
from parity_check.comparison.pictures.samples import WorstSample
from parity_check.config.models import Role
from parity_check.diagnosis.findings import Diagnosis
from parity_check.errors import ExitCode
from parity_check.measure.gates import GateResult, Verdict
from parity_check.measure.objectives import Objective
from parity_check.measure.results import ClipEstimate, Measurement
from parity_check.measure.stats import Estimate, Ints
from parity_check.traces.provenance import Difference

SCHEMA_VERSION = 1
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
    """One engine as it ran."""

    role: str
    label: str
    version: str
    family: str
    device: str
    packages: dict[str, str]
    settings: dict[str, Setting]
    config: dict[str, Any]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Floor:
    """An engine replaying the same tokens in a different batch order."""

    engine: Role
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Direction:
    """One behaviour engine's rollouts, evaluated by the other engine."""

    sampled_by: Role
    evaluated_by: Role
    told: str
    """Who sampled the tokens and which engine evaluated them, as text."""
    measurement: Measurement
    gates: tuple[GateResult, ...]
    floors: dict[str, Estimate]
    """The larger noise floor of the engines, by metric, quantile or length bin of the clip."""
    largest_floor: float | None
    """The largest |Δ| of an engine against itself."""
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
    """Counts of Δ of an engine against itself, on the scale of `pictures.spread`."""

    engine: Role
    tokens: int
    log_ratio: Ints


@dataclass(frozen=True, slots=True)
class Illustration:
    """The plot data of a run. Only for HTML pages, not part of report.json."""

    directions: tuple[Pictures, ...]
    floors: tuple[FloorPicture, ...]
    worst_samples: tuple[WorstSample, ...]


@dataclass(frozen=True, slots=True)
class ReportWarning:
    """Something a reader must know to interpret the numbers."""

    id: str
    message: str


@dataclass(frozen=True, slots=True)
class WorkloadReport:
    """What was compared."""

    prompts: int
    samples: int
    tokens: int
    sampling: dict[str, Any]
    logprob_path: str


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The result of a comparison: computed once, then rendered."""

    run_id: str
    created_utc: str
    command: str
    parity_check: str
    config: dict[str, Any]
    model: dict[str, Any]
    host: dict[str, Any]
    engines: tuple[EngineReport, ...]
    differences: tuple[Difference, ...]
    workload: WorkloadReport
    objective: Objective
    directions: tuple[Direction, ...]
    floors: tuple[Floor, ...]
    verdict: Verdict
    diagnosis: Diagnosis
    worst_tokens: tuple[WorstToken, ...]
    warnings: tuple[ReportWarning, ...]
    artifacts: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION
    illustration: Illustration | None = None

    @property
    def gates(self) -> tuple[GateResult, ...]:
        return tuple(gate for direction in self.directions for gate in direction.gates)

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.verdict]

    def engine(self, role: str) -> EngineReport:
        return next(engine for engine in self.engines if engine.role == role)
