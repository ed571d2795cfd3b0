"""`compare` with engines: record, replay, analyse, deliver."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from parity_check.comparison import located
from parity_check.comparison.analyse import analyse
from parity_check.comparison.document import document
from parity_check.comparison.document.brief import brief
from parity_check.comparison.judgement import Judgement, judgement
from parity_check.comparison.located import Locator
from parity_check.comparison.looks import Looks, looks, one_look, progress, sentences, settled
from parity_check.comparison.pictures.gather import gather
from parity_check.comparison.plan import plan, stored_plan
from parity_check.config.engines import Settings, VllmTable
from parity_check.config.load import dump_config
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines.base import Engine
from parity_check.engines.kinds import configured_engine
from parity_check.errors import ConfigError, EngineError, ExitCode, InputError
from parity_check.files import whole
from parity_check.recording.further import finish_join, join, place_of
from parity_check.recording.recorder import (
    evaluation,
    repeat,
    repeats_of,
    replay_with_repeats,
    sample_with_repeats,
    score_trace,
)
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import (
    Session,
    check_model,
    fingerprint,
    session,
    tokenize_prompts,
)
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.document import Document
from parity_check.report.renderers import render
from parity_check.traces import checkpoint, manifest
from parity_check.traces.manifest import Manifest, Part
from parity_check.traces.prompts import check_clusters, fixed_number_needed, read_workload
from parity_check.traces.run_files import WORKLOAD_NAME, evaluated_name, sampled_name
from parity_check.traces.trace import Trace, check_vocabulary, read_header

REFERENCE = "reference"


class ComparisonDirectory(RunDirectory):
    """The run directory of a comparison, which can be continued."""

    def _kept(self) -> str | None:
        kept = super()._kept()
        if kept is None or not (self.path / manifest.MANIFEST).exists():
            return kept
        return f"{kept}; to continue: parity-check compare --resume {self.shown}"


class Compared(NamedTuple):
    """The report of a comparison, and what a terminal shows of it."""

    full: Document
    brief: Document


def compare(
    config: Config,
    delivery: Delivery,
    console: Console,
    locator: Locator,
    reference_trace: Path | None = None,
) -> ExitCode:
    """Sample with every sampling engine, evaluate with all others, measure, report.

    With `reference_trace`, a trace recorded earlier replaces the reference engine. While the
    engines are loaded, `locator` asks where inside the model they part, if that is configured.
    """
    judgement(config)
    delivery.check()
    found = run_engines(config, console, locator, reference_trace)
    return deliver(found.full, delivery, console, found.brief)


def resume(
    directory: Path, config: Config, delivery: Delivery, console: Console, locator: Locator
) -> ExitCode:
    """Record what an interrupted comparison lacks, then report.

    `config` is that of the run. Raises InputError for a run that cannot be continued.
    """
    judgement(config)
    delivery.check()
    finish_join(directory)
    begun = manifest.read_manifest(directory)
    if begun is None:
        raise InputError(
            f"{directory}: not an interrupted run of `compare`: it has no {manifest.MANIFEST}",
            hint="pass the directory that the interrupted run named",
        )
    if begun.finished and config.workload.num_prompts != "enough":
        raise InputError(
            f"{directory}: the run is finished", hint=f"parity-check report {directory}"
        )
    run = ComparisonDirectory.reopen(directory)
    if (run.path / WORKLOAD_NAME).exists():
        found = _run_on(run.path / WORKLOAD_NAME, config, console, (run, begun))
    else:
        stored = run.path / sampled_name(REFERENCE)
        theirs = stored.exists() and read_header(stored).run_id != begun.run_id
        found = run_engines(
            config, console, locator, stored if theirs else None, continued=(run, begun)
        )
    for superseded in run.path.glob("*.partial.jsonl"):
        superseded.unlink()
    return deliver(found.full, delivery, console, found.brief)


def run_engines(
    config: Config,
    console: Console,
    locator: Locator | None,
    reference_trace: Path | None = None,
    continued: tuple[RunDirectory, Manifest] | None = None,
) -> Compared:
    """The same without the delivery: everything that the run recorded is in its directory.

    `continued` is the directory of an interrupted run, and what it was to record.
    """
    planned = check(config, console, reference_trace)
    names, samplers = _engines(config, reference_trace)
    evaluators = _evaluators(names, samplers)
    repeats = {name: repeats_of(config, name) for name in names}
    with _directory(config, continued) as run:
        parts = manifest.parts_of(config.names, samplers, repeats)
        first = _begin(run, parts, continued)
        if reference_trace is not None:
            _copy(reference_trace, run.path / sampled_name(REFERENCE))
        with _session(config, names, run, console, continued) as live:
            ids = tokenize_prompts(live, planned.prompts)
            asks = locator is not None and _asks(live, locator, console)
            decided = first > 0 and _decided(run.path, config, planned, first - 1, console)
            for look in range(len(planned.ends) if decided else first, len(planned.ends)):
                place = place_of(run.path, look + 1)
                place.mkdir(exist_ok=True)
                turns = planned.turns(look)
                prompts = [planned.prompts[turn] for turn in turns]
                sample = partial(
                    sample_with_repeats, live, place, prompts, [ids[turn] for turn in turns],
                    earlier=planned.earlier(look),
                    sampled_is=partial(_check_sampled, config, planned, console),
                )  # fmt: skip
                live.engines.run({name: sample for name in samplers if name in names})
                evaluate = partial(_evaluate, live, place, samplers)
                live.engines.run(dict.fromkeys(evaluators, evaluate))
                if look:
                    join(run.path, parts, look + 1)
                else:
                    manifest.finish(run.path)
                if len(planned.ends) > 1 and _decided(run.path, config, planned, look, console):
                    break
            if locator is not None and asks and _wanted(run.path, config):
                _locate(live, run.path, run.path / sampled_name(samplers[0]), locator, console)
        return _finish(run, config)


def compare_on(workload: Path, config: Config, delivery: Delivery, console: Console) -> ExitCode:
    """Replay the tokens of a stored trace on every engine, and compare the engines.

    The trace is kept in the run, so that its own logprobs can be compared with each engine's.
    """
    delivery.check()
    found = _run_on(workload, config, console)
    return deliver(found.full, delivery, console, found.brief)


def _run_on(
    workload: Path,
    config: Config,
    console: Console,
    continued: tuple[RunDirectory, Manifest] | None = None,
) -> Compared:
    check_on(workload, config, console)
    repeats = {name: repeats_of(config, name) for name in config.names}
    with _directory(config, continued) as run:
        _begin(run, manifest.parts_of(config.names, (REFERENCE,), repeats), continued)
        source = run.path / WORKLOAD_NAME
        _copy(workload, source)
        with _session(config, config.names, run, console, continued) as live:
            tokenize_prompts(live, [])
            live.engines.run(
                {
                    name: partial(replay_with_repeats, live, source, run.path / file, run.path)
                    for name in config.names
                    for file in [_replay_of_workload(name)]
                }
            )
        manifest.finish(run.path)
        return _finish(run, config)


def _directory(config: Config, continued: tuple[RunDirectory, Manifest] | None) -> RunDirectory:
    if continued is not None:
        return continued[0]
    return ComparisonDirectory(Path(config.run.out), dump_config(config))


def _begin(
    run: RunDirectory, parts: Sequence[Part], continued: tuple[RunDirectory, Manifest] | None
) -> int:
    """Write what the run will record. Returns the looks that it has. Raises InputError."""
    if continued is None:
        manifest.begin(run.path, run.id, parts)
        return 0
    begun = continued[1]
    if begun.parts != tuple(parts):
        raise InputError(
            f"{run.shown}: the run was to record other traces than its config.toml asks for",
            hint="a run is continued with the configuration that began it",
        )
    return begun.looks if begun.finished else 0


def _session(
    config: Config,
    names: Sequence[str],
    run: RunDirectory,
    console: Console,
    continued: tuple[RunDirectory, Manifest] | None,
) -> AbstractContextManager[Session]:
    """A session; of a continued run with another seed.

    Engines that begin again with the seed of the run would draw new samples with the random numbers
    of those that it has.
    """
    if continued is not None:
        drawn = sum(read_header(path).samples for path in run.path.rglob("*.parquet"))
        workload = config.workload.model_copy(update={"seed": config.workload.seed + drawn})
        config = config.model_copy(update={"workload": workload})
    return session(config, names, run, console, continued=continued is not None)


def check(config: Config, console: Console, reference_trace: Path | None = None) -> Looks:
    """Check a comparison before any engine starts, and print what it can decide.

    Returns the looks at its prompts; of a recorded reference none. Raises ConfigError, InputError.
    """
    how = judgement(config)
    if config.diagnosis.locate is True:
        config.check_no_adapter("diagnosis.locate")
    if reference_trace is not None:
        _check_stored(reference_trace, config, how, console)
    planned = one_look([]) if reference_trace is not None else _plan(config, how, console)
    stated = {} if reference_trace is None else read_header(reference_trace).sampling
    names, samplers = _engines(config, reference_trace)
    for name in samplers:
        if name in names:
            configured_engine(name, config).check_sampling()
    for name in _evaluators(names, samplers):
        configured_engine(name, config).check_evaluation(stated)
    return planned


def check_on(workload: Path, config: Config, console: Console) -> None:
    """The same for engines that replay a stored trace."""
    _check_stored(workload, config, judgement(config), console)
    written = checkpoint.read_config(checkpoint.locate_model(config.model))
    size = None if written is None else checkpoint.vocabulary_size(written)
    check_vocabulary(Trace(workload).samples(), size, str(workload))


def _engines(
    config: Config, reference_trace: Path | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The engines that are started, and those whose rollouts are compared."""
    if reference_trace is None:
        return config.names, config.workload.samplers()
    return tuple(name for name in config.names if name != REFERENCE), (REFERENCE,)


