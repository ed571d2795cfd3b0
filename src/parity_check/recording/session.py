"""Engine sessions: provision and start engines, and check that they read the model alike."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from parity_check.config.models import Config, ModelConfig
from parity_check.console import Activity, Console
from parity_check.engines.base import ConfiguredEngine, Engine, Interpreter, Progress
from parity_check.engines.devices import Device, assigned, sentence, variables
from parity_check.engines.environment.environment import (
    Environment,
    check_installable,
    default_cache,
)
from parity_check.engines.kinds import configured_engine
from parity_check.engines.placement.engine import check_one_cluster
from parity_check.engines.pool import EnginePool
from parity_check.engines.side_by_side import side_by_side
from parity_check.errors import TraceMismatchError
from parity_check.recording import requests
from parity_check.recording.run_directory import RunDirectory
from parity_check.traces import checkpoint, provenance
from parity_check.traces.adapter import adapted
from parity_check.traces.prompts import Prompt
from parity_check.traces.trace import read_header


@dataclass(frozen=True, slots=True)
class Session:
    """The context of a command with engines."""

    config: Config
    directory: Path
    """The run's, absolute."""
    run_id: str
    created_utc: str
    model_path: str
    model: dict[str, Any]
    engines: EnginePool
    environments: Mapping[str, Environment | None]
    devices: Mapping[str, tuple[Device, ...]]
    """The GPUs that engines were given, by role."""
    activity: Activity
    continued: bool = False
    """Whether the run was interrupted before: what it recorded is kept."""


@contextmanager
def session(
    config: Config,
    roles: Sequence[str],
    run: RunDirectory,
    console: Console,
    *,
    continued: bool = False,
) -> Iterator[Session]:
    """Provision environments and yield a session; closes all engines at the end."""
    model_path = checkpoint.locate_model(config.model)
    with console.activity() as activity:
        engines = [configured_engine(role, config) for role in roles]
        for each in engines:
            each.check_start(model_path)
            each.check_settings()
        check_one_cluster({each.role: each.placement for each in engines})
        needed = [each.interpreter for each in engines if each.interpreter is not None]
        requirements = [each.requirement for each in needed if each.requirement is not None]
        if requirements:
            check_installable(requirements, default_cache(), console.say)
        environments = _environments(engines, activity, console)
        given = _devices(engines, environments, console)
        specs = {
            each.role: _on(each, given).spec(model_path, environments[each.role])
            for each in engines
        }
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
                directory=run.path,
                run_id=run.id,
                created_utc=run.created.isoformat(timespec="seconds"),
                model_path=model_path,
                model=fingerprint(config.model),
                engines=pool,
                environments=environments,
                devices=given,
                activity=activity,
                continued=continued,
            )


def exchange(session: Session, role: str, config: Config, log_dir: Path) -> Session:
    """The session with a new configuration of one engine, which starts with its next job."""
    environment, given = session.environments[role], session.devices
    engine = configured_engine(role, config)
    now = engine.wanted(environment)
    if now is not None and now.count == len(given.get(role, ())):
        engine = _on(engine, given)
    spec = engine.spec(session.model_path, environment)
    session.engines.exchange(spec, log_dir)
    return replace(session, config=config)


def _devices(
    engines: Sequence[ConfiguredEngine[Any]],
    environments: Mapping[str, Environment | None],
    console: Console,
) -> dict[str, tuple[Device, ...]]:
    """The GPUs of the engines that name none themselves."""
    asking = {each.role: each.wanted(environments[each.role]) for each in engines}
    found = assigned({role: each for role, each in asking.items() if each is not None})
    if found:
        console.say(f"devices: {sentence(found)}")
    return found


def _on(
    engine: ConfiguredEngine[Any], given: Mapping[str, Sequence[Device]]
) -> ConfiguredEngine[Any]:
    devices = given.get(engine.role)
    return engine if devices is None else engine.on(variables(devices, os.environ))


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
    return partial(activity.update, role)


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
    """The fingerprint of the configured model, with its adapter, for traces."""
    path = checkpoint.locate_model(config)
    return adapted(provenance.model_fingerprint(path, config.revision), config.lora, path)


def check_model(loaded: Mapping[str, Any], source: Path) -> None:
    """Check that a trace is of this model. Raises TraceMismatchError."""
    recorded = read_header(source).model
    found = provenance.model_difference(recorded, loaded, recorded)
    if found is not None:
        raise TraceMismatchError(f"{source} was recorded with another model: {found}")
