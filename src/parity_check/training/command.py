"""`train`: a short RL run with each arm's engine, the curves, and how far they are apart."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from parity_check.comparison import command as comparison
from parity_check.comparison.analyse import engine_report, head_of
from parity_check.comparison.judgement import judgement
from parity_check.comparison.report import EngineReport
from parity_check.config.load import dump_config, load_config
from parity_check.config.models import Config
from parity_check.config.training import FIRST, TRAINER, Training
from parity_check.console import Console
from parity_check.engines.base import Engine
from parity_check.engines.client import WorkerEngine, WorkerSpec
from parity_check.errors import ConfigError, EngineError, ExitCode, InputError
from parity_check.measure.gates import Verdict
from parity_check.recording import requests
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import Session, check_reading, exchange, fingerprint, session
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.document import Document
from parity_check.report.record import stored
from parity_check.report.renderers import render
from parity_check.traces.prompts import Prompt
from parity_check.training import arms, conditions, files, loop
from parity_check.training.arms import Run
from parity_check.training.curves import Step, objective_of
from parity_check.training.document import document
from parity_check.training.judge import judge
from parity_check.training.notices import config_notices, step_notices
from parity_check.training.record import read
from parity_check.training.report import ArmReport, TrainingReport
from parity_check.training.rollouts import keep
from parity_check.training.task import Problem, problems

STOPS = ("not_finite", "invalid_logprobs")
"""Failures that end an arm's run, and nothing else."""


def train(
    config: Config,
    delivery: Delivery,
    console: Console,
    *,
    keep_rollouts: bool = False,
    resume: Path | None = None,
) -> ExitCode:
    """Train with each arm's engine as the rollout backend, and judge the curves.

    With `resume`, the directory of an interrupted run, its finished runs are kept.
    """
    delivery.check()
    engines = check(config)
    training = arms.training_of(config)
    steps = problems(config, training)
    now = conditions.conditions(config, steps, fingerprint(config.model))
    if resume is not None:
        conditions.check_resumable(resume, now)
        _check_steps(resume, config, console)
    for notice in config_notices(config):
        console.warn(notice)
    prompts = [problem.prompt for step in steps for problem in step]
    with _directory(config, resume) as run:
        conditions.write(run.path, now)
        work = _Work(config, training, engines, run, console, keep_rollouts, prompts)
        shown = _run_all(work, steps)
        run.write(files.REPORT, render(shown, "json"))
        run.write(files.PAGE, render(shown, "html"))
    return deliver(shown, delivery, console)


def check(config: Config) -> Config:
    """The configuration with an engine for each arm. Raises ConfigError for one that cannot run."""
    config.check_no_adapter("train")
    arms.check(config)
    judgement(config)
    return arms.engines(config)


def check_inputs(config: Config) -> None:
    """Check the prompts before any engine starts. Raises InputError."""
    problems(config, arms.training_of(config))


def stored_config(directory: Path) -> Config:
    """The configuration of an interrupted run. Raises InputError for any other directory."""
    if not files.is_training(directory):
        what = "not a run of `train`" if directory.is_dir() else "no such directory"
        raise InputError(
            f"--resume {directory}: {what}",
            hint="pass the directory that the interrupted run named: "
            "parity-check train --resume runs/…",
        )
    return load_config(directory / "config.toml")


def report(directory: Path, delivery: Delivery, console: Console) -> ExitCode:
    """Render a finished run again. Raises InputError."""
    delivery.check()
    shown = stored(directory / files.REPORT, "training", lambda tree: document(read(tree)))
    return deliver(shown, delivery, console)


class _Directory(RunDirectory):
    """A run directory that says how to continue."""

    def _keep_partial(self) -> None:
        """Nothing: a run that was not finished begins again."""

    def _kept(self) -> str | None:
        found = sorted(path.name for path in self.path.glob("*.steps.jsonl"))
        if not found:
            return super()._kept()
        return (
            f"kept in {self.shown}: {', '.join(found)}; "
            f"to continue: parity-check train --resume {self.shown}"
        )


def _check_steps(directory: Path, config: Config, console: Console) -> None:
    """Raises InputError for steps that a run cannot have; a cut line is only said."""
    wanted = arms.training_of(config).steps
    for run in arms.runs(config):
        files.stored_steps(directory, run, wanted)
        if files.is_cut(directory, run):
            name = files.steps_name(run)
            console.warn(f"{name}: its last line was not finished, and does not count")


