"""A run's directory: whole files, kept work, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity_check.errors import EngineError, Interrupted, OutputError
from parity_check.recording.run_directory import RunDirectory

LINE = b'{"sample_id": "p/0"}\n'


def put(run: RunDirectory, name: str, content: bytes = LINE) -> None:
    path = run.work / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def files(run: RunDirectory) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.path.iterdir() if path.suffix == ".jsonl"}


def failed(run: RunDirectory, error: BaseException) -> None:
    (run.path / "reference.log").write_text("")
    with run:
        raise error


def test_a_finished_run_keeps_no_work_directory(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, {"a": 1}) as run:
        put(run, "reference/generate-1.jsonl")
        put(run, "reference/replay-2.jsonl.part")
    assert [path.name for path in run.path.iterdir()] == ["config.toml"]
    assert (run.path / "config.toml").read_text() == "a = 1\n"


def test_what_holds_earlier_work_is_not_removed(tmp_path: Path) -> None:
    """A run that fails before any engine was started leaves nothing; one that goes on loses it."""
    new = RunDirectory(tmp_path, {})
    with pytest.raises(EngineError), new:
        raise EngineError("x")
    assert not new.path.exists()
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "steps.jsonl").write_bytes(LINE)
    with pytest.raises(EngineError), RunDirectory.reopen(tmp_path / "earlier"):
        raise EngineError("x")
    assert [path.name for path in (tmp_path / "earlier").iterdir()] == ["steps.jsonl"]


def test_finished_samples_are_kept_whatever_file_they_are_in(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, {})
    put(run, "reference/tokenize-1.jsonl")
    put(run, "reference/generate-2.in.jsonl")
    put(run, "reference/generate-2.jsonl")
    put(run, "candidate/replay-5.jsonl")
    put(run, "candidate/replay-7.jsonl.part", LINE * 2 + b'{"sample_')
    put(run, "candidate/rescore-9.jsonl.part", b'{"sample_')
    with pytest.raises(EngineError) as caught:
        failed(run, EngineError("x"))
    assert files(run) == {
        "candidate-replay.partial.jsonl": LINE,
        "candidate-replay-2.partial.jsonl": LINE * 2,
        "reference-generate.partial.jsonl": LINE,
    }
    assert not run.work.exists()
    assert caught.value.kept == (
        f"kept in {tmp_path / run.id}: candidate-replay-2.partial.jsonl, "
        "candidate-replay.partial.jsonl, reference-generate.partial.jsonl"
    )


def test_nothing_is_said_when_nothing_was_recorded(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        failed(RunDirectory(tmp_path, {}), EngineError("x"))
    assert caught.value.kept is None


def test_ctrl_c_becomes_interrupted(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, {})
    put(run, "reference/generate-2.jsonl")
    with pytest.raises(Interrupted) as caught:
        failed(run, KeyboardInterrupt())
    assert caught.value.exit_code == 130
    assert caught.value.kept == f"kept in {tmp_path / run.id}: reference-generate.partial.jsonl"


def test_a_bug_passes_through(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        failed(RunDirectory(tmp_path, {}), ZeroDivisionError())


def test_a_run_in_which_no_engine_started_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineError), RunDirectory(tmp_path, {}):
        raise EngineError("x")
    assert list(tmp_path.iterdir()) == []


def test_runs_of_the_same_second_do_not_meet(tmp_path: Path) -> None:
    assert len({RunDirectory(tmp_path, {}).path for _ in range(5)}) == 5


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, {})
    run.write("report.json", "old")
    with pytest.raises(UnicodeEncodeError):
        run.write("report.json", "\ud800")
    assert (run.path / "report.json").read_text() == "old"


def test_a_place_that_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/file/.*: Not a directory"):
        RunDirectory(tmp_path / "file", {})
