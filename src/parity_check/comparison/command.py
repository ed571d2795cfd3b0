"""`compare` with engines: record, replay, analyse, deliver."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import tomli_w

from parity_check.comparison.analyse import analyse
from parity_check.comparison.document import document
from parity_check.comparison.document.brief import brief
from parity_check.comparison.judgement import judgement
from parity_check.comparison.pictures.gather import gather
from parity_check.comparison.plan import plan
from parity_check.config.load import dump_config
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines.base import Engine
from parity_check.engines.kinds import configured_engine
from parity_check.errors import ExitCode
from parity_check.files import whole
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import (
    Session,
    check_model,
    evaluation,
    repeat,
    repeats_of,
    replay_with_repeats,
    sample_with_repeats,
    score_trace,
    session,
    tokenize_prompts,
)
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.renderers import render
from parity_check.traces import checkpoint, manifest
from parity_check.traces.prompts import check_clusters, read_workload
from parity_check.traces.run_files import WORKLOAD_NAME, evaluated_name, sampled_name
from parity_check.traces.trace import Trace, check_vocabulary, read_header

REFERENCE = "reference"


def compare(
    config: Config, delivery: Delivery, console: Console, reference_trace: Path | None = None
) -> ExitCode:
    """Sample with every sampling engine, evaluate with all others, measure, report.

    With `reference_trace`, a trace recorded earlier replaces the reference engine.
    """
    how = judgement(config)
    delivery.check()
    stored = reference_trace is not None
    names = tuple(name for name in config.names if not (stored and name == REFERENCE))
    samplers = (REFERENCE,) if stored else config.workload.samplers()
    prompts = [] if stored else read_workload(config.workload)
    if prompts:
        check_clusters(prompts, config)
        console.say(f"plan: {plan(prompts, config, how).sentence()}")
    stated = {} if reference_trace is None else read_header(reference_trace).sampling
    evaluators = [name for name in names if set(samplers) - {name}]
    for name in samplers:
        if name in names:
            configured_engine(name, config).check_sampling()
    for name in evaluators:
        configured_engine(name, config).check_evaluation(stated)
    repeats = {name: repeats_of(config, name) for name in names}
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        manifest.begin(run.path, run.id, manifest.parts_of(config.names, samplers, repeats))
        if reference_trace is not None:
            _copy(reference_trace, run.path / sampled_name(REFERENCE))
        with session(config, names, run, console) as live:
            if reference_trace is not None:
                check_model(live.model, reference_trace)
            ids = tokenize_prompts(live, prompts)
            sample = partial(sample_with_repeats, live, run.path, prompts, ids)
            live.engines.run({name: sample for name in samplers if name in names})
            evaluate = partial(_evaluate, live, run.path, samplers)
            live.engines.run(dict.fromkeys(evaluators, evaluate))
        return _finish(run, config, delivery, console)


def compare_on(workload: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Replay the tokens of a stored trace on every engine, and compare the engines.

    The trace is kept in the run, so that its own logprobs can be compared with each engine's.
    """
    judgement(config)
    delivery.check()
    written = checkpoint.read_config(checkpoint.locate_model(config.model))
    size = None if written is None else checkpoint.vocabulary_size(written)
    check_vocabulary(Trace(workload).samples(), size, str(workload))
    repeats = {name: repeats_of(config, name) for name in config.names}
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        parts = manifest.parts_of(config.names, (REFERENCE,), repeats)
        manifest.begin(run.path, run.id, parts)
        source = run.path / WORKLOAD_NAME
        _copy(workload, source)
        with session(config, config.names, run, console) as live:
            check_model(live.model, workload)
            tokenize_prompts(live, [])
            live.engines.run(
                {
                    name: partial(replay_with_repeats, live, source, run.path / file, run.path)
                    for name in config.names
                    for file in [_replay_of_workload(name)]
                }
            )
        return _finish(run, config, delivery, console)


def dry_run(config: Config, console: Console) -> None:
    """Print the resolved configuration and what would be provisioned."""
    judgement(config)
    for role in config.names:
        engine = configured_engine(role, config)
        plan = engine.plan()
        console.say(
            f"{role}: {engine.headline if plan is None else f'{plan.state}, {plan.location}'}"
        )
    console.data(tomli_w.dumps(dump_config(config)))


def _finish(run: RunDirectory, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Analyse a recorded run, store its report and page, and deliver the report."""
    manifest.finish(run.path)
    report = analyse(run.path, config)
    found = document(replace(report, pictures=gather(run.path, config)))
    run.write("report.json", render(found, "json"))
    run.write("report.html", render(found, "html"))
    return deliver(found, delivery, console, brief(report, run.shown))


def _evaluate(session: Session, directory: Path, samplers: Sequence[str], engine: Engine) -> None:
    """Evaluate the others' rollouts, and make the A/A runs of an engine that did not sample."""
    name = engine.spec.role
    evaluated = []
    for sampler in samplers:
        if sampler != name:
            evaluated.append(directory / evaluated_name(sampler, name))
            source = directory / sampled_name(sampler)
            score_trace(session, evaluation(engine), source, evaluated[-1], engine)
    if name not in samplers:
        repeat(session, evaluated[0], directory, engine)


def _replay_of_workload(name: str) -> str:
    """The reference's replay replaces rollouts: all other engines are compared with it."""
    return sampled_name(name) if name == REFERENCE else evaluated_name(REFERENCE, name)


def _copy(source: Path, target: Path) -> None:
    with whole(target) as partial:
        shutil.copyfile(source, partial)
