"""The content of a comparison's report.json: the public, versioned form of a ComparisonReport.

`metrics`, `gates`, `diagnosis`, `worst_tokens` and `warnings` are flat lists; an entry names its
direction (`sampled_by`, `evaluated_by`) or its pair (`reference`, `candidate`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from parity_check.comparison.located import Located
from parity_check.comparison.practices import Logprobs, Practice
from parity_check.comparison.report import (
    ComparisonReport,
    Direction,
    EngineReport,
    Matrix,
    Pair,
    ReportWarning,
    Rollouts,
    WorkloadReport,
)
from parity_check.diagnosis.findings import Confidence, Layer, Outcome
from parity_check.measure.decomposition import Decomposition
from parity_check.measure.gates import GateResult, Verdict
from parity_check.measure.limits import Kind as LimitKind
from parity_check.measure.metrics import METRICS
from parity_check.measure.objective import (
    Advantage,
    Averaging,
    Kind,
    Level,
    Objective,
    Unit,
    Wiring,
)
from parity_check.measure.results import ClipEstimate, FirstDivergence
from parity_check.measure.stats import Estimate
from parity_check.report.record import Record, opening


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberRecord:
    """An Estimate of one direction."""

    name: str
    sampled_by: str
    evaluated_by: str
    value: float
    ci_low: float | None
    ci_high: float | None
    level: float
    n: int
    clusters: int
    unit: str
    note: str
    effective_clusters: float
    unseen: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRecord(NumberRecord):
    """`noise_floor` has the value of the A/A runs, by engine."""

    noise_floor: dict[str, float]
    definition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TailRecord(NumberRecord):
    """The share of tokens with |Δ| above `threshold`, nats."""

    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BinRecord(NumberRecord):
    """A number of one bin of a breakdown."""

    breakdown: str
    bin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FloorRecord(NumberRecord):
    """A number of an A/A run: the `run`th of its engine, from 1."""

    run: int


@dataclass(frozen=True, slots=True)
class DirectionRecord:
    sampled_by: str
    evaluated_by: str
    prompts: int
    clusters: int
    effective_clusters: float
    samples: int
    effective_samples: float
    tokens: int
    excluded: int
    largest_abs_log_ratio: float
    first_divergence: FirstDivergence


@dataclass(frozen=True, slots=True)
class ObjectiveRecord:
    """One row of the objectives; `low` and `high` are edges in `unit`."""

    name: str
    label: str
    kind: Kind
    wiring: Wiring
    level: Level
    low: float | None
    high: float | None
    unit: Unit
    high_counts: Advantage
    low_counts: Advantage
    averaging: Averaging
    counter: str
    source: str
    sentence: str


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What an objective would do to a direction; `length` is the bin, null for all lengths."""

    sampled_by: str
    evaluated_by: str
    length: str | None
    objective: ObjectiveRecord
    positive_share: float
    counted: Estimate
    band: Estimate
    low: Estimate
    high: Estimate
    active: Estimate


@dataclass(frozen=True, slots=True)
class GateRecord:
    metric: str
    sampled_by: str
    evaluated_by: str
    verdict: Verdict
    reason: str
    limit: float
    kind: LimitKind
    target: float
    source: str
    required_limit: float | None
    prompts_needed: int | None
    prompts_if_clean: int | None


@dataclass(frozen=True, slots=True)
class InvalidRecord:
    """Logprobs excluded from every mean; `engine` returned them."""

    kind: str
    engine: str
    sampled_by: str
    evaluated_by: str
    count: int
    sentence: str


@dataclass(frozen=True, slots=True)
class DifferenceRecord:
    """A difference between two engines: their names, and the value of each."""

    key: str
    reference: Any
    candidate: Any
    requested: bool
    reference_engine: str
    candidate_engine: str


@dataclass(frozen=True, slots=True)
class StageRecord:
    reference: str
    candidate: str
    layer: Layer
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True)
class FindingRecord:
    cause: str
    reference: str
    candidate: str
    layer: Layer
    confidence: Confidence
    engine: str | None
    claim: str
    evidence: tuple[str, ...]
    explained: float | None
    remark: bool
    """Whether it is there but explains less than 5 % of E|Δ|, so that it is no cause."""
    fix: str
    confirm: str | None


@dataclass(frozen=True, slots=True)
class KnownRecord:
    """A fact about drift whose cause is unknown."""

    reference: str
    candidate: str
    sentence: str