def _directory(config: Config, resume: Path | None) -> _Directory:
    if resume is None:
        return _Directory(Path(config.run.out), dump_config(config))
    return _Directory.reopen(resume)


@dataclass(frozen=True, slots=True)
class _Work:
    """What all runs of one invocation share."""

    config: Config
    training: Training
    engines: Config
    """The configuration with an engine for each arm."""
    directory: RunDirectory
    console: Console
    keep_rollouts: bool
    prompts: Sequence[Prompt]
    """Of all steps, in order."""

    def steps_of(self, run: Run) -> list[Step]:
        """What a run has recorded so far. Raises InputError."""
        return files.stored_steps(self.directory.path, run, self.training.steps)

    def is_finished(self, run: Run) -> bool:
        return len(self.steps_of(run)) == self.training.steps

    def plan(self, steps: Sequence[Sequence[Problem]], ids: Sequence[list[int]]) -> loop.Plan:
        size, own = self.training.prompts_per_step, self.config.weight_sync
        starts = range(0, len(ids), size)
        return loop.Plan(
            steps=[
                list(zip(step, ids[first : first + size], strict=True))
                for first, step in zip(starts, steps, strict=True)
            ],
            training=self.training,
            workload=self.config.workload,
            objective=objective_of(self.training),
            weights=self.directory.work / "weights",
            update=own.update if own else None,
            python_path=own.python_path if own else None,
        )


def _run_all(work: _Work, steps: Sequence[Sequence[Problem]]) -> Document:
    """Train every run that has not been, compare the arms, and judge."""
    training = work.training
    names = [FIRST, *training.arms, TRAINER]
    every = arms.runs(work.config)
    with session(work.engines, names, work.directory, work.console) as live:
        if not live.engines.resident:
            raise ConfigError(
                "training: the trainer and an engine are loaded at the same time, and do not fit "
                "on one device",
                hint="give them devices of their own (env.CUDA_VISIBLE_DEVICES), or lower "
                "engine_args.gpu_memory_utilization",
            )
        _check_pauses(live, work)
        _make_learner(live, work)
        stopped: dict[str, str] = {}

        def job(engine: Engine) -> EngineReport:
            learner = cast("WorkerEngine", engine)
            check_reading(live, learner)
            plan = work.plan(steps, requests.tokenize(learner, work.prompts))
            found = engine_report(TRAINER, learner.description, "prefill", None)
            _keep_engine(work, found, kept=any(work.is_finished(run) for run in every))
            clock = _Clock(len(every) * training.steps)
            for run in every:
                done = len(work.steps_of(run))
                if done < training.steps:
                    reason = _train(work, live, run, plan, learner, clock)
                    stopped.update({} if reason is None else {run.arm: reason})
                else:
                    clock.skip(done)
            return found

        trainer = live.engines.run({TRAINER: job})[TRAINER]
    compared = _compared(work) if training.compare else {}
    return document(_report(work, live, trainer, stopped, compared))


def _keep_engine(work: _Work, found: EngineReport, *, kept: bool) -> None:
    """Write an engine's description. Raises ConfigError if another recorded the kept steps."""
    directory = work.directory.path
    if kept:
        conditions.check_engine(files.stored_engine(directory, found.role), found)
    files.write_engine(directory, found)


def _check_pauses(live: Session, work: _Work) -> None:
    """Raises ConfigError for an engine whose weights cannot be updated in the arm's way."""
    for name, arm in arms.arms(work.config).items():
        pauses = live.engines.specs[name].pauses
        if pauses is not None and (reason := pauses.refusal(arm.mode, arm.clear_cache)):
            raise ConfigError(f"training.arms.{name}: {reason}")


def _make_learner(live: Session, work: _Work) -> None:
    """The trainer's forward pass becomes one that learns."""
    spec = cast("WorkerSpec", live.engines.specs[TRAINER])
    backend = "learner" if spec.backend == "transformers" else spec.backend
    learner = replace(spec, backend=backend, table=f"training.{TRAINER}")
    live.engines.exchange(learner, work.directory.path)