def _evaluators(names: Sequence[str], samplers: Sequence[str]) -> list[str]:
    """The engines that evaluate rollouts of another one."""
    return [name for name in names if set(samplers) - {name}]


def _plan(config: Config, how: Judgement, console: Console) -> Looks:
    """The looks at the configured workload; prints what it can decide. Raises ConfigError."""
    prompts = read_workload(config.workload, looks=True)
    check_clusters(prompts, config)
    size = plan(prompts, config, how)
    planned = looks(prompts, config, size)
    for sentence in sentences(planned, size, config, how):
        console.say(f"plan: {sentence}")
    _say_settings(config, console)
    return planned


def _say_settings(config: Config, console: Console) -> None:
    """Which settings of the candidate are parity-check's choice: an engine as it comes may differ.

    Who compares an upgrade with the settings that prevent a fault does not see the fault.
    """
    candidate = config.candidate
    if not isinstance(candidate, VllmTable):
        return
    ours = Settings.model_fields.keys() - candidate.settings.model_fields_set
    if ours:
        names = ", ".join(name for name in Settings.model_fields if name in ours)
        console.say(
            f"settings: the candidate gets parity-check's {names}, whatever its defaults are; to "
            "compare it as it comes: --set candidate.settings.NAME=default"
        )


def _check_sampled(config: Config, planned: Looks, console: Console, trace: Path) -> None:
    """Warn before the replays where the samples ended too early for gates that the plan had."""
    if len(planned.ends) > 1:
        return  # after every look, its open gates are printed
    how = judgement(config)
    before = plan(planned.prompts, config, how)
    found = replace(stored_plan(Trace(trace), how), source="sampled", greedy=before.greedy)
    if found.open() - before.open():
        mean = found.tokens / found.samples
        console.warn(
            f"{trace.stem}: samples have {mean:.0f} tokens on average, of at most "
            f"{config.workload.max_tokens}: {found.sentence()}"
        )