@dataclass(frozen=True, slots=True)
class WorstTokenRecord:
    sampled_by: str
    evaluated_by: str
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
class ScoredRecord:
    """Two engines on the tokens of `sampled_by`; judged only if `behaviour` sampled them."""

    sampled_by: str
    evaluating: str
    behaviour: str
    tokens: int
    excluded: int
    verdict: Verdict | None
    metrics: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class FirstStepRecord:
    """What a loss would see on its first step, before any update of the policy."""

    sampled_by: str
    trainer: str
    logprobs: Logprobs
    configured: bool
    ratio: Estimate | None
    clip: ClipEstimate | None
    truncation: ClipEstimate | None


@dataclass(frozen=True, slots=True)
class PracticesRecord:
    trainer: str
    rollout: str
    checks: tuple[Practice, ...]


@dataclass(frozen=True, slots=True)
class MatrixRecord:
    """All pairs of three or more engines."""

    scored: tuple[ScoredRecord, ...]
    decompositions: tuple[Decomposition, ...]
    first_steps: tuple[FirstStepRecord, ...]
    practices: PracticesRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRecord(Record):
    """report.json of `compare`. `matrix` is null with two engines."""

    kind: Literal["comparison"]
    engines: dict[str, EngineReport]
    differences: tuple[DifferenceRecord, ...]
    workload: WorkloadReport
    objective: str
    directions: tuple[DirectionRecord, ...]
    metrics: tuple[MetricRecord, ...]
    quantiles: tuple[NumberRecord, ...]
    tails: tuple[TailRecord, ...]
    clips: tuple[ClipRecord, ...]
    breakdowns: tuple[BinRecord, ...]
    gates: tuple[GateRecord, ...]
    invalid_logprobs: tuple[InvalidRecord, ...]
    stages: tuple[StageRecord, ...]
    diagnosis: tuple[FindingRecord, ...]
    known: tuple[KnownRecord, ...]
    worst_tokens: tuple[WorstTokenRecord, ...]
    floors: tuple[FloorRecord, ...]
    matrix: MatrixRecord | None
    located: Located | None
    warnings: tuple[ReportWarning, ...]
    artifacts: tuple[str, ...]


def record(report: ComparisonReport) -> ComparisonRecord:
    directions = [direction for pair in report.pairs for direction in pair.directions]
    return ComparisonRecord(
        **opening(report.head, report.verdict, report.exit_code),
        engines={engine.role: engine for engine in report.engines},
        differences=tuple(each for pair in report.pairs for each in _differences(pair)),
        workload=report.workload,
        objective=report.objective.name,
        directions=tuple(map(_direction, directions)),
        metrics=tuple(each for direction in directions for each in _metrics(report, direction)),
        quantiles=tuple(
            NumberRecord(**_number(direction, estimate))
            for direction in directions
            for estimate in direction.measurement.quantiles.values()
        ),
        tails=tuple(
            TailRecord(**_number(direction, estimate), threshold=threshold)
            for direction in directions
            for threshold, estimate in direction.measurement.tails
        ),
        clips=tuple(each for direction in directions for each in _clips(direction)),
        breakdowns=tuple(
            BinRecord(**_number(direction, estimate), breakdown=name, bin=each.label)
            for direction in directions
            for name, bins in direction.measurement.breakdowns.items()
            for each in bins
            for estimate in each.estimates
        ),
        gates=tuple(_gate(d, gate) for d in directions for gate in d.gates),
        invalid_logprobs=tuple(each for d in directions for each in _invalid(d)),
        stages=tuple(each for pair in report.pairs for each in _stages(pair)),
        diagnosis=tuple(each for pair in report.pairs for each in _findings(pair)),
        known=tuple(
            KnownRecord(pair.reference, pair.candidate, sentence)
            for pair in report.pairs
            for sentence in pair.diagnosis.known
        ),
        worst_tokens=tuple(each for pair in report.pairs for each in _worst_tokens(pair)),
        floors=tuple(_floors(report)),
        matrix=None if report.matrix is None else _matrix(report.matrix),
        located=report.located,
        warnings=report.warnings,
        artifacts=report.artifacts,
    )


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass; nested ones are not converted."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _number(direction: Direction, estimate: Estimate) -> dict[str, Any]:
    return {**_fields(estimate), "evaluated_by": direction.evaluated_by}


def _differences(pair: Pair) -> Iterator[DifferenceRecord]:
    for difference in pair.differences:
        yield DifferenceRecord(
            **_fields(difference),
            reference_engine=pair.reference,
            candidate_engine=pair.candidate,
        )


