"""Compose `ablate`: plan, take over what a run has, run the steps, report."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tomli_w

from parity_check.ablation.analyse import analyse_ablation
from parity_check.ablation.files import (
    PAGE,
    PLAN,
    REPORT,
    StoredPlan,
    is_finished,
    make_step,
    own_traces,
    read_plan,
    shared_traces,
    write_plan,
)
from parity_check.ablation.files import is_ablation as is_ablation
from parity_check.ablation.plan import DEFAULT, Flip, Step, plan
from parity_check.ablation.report import AblationReport
from parity_check.ablation.steps import configured, run_steps
from parity_check.comparison.analyse import judgement
from parity_check.config.load import dump_config
from parity_check.config.models import ROLES, Config
from parity_check.console import Console
from parity_check.engines.environment import environment
from parity_check.errors import ConfigError, EngineError, ExitCode, InputError
from parity_check.files import whole, write_text
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import check_model, fingerprint, session
from parity_check.report.ablation import sentences
from parity_check.report.ablation.renderers import RENDERERS
from parity_check.report.deliver import Delivery
from parity_check.report.numbers import columns
from parity_check.traces.prompts import read_workload
from parity_check.traces.run_files import replayed_name, sampled_name
from parity_check.traces.trace import read_header

KEPT_OF_A_RUN = ("model", "reference", "workload")
"""What may not be changed where the reference's trace is not sampled again."""


class AblationDirectory(RunDirectory):
    """A run directory that can be entered again, and says how."""

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """The directory of an ablation that was interrupted."""
        shutil.rmtree(path / ".work", ignore_errors=True)  # of a process that was killed
        directory = cls.__new__(cls)
        directory._open(path)
        return directory

    def _keep_partial(self) -> None:
        """Nothing: a step that was not finished is run again as a whole."""

    def _kept(self) -> str | None:
        if not (self.path / PLAN).exists():
            return super()._kept()
        names = dict.fromkeys(step.directory for step in read_plan(self.path).steps)
        finished = [name for name in names if name and is_finished(self.path / name)]
        kept = ", ".join(finished) or "no finished step"
        return (
            f"kept in {self._shown}: {kept}; go on with: parity-check ablate --resume {self._shown}"
        )


@dataclass(frozen=True, slots=True)
class Picks:
    """What is changed: see `ablation.plan`."""

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

    With `source`, a finished run's directory, its traces are taken over as far as they go.
    """
    judgement(config)
    delivery.check()
    steps = make_plan(config, picks)
    if source is not None:
        check_model(fingerprint(config.model), _reference_trace(source))
    else:
        read_workload(config.workload)
    with AblationDirectory(Path(config.run.out), dump_config(config)) as run:
        if source is not None:
            _take_over(source, run.path, config, steps)
        stored = StoredPlan(
            run_id=run.id,
            created_utc=run.created.isoformat(timespec="seconds"),
            command=shlex.join(["parity-check", *sys.argv[1:]]),
            source=None if source is None else source.absolute().name,
            steps=steps,
        )
        write_plan(run.path, stored)
        report = _carry_out(run, config, steps, console)
    return deliver(report, delivery, console)


def resume(directory: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Run the steps of an interrupted ablation that are not finished; failed ones once more."""
    judgement(config)
    delivery.check()
    steps = read_plan(directory).steps
    with AblationDirectory.reopen(directory) as run:
        report = _carry_out(run, config, steps, console)
    return deliver(report, delivery, console)


