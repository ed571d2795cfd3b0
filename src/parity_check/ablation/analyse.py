"""Compute the AblationReport from the traces of the steps. Starts no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity_check import __version__
from parity_check.ablation.files import failure_of, is_finished, read_plan
from parity_check.ablation.plan import (
    SETTINGS,
    Drift,
    Step,
    at_floor,
    differing_tokens,
    drift,
    effect,
    removed_share,
)
from parity_check.ablation.report import AblationReport, StepReport
from parity_check.comparison.analyse import analyse
from parity_check.comparison.judgement import judgement
from parity_check.comparison.report import ComparisonReport, Direction, EngineReport, WorkloadReport
from parity_check.config.load import dump_config
from parity_check.config.models import ROLES, Config
from parity_check.measure.metrics import METRICS
from parity_check.report.document import Head
from parity_check.traces.pairing import Index, label_column, pair
from parity_check.traces.run_files import replayed_name, sampled_name
from parity_check.traces.trace import Trace

DRIFT = "mean_abs_log_ratio"


def analyse_ablation(directory: Path, config: Config) -> AblationReport:
    """Measure every finished step and its effect. Raises InputError, TraceMismatchError."""
    plan = read_plan(directory)
    how = judgement(config)
    names = dict.fromkeys(step.directory for step in plan.steps if step.directory is not None)
    done = [name for name in names if is_finished(directory / name)]
    runs = {name: analyse(directory / name, config, ROLES) for name in done}
    drifts = {name: _drift(directory / name, how.cluster_by) for name in done}
    rows: list[StepReport] = []
    for number, step in enumerate(plan.steps, start=1):
        row = _row(directory, step, number, runs)
        if row.state == "finished":
            row = _compared(directory, row, rows, drifts, how.level)
        rows.append(row)
    first = next(iter(runs.values()), None)
    return AblationReport(
        head=Head(
            kind="ablation",
            run_id=plan.run_id,
            created_utc=plan.created_utc,
            command=plan.command,
            parity_check=__version__,
            config=dump_config(config),
            model={} if first is None else first.head.model,
            host={} if first is None else first.head.host,
        ),
        source=plan.source,
        reference=None if first is None else first.engine("reference"),
        workload=None if first is None else _shared_workload(first),
        objective=how.objective,
        level=how.level,
        steps=tuple(rows),
    )


def _shared_workload(run: ComparisonReport) -> WorkloadReport:
    """What every step replays: the reference's part of a step's workload."""
    replayed = next(
        each for each in run.pairs[0].directions if each.sampled_by == "reference"
    ).measurement
    return replace(
        run.workload,
        prompts=replayed.clusters,
        samples=replayed.samples,
        tokens=replayed.tokens + replayed.excluded,
    )


def _row(
    directory: Path, step: Step, number: int, runs: Mapping[str, ComparisonReport]
) -> StepReport:
    row = StepReport(
        number, step.part, step.name, step.key, step.value, step.directory, "not run", None
    )
    if step.directory is None:
        return replace(row, state="refused", reason=step.refused)
    run = runs.get(step.directory)
    if run is None:
        failure = failure_of(directory / step.directory)
        return row if failure is None else replace(row, state="failed", reason=failure)
    candidate, directions = run.engine("candidate"), run.pairs[0].directions
    return replace(
        row,
        state="finished",
        candidate=candidate,
        directions=directions,
        coverage=run.coverage,
        verdict=run.verdict,
        at_floor=all(map(_at_floor, directions)),
        in_force=None if step.key is None else facts(candidate).get(step.key),
    )


def _at_floor(direction: Direction) -> bool:
    """Whether one direction is. Invalid logprobs are in no mean, so they rule it out."""
    invalid = any(
        gate.verdict != "parity" for gate in direction.gates if gate.metric not in METRICS
    )
    return not invalid and at_floor(direction.measurement[DRIFT], direction.floors.get(DRIFT))


def _compared(
    directory: Path,
    row: StepReport,
    rows: list[StepReport],
    drifts: Mapping[str, Drift],
    level: float,
) -> StepReport:
    """With what the step did, compared with the rung before it or the candidate as configured."""
    earlier = [each for each in rows if each.state == "finished"]
    if row.part == "ladder":
        earlier = [each for each in earlier if each.part == "ladder"]
        before, first = (earlier[-1], earlier[0]) if earlier else (None, None)
    else:
        before = first = next((each for each in earlier if each.part == "own"), None)
    if row.key is None or before is None or first is None:
        return row
    assert row.directory is not None
    assert row.candidate is not None
    assert before.directory is not None
    assert before.candidate is not None
    assert first.directory is not None
    left, right = (
        Trace(directory / name / replayed_name("reference"))
        for name in (before.directory, row.directory)
    )
    differing = differing_tokens(left.batches(), right.batches(like=left))
    removed = None
    if not first.at_floor:
        removed = removed_share(
            drifts[first.directory], drifts[before.directory], drifts[row.directory], level
        )
    found = effect(row.key, row.requested, facts(before.candidate), facts(row.candidate), differing)
    same = before.directory == row.directory
    return replace(
        row,
        against=before.number,
        differing=differing,
        effect="already so" if same else found,
        removed=removed,
    )


def facts(engine: EngineReport) -> dict[str, Any]:
    """The values in force in an engine, by setting or argument name."""
    settings = {name: setting.in_force for name, setting in engine.settings.items()}
    return {**engine.config, **{name: settings[name] for name in SETTINGS if name in settings}}


def _drift(step: Path, cluster_by: str) -> Drift:
    behaviour, evaluating = (
        Trace(step / sampled_name("reference")),
        Trace(step / replayed_name("reference")),
    )
    batches = behaviour.batches(label=label_column(cluster_by))
    return drift(pair(batches, evaluating.batches(like=behaviour), cluster_by, Index()))
