"""The content of ablation.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from parity_check.ablation.plan import Effect, Part
from parity_check.ablation.report import AblationReport, State, StepReport
from parity_check.comparison.report import Direction, EngineReport, WorkloadReport
from parity_check.measure.gates import Verdict
from parity_check.measure.stats import Estimate
from parity_check.report.record import Record, opening

METRICS = (
    "mean_log_ratio",
    "rms_log_ratio",
    "mean_abs_log_ratio",
    "mean_importance_ratio",
    "k3_kl",
    "clip_fraction",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetric(Estimate):
    """A metric in one direction of a step, with the noise floor beside it."""

    noise_floor: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step; the fields are those of `StepReport`."""

    number: int
    part: Part
    name: str
    key: str | None
    requested: Any
    in_force: Any
    directory: str | None
    state: State
    reason: str | None
    verdict: Verdict | None
    at_floor: bool
    against: int | None
    differing_tokens: int | None
    effect: Effect | None
    removed_share: Estimate | None
    candidate: EngineReport | None
    metrics: tuple[StepMetric, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationRecord(Record):
    """`source` is the run whose traces were reused, `best` the number of the best step."""

    kind: Literal["ablation"]
    source: str | None
    best: int | None
    reference: EngineReport | None
    workload: WorkloadReport | None
    objective: str
    steps: tuple[StepRecord, ...]


def record(report: AblationReport) -> AblationRecord:
    """What ablation.json holds."""
    return AblationRecord(
        **opening(report.head, report.verdict, report.exit_code),
        source=report.source,
        best=None if report.best is None else report.best.number,
        reference=report.reference,
        workload=report.workload,
        objective=report.objective.name,
        steps=tuple(map(_step, report.steps)),
    )


def _step(step: StepReport) -> StepRecord:
    return StepRecord(
        number=step.number,
        part=step.part,
        name=step.name,
        key=step.key,
        requested=step.requested,
        in_force=step.in_force,
        directory=step.directory,
        state=step.state,
        reason=step.reason,
        verdict=step.verdict,
        at_floor=step.at_floor,
        against=step.against,
        differing_tokens=step.differing,
        effect=step.effect,
        removed_share=step.removed,
        candidate=step.candidate,
        metrics=tuple(metric for each in step.directions for metric in _metrics(each)),
    )


def _metrics(direction: Direction) -> Iterator[StepMetric]:
    for name in METRICS:
        estimate, floor = direction.measurement[name], direction.floors.get(name)
        yield StepMetric(**asdict(estimate), noise_floor=None if floor is None else floor.value)
