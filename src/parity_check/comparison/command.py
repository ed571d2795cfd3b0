"""Compose a command: the only place that wires configuration, engines, traces and reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import tomli_w

from parity_check.comparison import matrix_command
from parity_check.comparison.analyse import analyse, analyse_pair, judgement
from parity_check.comparison.illustrate import illustrate, illustrate_pair
from parity_check.comparison.report import ParityReport
from parity_check.config.load import dump_config
from parity_check.config.models import OTHER, ROLES, Config, Judging, Role
from parity_check.console import Console
from parity_check.engines.base import Engine
from parity_check.engines.endpoint.engine import check_evaluation
from parity_check.engines.environment import environment
from parity_check.errors import ConfigError, ExitCode
from parity_check.files import check_writable, whole, write_text
from parity_check.recording.requests import LogprobOperation
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import (
    Session,
    check_model,
    evaluation,
    record_trace,
    repeat,
    replay_with_repeats,
    sample_with_repeats,
    score_trace,
    session,
    tokenize_prompts,
)
from parity_check.report import github, sentences
from parity_check.report.deliver import Delivery, append_step_summary
from parity_check.report.renderers import RENDERERS
from parity_check.traces import checkpoint
from parity_check.traces.prompts import read_workload
from parity_check.traces.run_files import WORKLOAD_NAME, replayed_name, sampled_name
from parity_check.traces.trace import Trace, check_vocabulary, read_header

FOR_TWO = "a stored trace is compared by two engines: leave out [engines]"


def compare(
    config: Config, delivery: Delivery, console: Console, reference_trace: Path | None = None
) -> ExitCode:
    """Record, replay, measure, report: the main job.

    With `reference_trace`, a trace recorded earlier stands in for the reference engine.
    """
    judgement(config)
    if config.engines:
        if reference_trace is not None:
            raise ConfigError(FOR_TWO)
        return matrix_command.compare(config, delivery, console)
    delivery.check()
    stored = reference_trace is not None
    roles: tuple[Role, ...] = ("candidate",) if stored else ROLES
    samplers: tuple[Role, ...] = ("reference",) if stored else config.workload.samplers()
    prompts = [] if stored else read_workload(config.workload)
    stored_sampling = None if reference_trace is None else read_header(reference_trace).sampling
    for role in samplers:
        check_evaluation(OTHER[role], "replay", config, stored_sampling)
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        if reference_trace is not None:
            _copy(reference_trace, run.path / sampled_name("reference"))
        with session(config, roles, run, console) as live:
            if reference_trace is not None:
                check_model(live.model, reference_trace)
            ids = tokenize_prompts(live, prompts)
            live.engines.run(
                {
                    role: partial(sample_with_repeats, live, run.path, prompts, ids)
                    for role in samplers
                    if role in roles
                }
            )
            live.engines.run(
                {
                    OTHER[role]: partial(_evaluate, live, run.path, samplers, role)
                    for role in samplers
                }
            )
        report = replace(analyse(run.path, config), illustration=illustrate(run.path, config))
        run.write("report.json", RENDERERS["json"](report))
        run.write("report.html", RENDERERS["html"](report))
    return deliver(report, delivery, console)


def compare_on(workload: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Replay the tokens of a stored trace through both engines, and compare the two.

    The trace is kept beside the replays, so that its own logprobs can be compared with each.
    """
    judgement(config)
    if config.engines:
        raise ConfigError(FOR_TWO)
    delivery.check()
    written = checkpoint.read_config(checkpoint.locate_model(config.model))
    size = None if written is None else checkpoint.vocabulary_size(written)
    check_vocabulary(Trace(workload).samples(), size, str(workload))
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        source = run.path / WORKLOAD_NAME
        _copy(workload, source)
        replays = {"reference": sampled_name("reference"), "candidate": replayed_name("reference")}
        with session(config, ROLES, run, console) as live:
            check_model(live.model, workload)
            tokenize_prompts(live, [])
            live.engines.run(
                {
                    role: partial(
                        replay_with_repeats, live, source, run.path / replays[role], run.path
                    )
                    for role in ROLES
                }
            )
        report = analyse(run.path, config)
        run.write("report.json", RENDERERS["json"](report))
    return deliver(report, delivery, console)


