"""`scripts/gpu_check.py` where it has nothing to check: it says so, and does not pass."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import gpu_check
from parity_check.engines import gpus

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"


def run(directory: Path, *options: str) -> tuple[int, str, list[dict[str, object]]]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = json.loads((directory / "gpu-check.json").read_text())
    return done.returncode, done.stdout, found["rows"]


@pytest.mark.skipif(gpus.listed() != (), reason="this machine may have a GPU")
def test_gpu_wheels_without_a_gpu_fail_and_download_nothing(tmp_path: Path) -> None:
    code, table, rows = run(tmp_path, "--only", "eager")
    assert code == 1
    assert [row["check"] for row in rows] == ["reference: eager", "candidate: eager"]
    assert "failed: candidate: vllm==0.18.1 runs on GPUs, and this machine has none" in table


def test_what_is_not_run_in_time_is_listed(tmp_path: Path) -> None:
    code, table, rows = run(tmp_path, "--minutes", "0")
    assert code == 1
    assert len(rows) == 15
    assert {row["outcome"] for row in rows} == {"not run: out of time"}
    assert table.count("not run: out of time") == 15


def test_what_was_asked_for_must_be_in_force() -> None:
    in_force = {"model_runner": "v1", "enforce_eager": True}
    assert gpu_check.outcome({}, in_force) == "runs, proved"
    assert gpu_check.outcome({"enforce_eager": True}, in_force) == "runs, proved"
    said = gpu_check.outcome({"model_runner": "v2"}, in_force)
    assert said == "refused: model_runner is v1"
