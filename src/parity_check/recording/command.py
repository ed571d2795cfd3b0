"""`record` and `replay`: one engine, one trace."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from parity_check import words
from parity_check.config.load import dump_config
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines.kinds import configured_engine
from parity_check.files import check_writable
from parity_check.recording.recorder import record_trace, score_trace
from parity_check.recording.requests import LogprobOperation
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import check_model, fingerprint, session, tokenize_prompts
from parity_check.traces.prompts import Prompt, read_workload
from parity_check.traces.trace import read_header


def check_record(config: Config, role: str) -> list[Prompt]:
    """The prompts, checked before any engine starts. Raises ConfigError, InputError."""
    configured_engine(role, config).check_sampling()
    return read_workload(config.workload)


def check_replay(config: Config, role: str, operation: LogprobOperation, source: Path) -> None:
    """Check a trace before any engine starts. Raises ConfigError, InputError."""
    configured_engine(role, config).check_operation(operation, read_header(source).sampling)
    check_model(fingerprint(config.model), source)


def record(config: Config, role: str, path: Path, console: Console) -> None:
    """Sample rollouts with one engine into a trace."""
    prompts = check_record(config, role)
    check_writable(path)
    with (
        RunDirectory(Path(config.run.out), dump_config(config)) as run,
        session(config, [role], run, console) as live,
    ):
        ids = tokenize_prompts(live, prompts)
        job = partial(record_trace, live, prompts, ids, path)
        header = live.engines.run({role: job})[role]
    console.say(
        f"wrote {path}: {words.count(header.samples, 'sample')}, "
        f"{words.count(header.tokens, 'token')}"
    )


def replay(
    config: Config,
    role: str,
    operation: LogprobOperation,
    source: Path,
    path: Path,
    console: Console,
) -> None:
    """Replay the tokens of a trace on one engine, into another trace."""
    check_replay(config, role, operation, source)
    check_writable(path)
    with (
        RunDirectory(Path(config.run.out), dump_config(config)) as run,
        session(config, [role], run, console) as live,
    ):
        job = partial(score_trace, live, operation, source, path)
        header = live.engines.run({role: job})[role]
    console.say(
        f"wrote {path}: {words.count(header.samples, 'sample')}, "
        f"{words.count(header.tokens, 'token')}"
    )
