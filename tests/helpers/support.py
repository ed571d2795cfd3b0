"""Run the real command line in a process of its own, with fake engines behind the real protocol."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tomli_w

from parity_check.cli.main import main
from parity_check.measure.metrics import PairedChunk

SCRATCH = Path(tempfile.mkdtemp(prefix="parity-check-tests-"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

UNWANTED = ("PYTHONDONTWRITEBYTECODE", "PARITY_CHECK_", "GITHUB_", "FORCE_COLOR", "NO_COLOR")
COMMAND = [sys.executable, "-m", "parity_check"]
DEADLINE_S = 60.0
SMALL = {"num_prompts": 4, "samples_per_prompt": 1, "max_tokens": 4, "repeats": 0}
"""A workload that takes no time; its verdict is always `inconclusive`."""

Finished = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    """The caller's, with a cache of its own; bytecode is kept, or every call compiles scipy."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(UNWANTED)}
    return {
        **inherited,
        "PARITY_CHECK_CACHE": str(SCRATCH / "cache"),
        "PYTHONPYCACHEPREFIX": str(SCRATCH / "pyc"),
        "COLUMNS": "200",
    }


def run_cli(*arguments: object, cwd: Path, **options: Any) -> Finished:
    """Run to the end; `options` go to subprocess.run."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        text=True,
        timeout=2 * DEADLINE_S,
        check=False,
        **{**streams, **options},
    )


def call_cli(*arguments: object, cwd: Path, encoding: str = "utf-8") -> Finished:
    """The same within this process: `main` with its catch site, without a second's imports.

    Engines are processes all the same. Signals are not listened for. `encoding` is the terminal's.
    """
    stdout, stderr = (
        io.TextIOWrapper(io.BytesIO(), encoding, newline="", write_through=True) for _ in range(2)
    )
    with (
        mock.patch.object(sys, "argv", ["parity-check", *map(str, arguments)]),
        mock.patch.dict(os.environ, environment(), clear=True),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        code = main()
    texts = [each.detach().getvalue().decode(encoding) for each in (stdout, stderr)]
    return Finished(sys.argv, int(code), *texts)


def start_cli(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start, in a process group of its own as under a shell; read its end with `finish`."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )


def finish(process: subprocess.Popen[str]) -> Finished:
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    return Finished(process.args, process.returncode, stdout, stderr)


SMALL_RUN: dict[str, float] = {
    "mean_importance_ratio": 0.5, "k3_kl": 0.5, "clip_fraction": 0.05, "tail_fraction": 0.05,
    "burst_fraction": 0.5, "burst_cluster_fraction": 0.5, "impossible_fraction": 0.05, "ess": 0.05,
}  # fmt: skip
"""Limits of the gates that know of unseen events: a few hundred tokens can decide these."""


def fake_config(directory: Path, **tables: dict[str, Any]) -> Path:
    """parity.toml with two fake engines and a small workload, under `tables`.

    `reference` and `candidate` are the engines' arguments; any other table is updated key by key.
    """
    tree: dict[str, Any] = {"workload": dict(SMALL), "run": {"out": "runs"}}
    for role in ("reference", "candidate"):
        tree[role] = {"kind": "fake", "engine_args": tables.pop(role, {})}
    for name, table in tables.items():
        role, _, key = name.partition("_")
        if key == "settings":
            tree[role]["settings"] = table
        else:
            tree.setdefault(name, {}).update(table)
    path = directory / "parity.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


def write_prompts(path: Path, *rows: object) -> Path:
    """JSONL; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def only_run(directory: Path) -> Path:
    """The one run directory below `directory`/runs."""
    [run] = (directory / "runs").iterdir()
    return run


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll until the condition holds; returns its value."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"timed out waiting for {what}")


def processes_naming(text: object) -> list[int]:
    """The ids of the living processes whose command line contains the text, zombies left out."""
    pids = (int(directory.name) for directory in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if str(text) in command_of(pid) and pid != os.getpid()]


def command_of(pid: int) -> str:
    """A process's command line; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def worker_of(role: str, directory: Path) -> int:
    """The process id of a running engine's worker; what launches it becomes it."""
    [pid] = wait_for(
        lambda: [
            pid
            for pid in processes_naming(f".work/{role}")
            if str(directory) in (command := command_of(pid)) and "launch.py" not in command
        ],
        f"the {role} worker",
    )
    return int(pid)


def lines_of(pattern: str, directory: Path) -> int:
    """The number of lines in all files below `directory` that match."""
    return sum(file.read_bytes().count(b"\n") for file in directory.glob(pattern))


def assert_fails(done: Finished, code: int, *expected: str) -> None:
    """The exit code, one `error:` line, every expected text, and never a traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for text in expected:
        assert text in done.stderr


def assert_tidy(directory: Path) -> None:
    """No process is left behind, no work directory, and nothing unfinished that looks whole."""
    wait_for(lambda: not processes_naming(directory), "the end of every process")
    left = [file.name for file in directory.rglob("*")]
    assert ".work" not in left
    assert not [name for name in left if name.endswith(".part")]


def chunk_of(samples: list[list[tuple[float, float]]]) -> PairedChunk:
    """A chunk from samples of (behaviour, evaluating) logprobs, each sample its own cluster."""
    flat = [pair for sample in samples for pair in sample]
    columns = np.array(flat, dtype=np.float32).reshape(-1, 2)
    return PairedChunk(
        behaviour_logprob=columns[:, 0],
        evaluating_logprob=columns[:, 1],
        starts=np.cumsum([0, *map(len, samples)]),
        cluster=np.arange(len(samples), dtype=np.int32),
        group=np.zeros(len(samples), dtype=np.int32),
    )


def about(tree: Any) -> Any:
    """Equal to trees whose floats differ in the last digits only: those are the processor's."""
    if isinstance(tree, dict):
        return {name: about(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [about(value) for value in tree]
    return pytest.approx(tree, rel=1e-9, abs=1e-15) if isinstance(tree, float) else tree
