"""Engine sessions: provision and start engines, and record traces with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from parity_check.config.load import dump_config
from parity_check.config.models import SHAPING, Config, ModelConfig, Workload
from parity_check.console import Activity, Console
from parity_check.engines.base import ConfiguredEngine, Engine, Interpreter, Progress
from parity_check.engines.environment.environment import (
    Environment,
    check_installable,
    default_cache,
)
from parity_check.engines.kinds import configured_engine
from parity_check.engines.pool import EnginePool
from parity_check.engines.side_by_side import side_by_side
from parity_check.errors import TraceMismatchError
from parity_check.recording import requests
from parity_check.recording.requests import LogprobOperation
from parity_check.recording.run_directory import RunDirectory
from parity_check.traces import checkpoint, provenance
from parity_check.traces.engine import LogprobPath
from parity_check.traces.prompts import Prompt
from parity_check.traces.run_files import repeat_name, sampled_name
from parity_check.traces.trace import Trace, TraceHeader, read_header, write_trace

PATH_OF: Mapping[LogprobOperation, LogprobPath] = {"replay": "decode", "rescore": "prefill"}


@dataclass(frozen=True, slots=True)
class Session:
    """The context of a command with engines."""

    config: Config
    run_id: str
    created_utc: str
    model_path: str
    model: dict[str, Any]
    engines: EnginePool
    environments: Mapping[str, Environment | None]
    activity: Activity


@contextmanager
def session(
    config: Config, roles: Sequence[str], run: RunDirectory, console: Console
) -> Iterator[Session]:
    """Provision environments and yield a session; closes all engines at the end."""
    model_path = checkpoint.locate_model(config.model)
    with console.activity() as activity:
        engines = [configured_engine(role, config) for role in roles]
        for each in engines:
            each.check_start(model_path)
        needed = [each.interpreter for each in engines if each.interpreter is not None]
        requirements = [each.requirement for each in needed if each.requirement is not None]
        if requirements:
            check_installable(requirements, default_cache(), console.say)
        environments = _environments(engines, activity, console)
        specs = {each.role: each.spec(model_path, environments[each.role]) for each in engines}
        by_role = {each.role: each for each in engines}
        mend = partial(_mended, by_role, environments, activity, console)
        with EnginePool(
            specs,
            run.work,
            run.path,
            config.run.stall_timeout_s,
            partial(_progress_of, activity),
            mend,
        ) as pool:
            yield Session(
                config=config,
                run_id=run.id,
                created_utc=run.created.isoformat(timespec="seconds"),
                model_path=model_path,
                model=fingerprint(config.model),
                engines=pool,
                environments=environments,
                activity=activity,
            )


def exchange(session: Session, role: str, config: Config, log_dir: Path) -> Session:
    """The session with a new configuration of one engine, which starts with its next job."""
    engine = configured_engine(role, config)
    spec = engine.spec(session.model_path, session.environments[role])
    session.engines.exchange(spec, log_dir)
    return replace(session, config=config)


def _environments(
    engines: Sequence[ConfiguredEngine[Any]], activity: Activity, console: Console
) -> dict[str, Environment | None]:
    """The environments by role, made side by side: one compiles while another downloads.

    Engines with the same interpreter share one.
    """
    first: dict[Interpreter | None, ConfiguredEngine[Any]] = {}
    for each in engines:
        first.setdefault(_place(each), each)
    found = side_by_side(
        {
            place: partial(each.resolve, partial(activity.update, each.role))
            for place, each in first.items()
        }
    )
    environments = {each.role: found[_place(each)] for each in engines}
    for role, environment in environments.items():
        for note in environment.notes if environment is not None else ():
            console.detail(f"{role}: {note}")
    return environments


def _place(engine: ConfiguredEngine[Any]) -> Interpreter | None:
    """Its interpreter; one that is provisioned has vllm, whether the engine needs it or not."""
    found = engine.interpreter
    return found if found is None or found.python else found._replace(needs_vllm=True)


def _mended(
    engines: Mapping[str, ConfiguredEngine[Any]],
    environments: dict[str, Environment | None],
    activity: Activity,
    console: Console,
    role: str,
) -> bool:
    """Rebuild a damaged environment in place. Returns whether it was damaged."""
    damaged = environments[role]
    if damaged is None:
        return False
    mended = engines[role].mend(damaged, partial(activity.update, role))
    if mended is None:
        return False
    console.warn(f"the {role}'s environment: {mended.notes[-1]}")
    environments[role] = mended
    return True


def _progress_of(activity: Activity, role: str) -> Progress:
    return lambda operation, done, total: activity.update(role, operation, done, total)


def tokenize_prompts(session: Session, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Start all engines, check how they read the model, tokenize, and check that they agree."""

    def job(engine: Engine) -> list[list[int]]:
        check_reading(session, engine)
        return requests.tokenize(engine, prompts)

    ids = session.engines.run(dict.fromkeys(session.engines.specs, job))
    first, *others = ids
    for other in others:
        requests.check_same_ids(prompts, ids, first, other)
    return ids[first]


