"""Engines that die, hang or run out of something: exit 3, the cause in one line, the work kept."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from helpers.support import (
    assert_fails,
    assert_tidy,
    call_cli,
    fake_config,
    finish,
    lines_of,
    only_run,
    processes_naming,
    run_cli,
    start_cli,
    wait_for,
    worker_of,
    write_prompts,
)

pytestmark = pytest.mark.timeout(60)

LOW_ON_MEMORY = "hint: lower max_model_len, max_num_seqs or gpu_memory_utilization in "
NEVER = 1000.0
"""Seconds that no test waits for."""


def fault(op: str, how: str, after: int = 0) -> dict[str, Any]:
    return {"fault": {"op": op, "how": how, "after": after}}


@pytest.mark.parametrize(
    ("op", "how", "message"),
    [
        ("load", "crash", "was killed by SIGKILL during load"),
        ("load", "exit", "exited with code 7 during load"),
        ("load", "out_of_memory", "could not start: MemoryError: injected"),
        ("load", "bad luck", "could not start: RuntimeError: bad luck"),
        ("tokenize", "crash", "was killed by SIGKILL during tokenize"),
        ("generate", "out_of_memory", "failed to generate: MemoryError: injected"),
        ("generate", "exit", "exited with code 7 during generate"),
        ("replay", "crash", "was killed by SIGKILL during replay"),
        ("replay", "bad luck", "failed to replay: RuntimeError: bad luck"),
    ],
)
def test_engine_that_fails(tmp_path: Path, op: str, how: str, message: str) -> None:
    done = call_cli("compare", "-c", fake_config(tmp_path, candidate=fault(op, how)), cwd=tmp_path)
    log = only_run(tmp_path) / "candidate.log"
    assert_fails(
        done,
        3,
        f"error: the candidate engine (fake engine) {message}\n",
        f"log: {log}\n",
        *(["hint: killed from outside or by the OOM killer"] if how == "crash" else []),
        *([LOW_ON_MEMORY + "[candidate.engine_args]"] if how == "out_of_memory" else []),
    )
    assert_tidy(tmp_path)


def test_a_crash_shows_the_end_of_the_log(tmp_path: Path) -> None:
    """A worker that dies by an exception of its own leaves a traceback in its log: shown."""
    config = fake_config(tmp_path, candidate=fault("generate", "bad luck"))
    assert call_cli("compare", "-c", config, cwd=tmp_path).returncode == 3
    log = (only_run(tmp_path) / "candidate.log").read_text()
    assert log.rstrip().endswith("RuntimeError: bad luck")


def test_samples_finished_before_a_crash_are_kept(tmp_path: Path) -> None:
    config = fake_config(tmp_path, candidate=fault("replay", "crash", after=2))
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    run = only_run(tmp_path)
    kept = [line for line in done.stderr.splitlines() if line.startswith("kept in ")]
    assert len(kept) == 1, done.stderr
    assert kept[0].startswith(f"kept in runs/{run.name}: candidate-replay.partial.jsonl, ")
    assert "candidate.parquet" in kept[0]
    assert "reference.parquet" in kept[0]
    rows = [
        json.loads(line) for line in (run / "candidate-replay.partial.jsonl").open(encoding="utf-8")
    ]
    assert [set(row) for row in rows] == [
        {"sample_id", "logprobs", "top_token_ids", "top_logprobs"}
    ] * 2
    assert_tidy(tmp_path)


def test_samples_that_no_trace_holds_yet_are_kept(tmp_path: Path) -> None:
    """The engine has sampled everything and dies on the way to the trace."""
    config = fake_config(tmp_path, reference=fault("decode", "crash"))
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(
        done, 3, "was killed by SIGKILL during decode\n", "reference-generate.partial.jsonl"
    )
    assert lines_of("runs/*/reference-generate.partial.jsonl", tmp_path) == 4


def test_a_failed_repeat_keeps_both_of_its_batches(tmp_path: Path) -> None:
    """An A/A run goes in as two batches, of one and of three here; the second one fails."""
    config = fake_config(
        tmp_path, workload={"repeats": 1}, reference=fault("replay", "crash", after=2)
    )
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(done, 3, "during replay")
    kept = sorted(only_run(tmp_path).glob("reference-replay*.partial.jsonl"))
    assert [file.name for file in kept] == [
        "reference-replay-2.partial.jsonl",
        "reference-replay.partial.jsonl",
    ]
    assert sum(len(file.read_text().splitlines()) for file in kept) == 3


def test_worker_killed_from_outside(tmp_path: Path) -> None:
    config = fake_config(tmp_path, candidate=fault("replay", "hang", after=2))
    process = start_cli("compare", "-c", config, cwd=tmp_path)
    wait_for(lambda: lines_of("runs/*/.work/candidate/replay-*.part", tmp_path) == 2, "two samples")
    os.kill(worker_of("candidate", tmp_path), signal.SIGKILL)
    done = finish(process)
    assert_fails(
        done,
        3,
        "error: the candidate engine (fake engine) was killed by SIGKILL during replay\n",
        "hint: killed from outside or by the OOM killer (see dmesg)\n",
        "candidate-replay.partial.jsonl",
    )
    assert lines_of("runs/*/candidate-replay.partial.jsonl", tmp_path) == 2
    assert_tidy(tmp_path)


@pytest.mark.parametrize("op", ["load", "tokenize", "generate", "replay"])
def test_worker_that_hangs(tmp_path: Path, op: str) -> None:
    config = fake_config(tmp_path, candidate=fault(op, "hang"), run={"stall_timeout_s": 1.5})
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(
        done,
        3,
        f"error: the candidate engine (fake engine) made no progress for 1.5 s during {op}\n",
        "hint: raise run.stall_timeout_s if it needs more time\n",
        "candidate.log",
    )
    assert_tidy(tmp_path)


def test_slow_progress_is_no_hang(tmp_path: Path) -> None:
    """Four samples of 0.6 s take longer than the timeout, and each of them is progress."""
    config = fake_config(tmp_path, candidate={"delay_s": 0.6}, run={"stall_timeout_s": 1.5})
    done = call_cli(
        "record", "-c", config, "--engine", "candidate", "-o", "t.parquet", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_the_other_engine_is_not_waited_for(tmp_path: Path) -> None:
    config = fake_config(
        tmp_path, reference={"delay_s": NEVER}, candidate=fault("generate", "exit")
    )
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(done, 3, "error: the candidate engine (fake engine) exited with code 7")
    assert_tidy(tmp_path)


def test_disk_that_is_full_for_the_engine(tmp_path: Path) -> None:
    """A limit on the size of files acts as a full disk does: the write fails."""
    write_prompts(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})
    config = fake_config(
        tmp_path, workload={"prompts": "p.jsonl", "max_tokens": 200, "ignore_eos": True}
    )
    limit = 30_000
    done = run_cli(
        "compare",
        "-c",
        config,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert_fails(
        done,
        2,
        "engine cannot write: File too large\n",
        "hint: free some space, or choose another directory with --out\n",
    )
    assert_tidy(tmp_path)


def test_disk_that_is_full_for_the_trace(tmp_path: Path) -> None:
    """Long prompts make a trace that is larger than the engine's answers."""
    ids = [[(31 * i * i + i * seed) % 256 for i in range(4000)] for seed in range(8)]
    write_prompts(tmp_path / "p.jsonl", *({"prompt_token_ids": each} for each in ids))
    config = fake_config(
        tmp_path,
        workload={"prompts": "p.jsonl", "num_prompts": 8},
        reference={"max_model_len": 5000},
    )
    limit = 12_000
    done = run_cli(
        "record",
        "-c",
        config,
        "--engine",
        "reference",
        "-o",
        "t.parquet",
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert_fails(done, 2, "error: cannot write ", ": File too large\n", "hint: free some space")
    assert not list(tmp_path.glob("*.parquet*"))
    assert_tidy(tmp_path)


def test_full_disk_behind_stdout(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = run_cli("compare", "-c", fake_config(tmp_path), cwd=tmp_path, stdout=full)
    assert_fails(done, 2, "error: cannot write to stdout: No space left on device\n")
    assert (only_run(tmp_path) / "report.json").exists()


def test_engines_end_when_parity_check_is_killed(tmp_path: Path) -> None:
    config = fake_config(tmp_path, reference={"delay_s": NEVER}, candidate={"delay_s": NEVER})
    process = start_cli("compare", "-c", config, cwd=tmp_path)
    worker_of("reference", tmp_path)
    worker_of("candidate", tmp_path)
    process.kill()
    finish(process)
    wait_for(lambda: not processes_naming(tmp_path), "the end of both workers")
