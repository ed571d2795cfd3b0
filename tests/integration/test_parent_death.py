"""kill -9 of parity-check: its engines end with it, whatever they are doing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from helpers.support import (
    fake_config,
    finish,
    lines_of,
    processes_naming,
    start_cli,
    wait_for,
    worker_of,
)

ROLES = ("reference", "candidate")


@pytest.mark.parametrize("how", ["hang", "hold_the_gil"])
@pytest.mark.parametrize("op", ["load", "generate"])
@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_engines_end_with_the_parent(tmp_path: Path, how: str, op: str, stopped: bool) -> None:
    fault = {"fault": {"op": op, "how": how, "after": 0 if op == "load" else 1}}
    config = fake_config(tmp_path, reference=fault, candidate=fault)
    process = start_cli("compare", "-c", config, cwd=tmp_path)
    workers = [worker_of(role, tmp_path) for role in ROLES]
    if op == "generate":
        wait_for(lambda: lines_of("runs/*/.work/*/generate-*.part", tmp_path) == 2, "two samples")
    if stopped:
        for worker in workers:
            os.killpg(worker, signal.SIGSTOP)
    process.kill()
    assert finish(process).returncode == -signal.SIGKILL
    wait_for(lambda: not processes_naming(tmp_path), "the end of the workers")


def test_a_probe_ends_with_the_parent(tmp_path: Path) -> None:
    """The phase before any engine, with what the interpreter has started itself."""
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nsleep 1000 &\necho $$ $! >{tmp_path}/probe\nwait\n")
    script.chmod(0o755)
    config = tmp_path / "parity.toml"
    config.write_text('reference = {python = "./python"}\ncandidate = {kind = "fake"}\n')
    process = start_cli("compare", "-c", config, cwd=tmp_path)
    pids = wait_for(lambda: (tmp_path / "probe").is_file() and text(tmp_path / "probe"), "it")
    process.kill()
    finish(process)
    wait_for(lambda: not any(text(Path(f"/proc/{pid}/cmdline")) for pid in pids.split()), "the end")


def text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
