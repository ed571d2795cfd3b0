"""Compose `ablate`: plan, reuse the traces of a run, run the steps, report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from parity_check.ablation.analyse import analyse_ablation
from parity_check.ablation.document import document
from parity_check.ablation.files import (
    PAGE,
    PLAN,
    REPORT,
    StoredPlan,
    is_ablation,
    is_finished,
    make_step,
    own_traces,
    read_plan,
    shared_traces,
    write_plan,
)
from parity_check.ablation.plan import DEFAULT, Flip, Step, plan
from parity_check.ablation.report import AblationReport
from parity_check.ablation.steps import configured, run_steps
from parity_check.comparison.judgement import judgement
from parity_check.config.load import dump_config
from parity_check.config.models import ROLES, Config
from parity_check.console import Console
from parity_check.engines.base import Knobs
from parity_check.engines.kinds import configured_engine
from parity_check.errors import ConfigError, EngineError, ExitCode, InputError
from parity_check.files import whole, write_text
from parity_check.recording import unchanged
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import check_model, fingerprint, session
from parity_check.report import deliver
from parity_check.report.deliver import Delivery
from parity_check.report.document import Column, Row, Table
from parity_check.report.renderers import render
from parity_check.report.text import table_lines
from parity_check.traces import checkpoint, manifest, provenance
from parity_check.traces.prompts import check_clusters, read_workload
from parity_check.traces.run_files import replayed_name, sampled_name
from parity_check.traces.trace import read_header

KEPT_OF_A_RUN = ("model", "reference", "workload")
"""What must not change if the reference does not sample again."""
FREE = ("objective", "gates", "stats", "diagnosis", "run", "weight_sync", "training")
"""Tables that shape no trace."""


class AblationDirectory(RunDirectory):
    """A run directory that says how to continue."""

    def _keep_partial(self) -> None:
        """Nothing: a step that was not finished is run again from its start."""

    def _kept(self) -> str | None:
        if not (self.path / PLAN).exists():
            return super()._kept()
        names = dict.fromkeys(step.directory for step in read_plan(self.path).steps)
        finished = [name for name in names if name and is_finished(self.path / name)]
        kept = ", ".join(finished) or "no finished step"
        return (
            f"kept in {self.shown}: {kept}; to continue: parity-check ablate --resume {self.shown}"
        )


@dataclass(frozen=True, slots=True)
class Picks:
    """What to change, see `ablation.plan`."""

    only: tuple[str, ...] = ()
    flips: tuple[Flip, ...] = ()
    singly: bool = True


def ablate(
    config: Config,
    picks: Picks,
    delivery: Delivery,
    console: Console,
    source: Path | None = None,
) -> ExitCode:
    """Plan, record with the reference, run every step, report.

    With `source`, a finished run's directory, its traces are reused where they fit.
    """
    judgement(config)
    delivery.check()
    steps = make_plan(config, picks)
    if source is not None:
        check_model(fingerprint(config.model), _reference_trace(source))
    else:
        check_clusters(read_workload(config.workload), config)
    with AblationDirectory(Path(config.run.out), dump_config(config)) as run:
        if source is not None:
            _reuse_traces(source, run.path, run.id, config, steps)
        stored = StoredPlan(
            run_id=run.id,
            created_utc=run.created.isoformat(timespec="seconds"),
            command=provenance.command_line(),
            source=None if source is None else source.absolute().name,
            steps=steps,
            config=unchanged.keys(dump_config(config), FREE),
        )
        write_plan(run.path, stored)
        report = _run_and_report(run, config, steps, console)
    return _deliver(report, delivery, console)


def resume(directory: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Run the unfinished and failed steps of an interrupted ablation.

    Raises ConfigError where its configuration was changed since: its traces would be of two.
    """
    judgement(config)
    delivery.check()
    plan = read_plan(directory)
    new = f"start a new one: parity-check ablate -c {directory / 'config.toml'}"
    if plan.config is None:
        raise InputError(
            f"{directory}: its plan does not say what its traces were recorded under", hint=new
        )
    now = unchanged.keys(dump_config(config), FREE)
    unchanged.check_unchanged(directory / "config.toml", plan.config, now, new)
    steps = plan.steps
    with AblationDirectory.reopen(directory) as run:
        report = _run_and_report(run, config, steps, console)
    return _deliver(report, delivery, console)


