"""`record`, `replay` and `--dry-run`: one engine, one trace."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import tomli_w

from parity_check.config.load import dump_config
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines.endpoint.engine import check_evaluation
from parity_check.engines.environment import environment
from parity_check.files import check_writable
from parity_check.recording.requests import LogprobOperation
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import (
    check_model,
    record_trace,
    score_trace,
    session,
    tokenize_prompts,
)
from parity_check.traces.prompts import read_prompts
from parity_check.traces.trace import read_header


def record(config: Config, role: str, path: Path, console: Console) -> None:
    """Sample rollouts with one engine into a trace."""
    config.engine(role)
    check_writable(path)
    prompts = read_prompts(config.workload.prompts, config.workload.num_prompts)
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
