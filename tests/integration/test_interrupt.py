"""Ctrl-C, SIGTERM and a hang-up in each phase: exit 130, one line, the work kept, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from helpers.support import (
    Finished,
    assert_tidy,
    call_cli,
    fake_config,
    finish,
    lines_of,
    only_run,
    processes_naming,
    start_cli,
    wait_for,
    worker_of,
)
from parity_check.comparison import command

pytestmark = pytest.mark.timeout(60)


def hang(op: str, after: int = 0) -> dict[str, Any]:
    return {"fault": {"op": op, "how": "hang", "after": after}}


def assert_interrupted(done: Finished, directory: Path, kept: str) -> None:
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    how = "; to continue: parity-check compare --resume "
    said, to_continue, run = done.stderr.splitlines()[-1].partition(how)
    assert said == f"interrupted; {kept}"
    assert (run or "runs/").startswith("runs/")
    begun = any(directory.glob("runs/*/run.json"))
    assert bool(to_continue) == (begun and kept.startswith("kept in"))
    assert done.stderr.count("interrupted") == 1
    assert_tidy(directory)


def both_started(directory: Path) -> None:
    worker_of("reference", directory)
    worker_of("candidate", directory)


def tokenizing(directory: Path) -> None:
    wait_for(
        lambda: lines_of("runs/*/.work/reference/tokenize-*.part", directory) == 1, "one prompt"
    )


@pytest.mark.parametrize(
    ("fault", "phase"), [(hang("load"), both_started), (hang("tokenize", 1), tokenizing)]
)
def test_before_anything_is_recorded(
    tmp_path: Path, fault: dict[str, Any], phase: Callable[[Path], None]
) -> None:
    config = fake_config(tmp_path, reference=fault, candidate=fault)
    process = start_cli("compare", "-c", config, cwd=tmp_path)
    phase(tmp_path)
    process.send_signal(signal.SIGINT)
    assert_interrupted(finish(process), tmp_path, "nothing was recorded")


def generating(directory: Path) -> subprocess.Popen[str]:
    """A run whose candidate has finished its trace, and whose reference has two samples of four."""
    config = fake_config(directory, reference=hang("generate", after=2))
    process = start_cli("compare", "-c", config, cwd=directory)
    wait_for(lambda: list(directory.glob("runs/*/candidate.parquet")), "the candidate's trace")
    wait_for(
        lambda: lines_of("runs/*/.work/reference/generate-*.part", directory) == 2, "two samples"
    )
    return process


@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_while_generating(tmp_path: Path, signalled: signal.Signals) -> None:
    process = generating(tmp_path)
    process.send_signal(signalled)
    done = finish(process)
    run = only_run(tmp_path)
    assert_interrupted(
        done,
        tmp_path,
        f"kept in runs/{run.name}: candidate.parquet, reference-generate.partial.jsonl",
    )
    assert len((run / "reference-generate.partial.jsonl").read_text().splitlines()) == 2


def test_an_impatient_second_ctrl_c_prevents_no_tidying(tmp_path: Path) -> None:
    process = generating(tmp_path)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    done = finish(process)
    assert_interrupted(
        done,
        tmp_path,
        f"kept in runs/{only_run(tmp_path).name}: candidate.parquet, "
        "reference-generate.partial.jsonl",
    )


def test_ctrl_c_goes_to_the_whole_foreground_group(tmp_path: Path) -> None:
    """As a terminal sends it. The workers are not in that group, so only parity-check decides."""
    process = generating(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process).returncode == 130
    assert "KeyboardInterrupt" not in (only_run(tmp_path) / "reference.log").read_text()
    assert_tidy(tmp_path)


def test_while_replaying(tmp_path: Path) -> None:
    config = fake_config(tmp_path, candidate=hang("replay", after=1))
    process = start_cli("compare", "-c", config, cwd=tmp_path)
    wait_for(
        lambda: list(tmp_path.glob("runs/*/candidate-replayed-by-reference.parquet")),
        "the reference's replay",
    )
    wait_for(lambda: lines_of("runs/*/.work/candidate/replay-*.part", tmp_path) == 1, "a sample")
    process.send_signal(signal.SIGINT)
    assert_interrupted(
        finish(process),
        tmp_path,
        f"kept in runs/{only_run(tmp_path).name}: candidate-replay.partial.jsonl, "
        "candidate-replayed-by-reference.parquet, candidate.parquet, reference.parquet",
    )


def test_while_an_interpreter_is_checked(tmp_path: Path) -> None:
    """The phase before any engine: the same in kind as provisioning."""
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/probe\nexec sleep 1000\n")
    script.chmod(0o755)
    tree = {"reference": {"python": "./python"}, "candidate": {"kind": "fake"}}
    (tmp_path / "parity.toml").write_text(tomli_w.dumps(tree))
    process = start_cli("compare", "-c", "parity.toml", cwd=tmp_path)
    sleeper = int(wait_for(lambda: text_of(tmp_path / "probe"), "the probe"))
    wait_for(lambda: text_of(f"/proc/{process.pid}/stat").split()[2] == "S", "the wait for it")
    process.send_signal(signal.SIGINT)
    assert_interrupted(finish(process), tmp_path, "nothing was recorded")
    wait_for(lambda: not text_of(f"/proc/{sleeper}/cmdline"), "the end of the probe")
    assert not list((tmp_path / "runs").iterdir())


def text_of(path: Path | str) -> str:
    """A file's text, empty where there is none; a process that has ended has no command line."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def test_while_analysing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too short a time to hit from outside."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "analyse", interrupted)
    done = call_cli("compare", "-c", fake_config(tmp_path), cwd=tmp_path)
    assert_interrupted(
        done,
        tmp_path,
        f"kept in runs/{only_run(tmp_path).name}: candidate-replayed-by-reference.parquet, "
        "candidate.parquet, reference-replayed-by-candidate.parquet, reference.parquet",
    )