def check_reading(session: Session, engine: Engine) -> None:
    """Check that a started engine reads the checkpoint's configuration correctly."""
    written = checkpoint.read_config(session.model_path)
    if written is not None:
        role = engine.spec.role
        checkpoint.check_reading(
            role,
            engine.description,
            session.config.body_dtype(role),
            written,
            session.config.engine(role).model_overrides,
        )


def fingerprint(config: ModelConfig) -> dict[str, Any]:
    """The fingerprint of the configured model, for traces."""
    return provenance.model_fingerprint(checkpoint.locate_model(config), config.revision)


def check_model(loaded: Mapping[str, Any], source: Path) -> None:
    """Check that a trace is of this model. Raises TraceMismatchError."""
    recorded = read_header(source).model
    for key in recorded:
        if recorded[key] != loaded.get(key):
            raise TraceMismatchError(
                f"{source} was recorded with another model: {key}: {recorded[key]} ≠ "
                f"{loaded.get(key)}"
            )


def replay_with_repeats(
    session: Session, source: Path, path: Path, directory: Path, engine: Engine
) -> None:
    """Replay a trace's tokens on an engine, and make its A/A runs."""
    score_trace(session, "replay", source, path, engine)
    repeat(session, path, directory, engine)


def sample_with_repeats(
    session: Session,
    directory: Path,
    prompts: Sequence[Prompt],
    token_ids: Sequence[list[int]],
    engine: Engine,
    earlier: Iterable[Prompt] = (),
) -> None:
    """Sample an engine's own rollouts, and make its A/A runs."""
    role = engine.spec.role
    sampled = directory / sampled_name(role)
    record_trace(session, prompts, token_ids, sampled, engine, earlier)
    repeat(session, sampled, directory, engine)


def repeats_of(config: Config, name: str) -> int:
    """The number of A/A runs of an engine: none for a server, which cannot replay tokens."""
    return config.workload.repeats if configured_engine(name, config).can.repeats else 0


def repeat(session: Session, source: Path, directory: Path, engine: Engine) -> None:
    """Make an engine's A/A runs on a trace."""
    for number in range(1, repeats_of(session.config, engine.spec.role) + 1):
        path = directory / repeat_name(engine.spec.role, number)
        score_trace(session, evaluation(engine), source, path, engine, shuffle=number)


def evaluation(engine: Engine) -> LogprobOperation:
    """How an engine evaluates given tokens."""
    return "rescore" if engine.spec.can.evaluates_by == "prefill" else "replay"


def record_trace(
    session: Session,
    prompts: Sequence[Prompt],
    token_ids: Sequence[list[int]],
    path: Path,
    engine: Engine,
    earlier: Iterable[Prompt] = (),
) -> TraceHeader:
    """Sample rollouts with one engine and write them as a trace.

    Prompts that were sampled `earlier` get further samples.
    """
    samples = requests.generate(engine, prompts, token_ids, session.config.workload, earlier)
    header = trace_header(session, engine, "decode", sampled_by=engine.spec.role)
    written = write_trace(path, samples, header, requests.vocabulary(engine, samples))
    engine.forget()
    return written


def score_trace(
    session: Session,
    operation: LogprobOperation,
    source: Path,
    path: Path,
    engine: Engine,
    shuffle: int | None = None,
) -> TraceHeader:
    """Score a trace's tokens on one engine, and write its logprobs as another trace.

    Sampling parameters that an imported trace lacks are taken from the configuration.
    """
    trace = Trace(source)
    otherwise = {} if shuffle is None else engine.spec.repeats_with
    sampling = {**_sampling(session.config.workload), **trace.header.sampling}
    samples = requests.score(
        engine,
        operation,
        trace.samples(),
        {k: v for k, v in sampling.items() if k in SHAPING},
        session.config.workload.top_logprobs,
        shuffle,
        **otherwise,
    )
    header = trace_header(
        session,
        engine,
        PATH_OF[operation],
        sampled_by=trace.header.sampled_by,
        sampling=sampling,
        replayed_from=trace.header.token_digest,
    )
    texts = trace.vocabulary() or requests.vocabulary(engine, samples)
    written = write_trace(path, samples, header, texts)
    engine.forget()
    return written


def trace_header(
    session: Session,
    engine: Engine,
    path: LogprobPath,
    *,
    sampled_by: str,
    sampling: dict[str, Any] | None = None,
    replayed_from: str | None = None,
) -> TraceHeader:
    """The provenance of what an engine computed in this session."""
    return TraceHeader(
        run_id=session.run_id,
        created_utc=session.created_utc,
        command=provenance.command_line(),
        sampled_by=sampled_by,
        evaluated_by=engine.spec.role,
        engine=engine.description,
        model=session.model,
        sampling=sampling or _sampling(session.config.workload),
        logprob_path=path,
        logprob_distribution=engine.description.distribution,
        host=provenance.host_fingerprint(),
        config=dump_config(session.config),
        replayed_from=replayed_from,
    )


def _sampling(workload: Workload) -> dict[str, Any]:
    """The sampling parameters for a trace header."""
    return {
        **workload.sampling(),
        "max_tokens": workload.max_tokens,
        "ignore_eos": workload.ignore_eos,
    }