def report(directory: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Render and judge an ablation again, by the limits of `config`; it stays as it is."""
    delivery.check()
    return deliver(analyse_ablation(directory, config), delivery, console)


def dry_run(config: Config, picks: Picks, console: Console, source: Path | None = None) -> None:
    """Print the steps and start nothing."""
    judgement(config)
    steps = make_plan(config, picks)
    taken = None
    if source is not None:
        read_header(_reference_trace(source))
        taken = _own_directory(config, steps) if _holds_own(source, config) else None
    console.data("\n".join(columns(list(_planned(steps, taken)), "><<<")))


def _planned(steps: Sequence[Step], taken: str | None) -> Iterator[tuple[str, ...]]:
    yield ("#", "setting", "candidate", "")
    for number, step in enumerate(steps, start=1):
        asked = {key: value for key, value in step.settings.items() if value != DEFAULT}
        told = [
            f"{key} = {_toml(value)}" for key, value in (asked | dict(step.engine_args)).items()
        ]
        same = [n for n, each in enumerate(steps[: number - 1], 1) if _shares(each, step)]
        note = f"refused: {step.refused}" if step.refused else ""
        note = "taken from the run" if step.directory and step.directory == taken else note
        note = f"the same as {same[0]}" if same else note
        yield (str(number), step.name, ", ".join(told) or "nothing asked for", note)


def _shares(one: Step, other: Step) -> bool:
    return one.directory is not None and one.directory == other.directory


def _toml(value: Any) -> str:
    return tomli_w.dumps({"x": value}).removeprefix("x = ").strip()


def check_fits(run: Path, config: Config, stored: Config, *, candidate: bool) -> None:
    """Refuse a configuration that no longer fits the traces that were recorded with `stored`.

    `candidate` says whether the candidate may be another. Raises ConfigError.
    """
    for name in (*KEPT_OF_A_RUN, *([] if candidate else ["candidate"])):
        if getattr(config, name) != getattr(stored, name):
            raise ConfigError(
                f"--set changes [{name}], and the traces of {run} were recorded otherwise",
                hint=f"start from the configuration: parity-check ablate -c {run}/config.toml",
            )


def make_plan(config: Config, picks: Picks) -> tuple[Step, ...]:
    """The steps; each is a configuration that is valid, or says why its version refuses it."""
    candidate = config.candidate
    if "endpoint" in (config.reference.kind, candidate.kind):
        raise ConfigError(
            "ablate restarts the candidate and replays both engines' tokens through decode: an "
            "endpoint can do neither",
            hint="compare it as it is, or name an engine that can be started in its place",
        )
    if candidate.kind == "transformers":
        raise ConfigError("ablate flips the settings of a vLLM engine, the candidate is a trainer")
    if config.engines:
        raise ConfigError("ablate compares the reference and the candidate: leave out [engines]")
    known = None
    if candidate.kind == "vllm":
        known = environment.plan(
            python=candidate.python,
            requirement=candidate.requirement,
            cache=environment.default_cache(),
        )

    def refuse(key: str, value: Any) -> str | None:
        way = None if known is None else environment.way_in(known, candidate, key)
        return None if way is None or way.honours(value) else way.how

    steps = plan(
        candidate.settings.model_dump(),
        candidate.engine_args,
        only=picks.only,
        flips=picks.flips,
        singly=picks.singly,
        refuse=refuse,
    )
    for step in steps:
        configured(config, step)
    return steps


def _reference_trace(source: Path) -> Path:
    if is_ablation(source):
        raise ConfigError(
            f"{source} is an ablation, not a run to start one from",
            hint=f"to go on with it: parity-check ablate --resume {source}",
        )
    path = source / sampled_name("reference")
    if not path.is_file():
        raise InputError(
            f"{source}: the reference sampled nothing there",
            hint=f"record with it first: parity-check ablate -c {source}/config.toml",
        )
    return path


def _take_over(source: Path, directory: Path, config: Config, steps: Sequence[Step]) -> None:
    """Copy what a finished run has: the reference's traces, and the candidate as configured."""
    for path in shared_traces(source):
        _copy(path, directory / path.name)
    name = _own_directory(config, steps)
    if name is not None and _holds_own(source, config):
        step = make_step(directory, name)
        write_text(step / "config.toml", tomli_w.dumps(dump_config(config)))
        for trace in own_traces(config.workload.repeats):
            _copy(source / trace, step / trace)


def _holds_own(source: Path, config: Config) -> bool:
    """Whether a run holds the traces of the candidate as it is configured."""
    names = own_traces(config.workload.repeats)
    if not all((source / name).is_file() for name in names):
        return False
    recorded = read_header(source / replayed_name("reference")).config.get("candidate")
    return bool(recorded == dump_config(config)["candidate"])


def _own_directory(config: Config, steps: Sequence[Step]) -> str | None:
    candidate = config.candidate
    own = (candidate.settings.model_dump(), candidate.engine_args)
    return next(
        (s.directory for s in steps if (dict(s.settings), dict(s.engine_args)) == own), None
    )


def _copy(source: Path, target: Path) -> None:
    with whole(target) as partial_copy:
        shutil.copyfile(source, partial_copy)


def _carry_out(
    run: AblationDirectory, config: Config, steps: Sequence[Step], console: Console
) -> AblationReport:
    """Run what is not finished, then measure everything."""
    todo = _unfinished(run.path, steps)
    if todo:
        with session(config, ROLES, run, console) as live:
            run_steps(live, run.path, config, todo, console)
    report = analyse_ablation(run.path, config)
    run.write(REPORT, RENDERERS["json"](report))
    run.write(PAGE, RENDERERS["html"](report))
    return report


def _unfinished(directory: Path, steps: Sequence[Step]) -> list[Step]:
    """The first step of each configuration whose traces are not whole."""
    first: dict[str, Step] = {}
    for step in steps:
        if step.directory is not None:
            first.setdefault(step.directory, step)
    return [step for name, step in first.items() if not is_finished(directory / name)]


def deliver(report: AblationReport, delivery: Delivery, console: Console) -> ExitCode:
    """Print and write the report; returns the exit code. Raises EngineError if nothing finished."""
    for path, format in delivery.write.items():
        write_text(path, RENDERERS[format](report))
    quiet = console.verbosity < 0 and delivery.format == "text"
    console.data(sentences.verdict_line(report) if quiet else RENDERERS[delivery.format](report))
    failed = [step for step in report.steps if step.state == "failed"]
    if report.best is None and failed:
        raise EngineError(f"no step could be finished; the first: {failed[0].reason}")
    if delivery.exit_zero:
        return ExitCode.PARITY
    inconclusive = report.exit_code is ExitCode.INCONCLUSIVE
    return delivery.inconclusive if inconclusive else report.exit_code