def test_while_recording_one_trace(tmp_path: Path) -> None:
    config = fake_config(tmp_path, reference=hang("generate", after=1))
    process = start_cli(
        "record", "-c", config, "--engine", "reference", "-o", "t.parquet", cwd=tmp_path
    )
    wait_for(lambda: lines_of("runs/*/.work/reference/generate-*.part", tmp_path) == 1, "a sample")
    process.send_signal(signal.SIGINT)
    assert_interrupted(
        finish(process),
        tmp_path,
        f"kept in runs/{only_run(tmp_path).name}: reference-generate.partial.jsonl",
    )
    assert not list(tmp_path.glob("t.parquet*"))


def test_signals_that_were_ignored_stay_ignored(tmp_path: Path) -> None:
    """Under nohup the hang-up of the terminal must not end the run."""
    config = fake_config(tmp_path, reference=hang("load"), candidate=hang("load"))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited across exec
    try:
        process = start_cli("compare", "-c", config, cwd=tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    both_started(tmp_path)
    process.send_signal(signal.SIGHUP)
    assert processes_naming(f"{tmp_path}/parity.toml") == [process.pid]
    process.send_signal(signal.SIGINT)
    assert_interrupted(finish(process), tmp_path, "nothing was recorded")


def test_recorded_looks_are_kept(tmp_path: Path) -> None:
    workload = {"num_prompts": "enough", "most_tokens": 160, "repeats": 0, "temperature": 0.7}
    config = fake_config(tmp_path, candidate={"delay_s": 0.05}, workload=workload)
    process = start_cli("compare", "-c", config, cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/*/look-2/reference.parquet")), "the second look")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130
    assert "look 1 of 4: 5 samples a direction" in done.stderr
    assert_tidy(tmp_path)
    again = call_cli("report", only_run(tmp_path), cwd=tmp_path)
    assert again.returncode == 4, again.stderr
    assert "look 1 of at most 4" in " ".join(again.stdout.split())