def compare_traces(
    behaviour: Path, evaluating: Path, judging: Judging, delivery: Delivery, console: Console
) -> ExitCode:
    """Compare two stored traces, one replayed from the other; no engine is needed."""
    judgement(judging)
    delivery.check()
    report = analyse_pair(behaviour, evaluating, judging)
    if delivery.draws():
        report = replace(report, illustration=illustrate_pair(behaviour, evaluating, judging))
    return deliver(report, delivery, console)


def report(run: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Render and judge a finished run again, by the limits of `config`; the run stays as it is."""
    judgement(config)
    if config.engines:
        return matrix_command.report(run, config, delivery, console)
    delivery.check()
    report = analyse(run, config)
    if delivery.draws():
        report = replace(report, illustration=illustrate(run, config))
    return deliver(report, delivery, console)


def deliver(report: ParityReport, delivery: Delivery, console: Console) -> ExitCode:
    """Print and write a report; returns the exit code. On GitHub Actions, annotate as well."""
    for path, format in delivery.write.items():
        write_text(path, RENDERERS[format](report))
    quiet = console.verbosity < 0 and delivery.format == "text"
    show = console.commands if delivery.format == "github" else console.data
    show(sentences.verdict_line(report) if quiet else RENDERERS[delivery.format](report))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        _annotate(report, delivery, console)
    if delivery.exit_zero:
        return ExitCode.PARITY
    inconclusive = report.exit_code is ExitCode.INCONCLUSIVE
    return delivery.inconclusive if inconclusive else report.exit_code


def _annotate(report: ParityReport, delivery: Delivery, console: Console) -> None:
    """Annotations where stdout is for people, and the step summary in any case."""
    if delivery.format == "text":
        console.commands(github.render(report))
    append_step_summary(RENDERERS["markdown"](report))


def _evaluate(
    session: Session,
    directory: Path,
    samplers: Sequence[Role],
    sampler: Role,
    engine: Engine,
) -> None:
    """The other engine's rollouts on this one; its A/A runs too where it sampled nothing itself."""
    replayed = directory / replayed_name(sampler)
    operation = evaluation(engine)
    score_trace(session, operation, directory / sampled_name(sampler), replayed, engine)
    if OTHER[sampler] not in samplers:
        repeat(session, replayed, directory, engine)


def record(config: Config, role: str, path: Path, console: Console) -> None:
    """Sample rollouts with one engine into a trace."""
    config.engine(role)
    check_writable(path)
    prompts = read_workload(config.workload)
    with (
        RunDirectory(Path(config.run.out), dump_config(config)) as run,
        session(config, [role], run, console) as live,
    ):
        ids = tokenize_prompts(live, prompts)
        job = partial(record_trace, live, prompts, ids, path)
        header = live.engines.run({role: job})[role]
    console.say(f"wrote {path}: {header.samples} samples, {header.tokens} tokens")


def replay(
    config: Config,
    role: str,
    operation: LogprobOperation,
    source: Path,
    path: Path,
    console: Console,
) -> None:
    """Put a trace's tokens through one engine, into another trace."""
    check_evaluation(role, operation, config, read_header(source).sampling, exactly=True)
    check_writable(path)
    with (
        RunDirectory(Path(config.run.out), dump_config(config)) as run,
        session(config, [role], run, console) as live,
    ):
        check_model(live.model, source)
        job = partial(score_trace, live, operation, source, path)
        header = live.engines.run({role: job})[role]
    console.say(f"wrote {path}: {header.samples} samples, {header.tokens} tokens")


def dry_run(config: Config, console: Console) -> None:
    """Print the resolved configuration and say what would be provisioned."""
    judgement(config)
    for role in config.names:
        engine = config.engine(role)
        if engine.kind != "fake":
            plan = environment.plan(
                python=engine.python,
                requirement=engine.requirement,
                cache=environment.default_cache(),
                needs_vllm=engine.kind == "vllm",
            )
            console.say(f"{role}: {plan.state}, {plan.location}")
        elif engine.endpoint is not None:
            console.say(f"{role}: {engine.endpoint.base_url}, which is not asked now")
    console.data(tomli_w.dumps(dump_config(config)))


def _copy(source: Path, target: Path) -> None:
    with whole(target) as partial:
        shutil.copyfile(source, partial)
