"""Many runs in one process leave it as it was; `scripts/soak.py` makes as many as are asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.soak import held
from helpers.support import assert_tidy, call_cli, fake_config, run_cli

COMPARE = ("compare",)
RECORD = ("record", "--engine", "candidate", "-o", "trace.parquet")


@pytest.mark.timeout(300)
def test_runs_in_sequence_leave_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fake_config(tmp_path, workload={"repeats": 1})
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    def runs(count: int) -> None:
        for number in range(count):
            command = RECORD if number else COMPARE
            assert call_cli(*command, "-c", config, cwd=tmp_path).returncode in (0, 1, 4)

    runs(2)  # what is loaded once, and the processes that stay
    before = held()
    runs(6)
    after = held()
    assert replace(after, memory_mib=0) == replace(before, memory_mib=0)
    assert after.memory_mib < before.memory_mib + 50
    assert_tidy(tmp_path)


@pytest.mark.timeout(300)
def test_runs_side_by_side_do_not_meet(tmp_path: Path) -> None:
    """In one directory, with one cache."""
    config = fake_config(tmp_path)

    def run(_: int) -> int:
        return run_cli(*COMPARE, "-c", config, cwd=tmp_path).returncode

    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(run, range(3))) == {4}
    assert len(list((tmp_path / "runs").iterdir())) == 3
    assert_tidy(tmp_path)
