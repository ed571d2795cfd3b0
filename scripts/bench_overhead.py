"""Measure the overhead of `parity-check compare` over two plain vLLM scripts.

    python scripts/bench_overhead.py [-c configs/quickstart.toml] [--repeats 3]

Alternates `compare` without A/A runs and two plain vLLM scripts, one after the other. Each script
loads one engine with the same arguments and generates the same number of tokens for every request
that `compare` sampled or replayed on it. Prints the wall times and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from parity_check.config.load import load_config
from parity_check.config.models import ROLES, Config, Role
from parity_check.engines.client import WORKER, WorkerSpec
from parity_check.engines.kinds import configured_engine
from parity_check.traces.checkpoint import locate_model
from parity_check.traces.trace import Trace

BARE = """
import json, sys
from vllm import LLM, SamplingParams
work = json.load(open(sys.argv[1]))
llm = LLM(**work["engine_args"])
for batch in work["batches"]:
    prompts = [{"prompt_token_ids": ids} for ids, _ in batch]
    params = [
        SamplingParams(max_tokens=n, ignore_eos=True, detokenize=False, **work["sampling"])
        for _, n in batch
    ]
    llm.generate(prompts, params, use_tqdm=False)
"""


def spec_of(role: Role, config: Config) -> WorkerSpec:
    engine = configured_engine(role, config)
    made = engine.resolve(say=lambda *step: print(f"{role}:", *step, file=sys.stderr))
    return engine.spec(locate_model(config.model), made)


def run_compare(path: Path, out: Path) -> tuple[float, Path]:
    """Run `compare`; returns the seconds and the run directory."""
    started = time.monotonic()
    command = [sys.executable, "-m", "parity_check", "compare", "-c", str(path), "-o", str(out)]
    done = subprocess.run(
        [*command, "--set", "workload.repeats=0", "--no-progress"],
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    if done.returncode not in (0, 1, 4):
        sys.exit(done.stderr)
    return seconds, max(out.iterdir())


def batches_of(run: Path) -> list[list[tuple[list[int], int]]]:
    """Prompts and completion lengths of both sampled traces, which both engines ran."""
    return [
        [
            (list(sample.prompt_token_ids), len(sample.completion_token_ids))
            for sample in Trace(run / f"{role}.parquet").samples()
        ]
        for role in ROLES
    ]


def run_bare(spec: WorkerSpec, sampling: dict[str, Any], batches: list[Any], work: Path) -> float:
    script, payload = work / "bare.py", work / "bare.json"
    script.write_text(BARE)
    payload.write_text(
        json.dumps(
            {
                "engine_args": dict(spec.engine_args),
                "sampling": sampling,
                "batches": batches,
            }
        )
    )
    own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environ = {**own, "PYTHONPATH": str(WORKER / "extension"), **spec.environ}
    started = time.monotonic()
    subprocess.run(
        [str(spec.python), str(script), str(payload)],
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("-c", "--config", type=Path, default=Path("configs/quickstart.toml"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    config = load_config(options.config)
    specs = {role: spec_of(role, config) for role in ROLES}
    sampling = config.workload.sampling() | {"logprobs": config.workload.top_logprobs}
    print("run   compare s   reference s   candidate s   ratio")
    ratios = []
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        for number in range(1, options.repeats + 1):
            compared, run = run_compare(options.config, work / f"runs-{number}")
            batches = batches_of(run)
            bare = {role: run_bare(specs[role], sampling, batches, work) for role in ROLES}
            ratios.append(compared / sum(bare.values()))
            print(
                f"{number:3}   {compared:9.1f}   {bare['reference']:11.1f}   "
                f"{bare['candidate']:11.1f}   {ratios[-1]:5.2f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.2f} of {len(ratios)} runs")


if __name__ == "__main__":
    main()