def _check_stored(trace: Path, config: Config, how: Judgement, console: Console) -> None:
    """Check its model, and print what it can decide. Raises ConfigError, InputError."""
    check_model(fingerprint(config.model), trace)
    if config.workload.num_prompts == "enough":
        raise fixed_number_needed()
    console.say(f"plan: {stored_plan(Trace(trace), how).sentence()}")


def _decided(directory: Path, config: Config, planned: Looks, look: int, console: Console) -> bool:
    """Judge a look, and print how far it is."""
    report = analyse(directory, config)
    samples = planned.ends[look] * config.workload.samples_per_prompt
    console.say(progress(look + 1, planned, samples, report.gates))
    return settled(report.gates)


def _asks(live: Session, locator: Locator, console: Console) -> bool:
    """Whether the engines can be asked where they part. Raises ConfigError where they must be."""
    wanted = live.config.diagnosis.locate
    if wanted is False:
        return False
    reason = locator.why_not(live)
    if reason is not None and wanted is True:
        raise ConfigError(
            f"diagnosis.locate: {reason}",
            hint="set enforce_eager = true in the engine_args, or locate = false",
        )
    if reason is not None:
        console.detail(f"diagnosis.locate: not after drift: {reason}")
    return reason is None


def _wanted(directory: Path, config: Config) -> bool:
    return config.diagnosis.locate is True or analyse(directory, config).verdict == "drift"


def _locate(
    live: Session, directory: Path, trace: Path, locator: Locator, console: Console
) -> None:
    """Keep in the run where the engines part; after drift, it is no loss if they do not say."""
    try:
        located.write(directory, locator.locate(live, trace))
    except EngineError as error:
        if live.config.diagnosis.locate is True:
            raise
        console.warn(f"diagnosis.locate: {error.message}")


def _finish(run: RunDirectory, config: Config) -> Compared:
    """Analyse a recorded run, and store its report and page."""
    report = analyse(run.path, config)
    found = document(replace(report, pictures=gather(run.path, config)))
    run.write("report.json", render(found, "json"))
    run.write("report.html", render(found, "html"))
    return Compared(found, brief(report, run.shown))


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
    if source == target:
        return  # a continued run has it
    with whole(target) as partial:
        shutil.copyfile(source, partial)