def report(directory: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Judge and render an ablation with the limits of `config`. Does not change its files."""
    delivery.check()
    return _deliver(analyse_ablation(directory, config), delivery, console)


def dry_run(config: Config, picks: Picks, console: Console, source: Path | None = None) -> None:
    """Print the steps. Starts no engine."""
    judgement(config)
    checkpoint.locate_model(config.model)
    configured_engine("candidate", config).adapter()
    steps = make_plan(config, picks)
    taken = None
    if source is not None:
        read_header(_reference_trace(source))
        taken = _own_directory(config, steps) if _has_candidate_traces(source, config) else None
    console.data("\n".join(table_lines(_planned(steps, taken))))


def _planned(steps: Sequence[Step], taken: str | None) -> Table:
    """The steps, with what the candidate of each is started with."""
    rows: list[Row] = []
    for number, step in enumerate(steps, start=1):
        settings = {key: value for key, value in step.settings.items() if value != DEFAULT}
        requested = [
            f"{key} = {_toml(value)}" for key, value in (settings | dict(step.engine_args)).items()
        ]
        same = [n for n, each in enumerate(steps[: number - 1], 1) if _shares(each, step)]
        note = f"refused: {step.refused}" if step.refused else ""
        note = "reused from the run" if step.directory and step.directory == taken else note
        note = f"same as {same[0]}" if same else note
        rows.append(Row((str(number), step.name, ", ".join(requested) or "engine defaults", note)))
    headings = (Column("#", "right"), Column("setting"), Column("candidate"), Column(""))
    return Table("Steps", headings, tuple(rows))


def _shares(one: Step, other: Step) -> bool:
    return one.directory is not None and one.directory == other.directory


def _toml(value: Any) -> str:
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def check_fits(run: Path, config: Config, stored: Config, *, candidate: bool) -> None:
    """Reject a configuration that does not match the traces recorded with `stored`.

    `candidate`: whether the candidate may differ. Raises ConfigError.
    """
    for name in (*KEPT_OF_A_RUN, *([] if candidate else ["candidate"])):
        if getattr(config, name) != getattr(stored, name):
            raise ConfigError(
                f"--set changes [{name}], but the traces of {run} were recorded with other values",
                hint="start from the configuration instead: "
                f"parity-check ablate -c {run}/config.toml",
            )


def make_plan(config: Config, picks: Picks) -> tuple[Step, ...]:
    """The steps. Each is a valid configuration, or states why its version rejects it."""
    knobs = _knobs(config)
    if config.engines:
        raise ConfigError("ablate works with reference and candidate only: remove [engines]")
    candidate = configured_engine("candidate", config)
    known = candidate.plan()

    def refuse(key: str, value: Any) -> str | None:
        way = None if known is None else candidate.way(key, known)
        return None if way is None or way.supports(value) else way.how

    steps = plan(
        knobs.settings,
        knobs.engine_args,
        only=picks.only,
        flips=picks.flips,
        singly=picks.singly,
        refuse=refuse,
    )
    for step in steps:
        configured(config, step)
    return steps


def _knobs(config: Config) -> Knobs:
    """What can be changed of the candidate. Raises ConfigError for engines that cannot do it."""
    candidate = configured_engine("candidate", config)
    engines = (configured_engine("reference", config), candidate)
    unfit = [each for each in engines if each.can.evaluates_by != "decode"]
    knobs = candidate.knobs
    if unfit or knobs is None:
        noun = (*unfit, candidate)[0].can.noun
        raise ConfigError(
            "ablate restarts the candidate and replays both engines' tokens through decode, which "
            f"{noun} cannot do",
            hint="use `compare`, or vLLM engines that parity-check starts",
        )
    return knobs


def _reference_trace(source: Path) -> Path:
    if is_ablation(source):
        raise ConfigError(
            f"{source} is an ablation, not a run of `compare`",
            hint=f"to continue it: parity-check ablate --resume {source}",
        )
    path = source / sampled_name("reference")
    if not path.is_file():
        raise InputError(
            f"{source}: no rollouts of the reference in this run",
            hint=f"record them first: parity-check ablate -c {source}/config.toml",
        )
    return path


def _reuse_traces(
    source: Path, directory: Path, run_id: str, config: Config, steps: Sequence[Step]
) -> None:
    """Copy a finished run's traces: the reference's, and the candidate's as configured."""
    for path in shared_traces(source):
        _copy(path, directory / path.name)
    name = _own_directory(config, steps)
    if name is not None and _has_candidate_traces(source, config):
        step = make_step(directory, name, run_id, config.workload.repeats)
        write_text(step / "config.toml", tomli_w.dumps(dump_config(config)))
        for trace in own_traces(config.workload.repeats):
            _copy(source / trace, step / trace)
        manifest.finish(step)


def _has_candidate_traces(source: Path, config: Config) -> bool:
    """Whether a run holds the traces of the candidate as configured."""
    names = own_traces(config.workload.repeats)
    if not all((source / name).is_file() for name in names):
        return False
    recorded = read_header(source / replayed_name("reference")).config.get("candidate")
    return bool(recorded == dump_config(config)["candidate"])


def _own_directory(config: Config, steps: Sequence[Step]) -> str | None:
    own = _knobs(config)
    return next((s.directory for s in steps if (s.settings, s.engine_args) == own), None)


def _copy(source: Path, target: Path) -> None:
    with whole(target) as partial_copy:
        shutil.copyfile(source, partial_copy)


def _run_and_report(
    run: AblationDirectory, config: Config, steps: Sequence[Step], console: Console
) -> AblationReport:
    """Run what is not finished, then measure all steps."""
    todo = _unfinished(run.path, steps)
    if todo:
        with session(config, ROLES, run, console) as live:
            run_steps(live, run.path, config, todo, console)
    report = analyse_ablation(run.path, config)
    shown = document(report)
    run.write(REPORT, render(shown, "json"))
    run.write(PAGE, render(shown, "html"))
    return report


def _unfinished(directory: Path, steps: Sequence[Step]) -> list[Step]:
    """The first step of each configuration without complete traces."""
    first: dict[str, Step] = {}
    for step in steps:
        if step.directory is not None:
            first.setdefault(step.directory, step)
    return [step for name, step in first.items() if not is_finished(directory / name)]


def _deliver(report: AblationReport, delivery: Delivery, console: Console) -> ExitCode:
    """Print and write the report; return the exit code. Raises EngineError if no step finished."""
    code = deliver.deliver(document(report), delivery, console)
    failed = [step for step in report.steps if step.state == "failed"]
    if report.best is None and failed:
        raise EngineError(f"no step finished; the first failure: {failed[0].reason}")
    return code