def _direction(direction: Direction) -> DirectionRecord:
    measured = direction.measurement
    return DirectionRecord(
        sampled_by=direction.sampled_by,
        evaluated_by=direction.evaluated_by,
        prompts=measured.prompts,
        clusters=measured.clusters,
        effective_clusters=measured.worth.clusters,
        samples=measured.samples,
        effective_samples=measured.worth.samples,
        tokens=measured.tokens,
        excluded=measured.excluded,
        largest_abs_log_ratio=measured.largest,
        first_divergence=measured.first_divergence,
    )


def _metrics(report: ComparisonReport, direction: Direction) -> Iterator[MetricRecord]:
    own = (direction.sampled_by, direction.evaluated_by)
    for estimate in direction.measurement.estimates:
        floors = {
            floor.engine: found.value
            for floor in report.floors
            if floor.engine in own and (found := floor.measurement.get(estimate.name)) is not None
        }
        yield MetricRecord(
            **_number(direction, estimate),
            noise_floor=floors,
            definition=METRICS[estimate.name].definition,
        )


def _clips(direction: Direction) -> Iterator[ClipRecord]:
    measured = direction.measurement
    every: list[tuple[str | None, ClipEstimate]] = [(None, clip) for clip in measured.clips]
    for length, clip in [*every, *measured.clips_by_length]:
        yield ClipRecord(
            direction.sampled_by,
            direction.evaluated_by,
            length,
            **{**_fields(clip), "objective": _objective(clip.objective)},
        )


def _objective(row: Objective) -> ObjectiveRecord:
    kept = [each.name for each in fields(ObjectiveRecord) if each.name != "counter"]
    return ObjectiveRecord(**{name: getattr(row, name) for name in kept}, counter=str(row.counter))


def _gate(direction: Direction, gate: GateResult) -> GateRecord:
    return GateRecord(
        metric=gate.metric,
        sampled_by=gate.sampled_by,
        evaluated_by=direction.evaluated_by,
        verdict=gate.verdict,
        reason=gate.reason,
        limit=gate.limit.value,
        kind=gate.limit.kind,
        target=gate.limit.target,
        source=gate.limit.source,
        required_limit=gate.required_limit,
        prompts_needed=gate.prompts_needed,
        prompts_if_clean=gate.prompts_if_clean,
    )


def _invalid(direction: Direction) -> Iterator[InvalidRecord]:
    for count in direction.measurement.invalid:
        yield InvalidRecord(
            **_fields(count), sampled_by=direction.sampled_by, evaluated_by=direction.evaluated_by
        )


def _stages(pair: Pair) -> Iterator[StageRecord]:
    for stage in pair.diagnosis.stages:
        yield StageRecord(pair.reference, pair.candidate, **_fields(stage))


def _findings(pair: Pair) -> Iterator[FindingRecord]:
    for finding in pair.diagnosis.findings:
        stated = {name: value for name, value in _fields(finding).items() if name != "weight"}
        yield FindingRecord(
            **stated, remark=finding.remark, reference=pair.reference, candidate=pair.candidate
        )


def _worst_tokens(pair: Pair) -> Iterator[WorstTokenRecord]:
    other = {pair.reference: pair.candidate, pair.candidate: pair.reference}
    for token in pair.worst_tokens:
        yield WorstTokenRecord(**_fields(token), evaluated_by=other[token.sampled_by])


def _floors(report: ComparisonReport) -> Iterator[FloorRecord]:
    runs: Counter[str] = Counter()
    for floor in report.floors:
        runs[floor.engine] += 1
        for estimate in floor.measurement.estimates:
            number = {**_fields(estimate), "evaluated_by": floor.engine}
            yield FloorRecord(**number, run=runs[floor.engine])


def _matrix(matrix: Matrix) -> MatrixRecord:
    return MatrixRecord(
        scored=tuple(each for rollouts in matrix.rollouts for each in _scored(rollouts)),
        decompositions=tuple(
            each for rollouts in matrix.rollouts for each in rollouts.decompositions
        ),
        first_steps=tuple(
            FirstStepRecord(sampled_by=rollouts.sampled_by, **_fields(step))
            for rollouts in matrix.rollouts
            for step in rollouts.first_steps
        ),
        practices=PracticesRecord(matrix.trainer, matrix.rollout, matrix.practices),
    )


def _scored(rollouts: Rollouts) -> Iterator[ScoredRecord]:
    for each in rollouts.scored:
        yield ScoredRecord(
            sampled_by=rollouts.sampled_by,
            evaluating=each.evaluating,
            behaviour=each.behaviour,
            tokens=each.measurement.tokens,
            excluded=each.measurement.excluded,
            verdict=each.verdict,
            metrics=each.measurement.estimates,
        )
