"""Compose `compare` of more than two engines: record, evaluate with all, measure, report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from parity_check.comparison.analyse import judgement
from parity_check.comparison.matrix_analyse import analyse_matrix
from parity_check.config.load import dump_config
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines.base import Engine
from parity_check.errors import ConfigError, ExitCode
from parity_check.files import write_text
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import (
    Session,
    evaluation,
    repeat,
    sample_with_repeats,
    score_trace,
    session,
    tokenize_prompts,
)
from parity_check.report.deliver import Delivery
from parity_check.report.matrix import sentences
from parity_check.report.matrix.model import MatrixReport
from parity_check.report.matrix.renderers import RENDERERS
from parity_check.traces.prompts import read_workload
from parity_check.traces.run_files import evaluated_name, sampled_name


def compare(config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Every sampling engine's rollouts through every other engine."""
    judgement(config)
    _check_formats(delivery)
    delivery.check()
    samplers = config.workload.samplers()
    prompts = read_workload(config.workload)
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        with session(config, config.names, run, console) as live:
            ids = tokenize_prompts(live, prompts)
            sample = partial(sample_with_repeats, live, run.path, prompts, ids)
            live.engines.run(dict.fromkeys(samplers, sample))
            evaluate = partial(_evaluate, live, run.path, samplers)
            live.engines.run({name: evaluate for name in config.names if set(samplers) - {name}})
        report = analyse_matrix(run.path, config)
        run.write("report.json", RENDERERS["json"](report))
    return deliver(report, delivery, console)


def report(run: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Render and judge a finished run again, by the limits of `config`; the run stays as it is."""
    judgement(config)
    _check_formats(delivery)
    delivery.check()
    return deliver(analyse_matrix(run, config), delivery, console)


def _check_formats(delivery: Delivery) -> None:
    for name in (delivery.format, *delivery.write.values()):
        if name not in RENDERERS:
            known = ", ".join(RENDERERS)
            raise ConfigError(f"{name}: a comparison of more than two engines has {known}")


def deliver(report: MatrixReport, delivery: Delivery, console: Console) -> ExitCode:
    """Print and write the report; returns the exit code."""
    for path, format in delivery.write.items():
        write_text(path, RENDERERS[format](report))
    quiet = console.verbosity < 0 and delivery.format == "text"
    console.data(sentences.verdict_line(report) if quiet else RENDERERS[delivery.format](report))
    if delivery.exit_zero:
        return ExitCode.PARITY
    inconclusive = report.exit_code is ExitCode.INCONCLUSIVE
    return delivery.inconclusive if inconclusive else report.exit_code


def _evaluate(session: Session, directory: Path, samplers: Sequence[str], engine: Engine) -> None:
    """The others' rollouts on this engine; its A/A runs too where it sampled nothing itself."""
    name = engine.spec.role
    evaluated = []
    for sampler in samplers:
        if sampler != name:
            evaluated.append(directory / evaluated_name(sampler, name))
            source = directory / sampled_name(sampler)
            score_trace(session, evaluation(engine), source, evaluated[-1], engine)
    if name not in samplers:
        repeat(session, evaluated[0], directory, engine)
