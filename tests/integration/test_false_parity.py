"""A run whose traces are not those that it recorded gets no verdict: what is missing is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.canned import CANNED, write_run
from helpers.support import assert_fails, call_cli

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("finished") / "run", CANNED["parity"])


def without(pattern: str) -> Damage:
    return lambda run: [path.unlink() for path in run.glob(pattern)]


def copied(source: str, target: str) -> Damage:
    return lambda run: shutil.copy(run / source, run / target)


def flipped(name: str) -> Damage:
    """One bit in the middle of a file."""

    def damage(run: Path) -> None:
        content = bytearray((run / name).read_bytes())
        content[len(content) // 2] ^= 4
        (run / name).write_bytes(content)

    return damage


DAMAGE: dict[str, tuple[Damage, str]] = {
    "one direction removed": (without("candidate*.parquet"), "candidate.parquet"),
    "the other removed": (without("reference*.parquet"), "reference.parquet"),
    "one trace removed": (without("candidate.parquet"), "candidate.parquet"),
    "repeats removed": (without("*-repeat-1.parquet"), "reference-repeat-1.parquet"),
    "a repeat is a copy of the rollouts": (
        copied("candidate.parquet", "candidate-repeat-1.parquet"),
        "candidate-repeat-1.parquet",
    ),
    "a repeat is the other engine's replay": (
        copied("candidate-replayed-by-reference.parquet", "candidate-repeat-1.parquet"),
        "candidate-repeat-1.parquet",
    ),
    "the replays are swapped": (
        copied(
            "reference-replayed-by-candidate.parquet", "candidate-replayed-by-reference.parquet"
        ),
        "candidate-replayed-by-reference.parquet",
    ),
}


@pytest.mark.parametrize("old", [False, True], ids=["manifest", "recorded before manifests"])
@pytest.mark.parametrize("name", DAMAGE)
def test_no_verdict(finished: Path, tmp_path: Path, name: str, old: bool) -> None:
    damage, named = DAMAGE[name]
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    if old:
        (run / "run.json").unlink()
    damage(run)
    done = call_cli("report", run, cwd=tmp_path)
    assert_fails(done, 2, named)
    assert "PARITY" not in done.stdout


@pytest.mark.parametrize("name", ["candidate.parquet", "reference-repeat-1.parquet"])
def test_a_flipped_bit_is_noticed(finished: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    flipped(name)(run)
    assert_fails(call_cli("report", run, cwd=tmp_path), 2, name, "changed, replaced or damaged")


def test_an_unfinished_run_says_so(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (run / "run.json").read_text(encoding="utf-8")
    head, _, _ = text.partition('"sha256"')
    (run / "run.json").write_text(f'{head}"sha256": {{}}, "schema_version": 1}}')
    assert_fails(call_cli("report", run, cwd=tmp_path), 2, "the run is unfinished")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"run_id": 1}', '{"run_id": "x", "parts": [{"file": "../x"}]}', "null"]
)
def test_a_broken_manifest_is_refused(finished: Path, tmp_path: Path, text: str) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "run.json").write_text(text)
    assert_fails(call_cli("report", run, cwd=tmp_path), 2, "run.json: not a run's manifest")


def test_a_run_recorded_before_manifests_is_read_with_a_warning(
    finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "run.json").unlink()
    done = call_cli("report", run, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "run-without-manifest" in done.stdout


def test_a_limit_set_later_does_not_change_what_was_asked_for(
    finished: Path, tmp_path: Path
) -> None:
    """A report judges what was recorded; what that is cannot be set."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    without("*-repeat-1.parquet")(run)
    done = call_cli("report", run, "--set", "workload.repeats=0", cwd=tmp_path)
    assert_fails(done, 2, "--set changes what the run recorded: workload.repeats (1, now 0)")
