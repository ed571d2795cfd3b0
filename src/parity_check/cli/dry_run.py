"""`--dry-run`: all that can be checked of a command before any engine starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from parity_check.config.flags import STANDARD_INPUT
from parity_check.config.load import dump_config
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines.base import ConfiguredEngine
from parity_check.engines.environment.environment import EnvironmentPlan
from parity_check.engines.kinds import configured_engine
from parity_check.engines.placement.engine import check_one_cluster
from parity_check.errors import EngineEnvironmentError, ExitCode
from parity_check.files import check_place
from parity_check.traces import checkpoint


def run(
    config: Config,
    console: Console,
    check: Callable[[], object],
    names: Sequence[str] = (),
    outputs: Iterable[Path] = (),
) -> ExitCode:
    """Check the model, the inputs and the engines, and print the resolved configuration.

    `check` is what the command checks of its inputs; `names` are its engines, by default all;
    `outputs` are written besides the run. Every engine that cannot run is a warning, and exit code
    3. Raises ConfigError, InputError, OutputError.
    """
    for path in (Path(config.run.out, "run"), *outputs):
        check_place(path)
    model = checkpoint.locate_model(config.model)
    checkpoint.read_config(model)
    if config.workload.prompts == STANDARD_INPUT:
        console.say("prompts: standard input is read, and checked, only when the command runs")
    else:
        check()
    code = ExitCode.PARITY
    engines = {name: configured_engine(name, config) for name in names or config.names}
    check_one_cluster({name: engine.placement for name, engine in engines.items()})
    for name, engine in engines.items():
        plan = engine.plan()
        found = engine.headline if plan is None else f"{plan.state}, {plan.location}"
        console.say(f"{name}: {found}")
        if engine.placement is not None:
            console.say(f"{name}: {engine.placement.sentence}")
        for reason in _refused(engine, model, plan):
            console.warn(reason)
            code = ExitCode.ENGINE
    console.data(tomli_w.dumps(dump_config(config)))
    return code


def _refused(
    engine: ConfiguredEngine[Any], model: str, plan: EnvironmentPlan | None
) -> Iterator[str]:
    """Why the engine cannot run on this machine, or as it is configured. Raises ConfigError."""
    try:
        engine.check_start(model)
    except EngineEnvironmentError as error:
        yield f"{error.message}; {error.hint}" if error.hint else error.message
    if plan is None:
        return
    if plan.cause:
        yield f"{engine.role}: {plan.cause}"
    for asked in engine.asked(plan):
        if asked.refusal is not None:
            yield f"{engine.role}: {asked.refusal}"