def _train(
    work: _Work,
    live: Session,
    run: Run,
    plan: loop.Plan,
    learner: WorkerEngine,
    clock: _Clock,
) -> str | None:
    """One run on an engine of its own; why it stopped, None if it took all steps."""
    directory = work.directory.path
    (directory / files.steps_name(run)).unlink(missing_ok=True)
    log_dir = directory / "logs" / f"{run.arm}-{run.seed}"
    log_dir.mkdir(parents=True, exist_ok=True)
    seeded = exchange(live, run.arm, arms.seeded(work.engines, run.seed), log_dir)
    arm = arms.arms(work.config)[run.arm]
    lag = arms.lag_of(arm, work.training)
    expected = [ids for step in plan.steps for _, ids in step]

    def job(started: Engine) -> None:
        engine = cast("WorkerEngine", started)
        check_reading(seeded, engine)
        own = {TRAINER: expected, run.arm: requests.tokenize(engine, work.prompts)}
        requests.check_same_ids(work.prompts, own, TRAINER, run.arm)
        found = engine_report(run.arm, engine.description, "decode", None)
        of_arm = [each for each in arms.runs(work.config) if each.arm == run.arm]
        _keep_engine(work, found, kept=any(work.is_finished(each) for each in of_arm))
        for step, samples in loop.train(run, arm, lag, plan, engine, learner):
            files.add_step(directory, run, step)
            if work.keep_rollouts:
                keep(seeded, directory, run, step.step, samples, engine, learner)
            left = clock.tick()
            live.activity.update(run.name, left, step.step + 1, work.training.steps)

    try:
        live.engines.run({run.arm: job})
    except EngineError as error:
        if error.kind not in STOPS or run.arm == FIRST:
            raise
        work.console.warn(f"{run.name} stopped: {error.message}")
        return error.message
    finally:
        live.engines.end(run.arm)
    return None


class _Clock:
    """How long the steps that are left will take, by those that were taken."""

    def __init__(self, steps: int) -> None:
        self._left, self._done, self._began = steps, 0, time.monotonic()

    def skip(self, steps: int) -> None:
        self._left -= steps

    def tick(self) -> str:
        self._left, self._done = self._left - 1, self._done + 1
        seconds = (time.monotonic() - self._began) / self._done * self._left
        return f"training, {max(1, round(seconds / 60))} min left" if self._left else "training"


def _compared(work: _Work) -> dict[str, Verdict]:
    """The verdict of the one-shot comparison of each arm's engine with the reference."""
    verdicts: dict[str, Verdict] = {}
    known: dict[str, Verdict] = {}
    for arm in work.training.arms:
        config = arms.one_shot(work.config, work.engines, arm)
        engine = config.candidate.model_dump_json()
        if engine not in known:  # arms may differ in their lag alone
            out = str(work.directory.path / files.COMPARED / arm)
            config = config.model_copy(update={"run": config.run.model_copy(update={"out": out})})
            work.console.say(f"comparing {arm} with the reference")
            found = comparison.run_engines(config, work.console, locator=None).full.verdict
            known[engine] = found or "inconclusive"
        verdicts[arm] = known[engine]
    return verdicts


def _report(
    work: _Work,
    live: Session,
    trainer: EngineReport,
    stopped: Mapping[str, str],
    compared: Mapping[str, Verdict],
) -> TrainingReport:
    directory, training = work.directory.path, work.training
    every = arms.runs(work.config)
    steps = [step for run in every for step in work.steps_of(run)]
    files.write_curves(directory, steps)
    known = arms.arms(work.config)
    return TrainingReport(
        head=head_of("training", work.config, live),
        trainer=trainer,
        arms=tuple(
            ArmReport(
                name=name,
                engine=files.stored_engine(directory, name),
                lag=arms.lag_of(arm, training),
                mode=arm.mode,
                clear_cache=arm.clear_cache,
                seeds=tuple(run.seed for run in every if run.arm == name),
                stopped=stopped.get(name),
                compared=compared.get(name),
            )
            for name, arm in known.items()
        ),
        wanted=training.steps,
        results=judge(steps, training, work.config.stats.confidence),
        steps=tuple(steps),
        notices=(*config_notices(work.config), *step_notices(steps)),
        artifacts=(files.REPORT, files.PAGE, files.CURVES, files.TABLE, "config.toml"),
    )
