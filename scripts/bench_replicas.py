"""Measure what replicas on a Ray cluster cost the driver, and what two of them gain.

    python scripts/bench_replicas.py [--replicas 4 16 64] [--tokens 1000000 10000000]

Starts a local cluster. First, `parity-check record` with replicas that answer at once: the time
and the peak memory of the driver are those of dealing, gathering and writing. Then `compare` with
fake engines that sleep for each sample: without a cluster, and with one and two replicas an engine.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import tomli_w
from ray.cluster_utils import Cluster

from parity_check.cli.main import main as parity_check
from parity_check.engines.placement import cluster
from parity_check.engines.placement.replica import Replica
from parity_check.engines.replies import Sampled

LENGTH = 2048
TOP = 5
SLEEP = {"delay_s": 0.05}
SLEPT = {"num_prompts": 48, "samples_per_prompt": 4, "max_tokens": 8, "repeats": 0}


class Instant(Replica):
    """Answers `generate` at once, with as many numbers as a real engine."""

    def _run(self, operation: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        if operation != "generate":
            return super()._run(operation, arguments, named)
        draw = random.Random(0)
        return [
            Sampled(
                sample_id=request["sample_id"],
                token_ids=[draw.randrange(256) for _ in range(LENGTH)],
                logprobs=[-draw.random() for _ in range(LENGTH)],
                top_token_ids=[[1, 2, 3, 4, 5] for _ in range(LENGTH)],
                top_logprobs=[[-draw.random() for _ in range(TOP)] for _ in range(LENGTH)],
                finish_reason="length",
                text="",
            )
            for request in arguments[0]
        ]


def record(address: str, replicas: int, tokens: int) -> None:
    """Record a trace with instant replicas; print the seconds and the driver's peak in MiB."""
    cluster.Replica = Instant  # type: ignore[misc]
    workload = {
        "prompts": "bundled:more-prompts", "num_prompts": 8, "max_tokens": LENGTH,
        "samples_per_prompt": -(-tokens // (8 * LENGTH)), "top_logprobs": TOP,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        path = configuration(Path(home), workload, address, replicas, {})
        started = time.monotonic()
        sys.argv = [
            *("parity-check", "record", "--engine", "candidate"),
            *("-c", str(path), "-o", f"{home}/T.parquet"),
        ]
        code = parity_check()
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{code} {seconds:.2f} {peak:.0f}")


def configuration(
    home: Path,
    workload: Mapping[str, Any],
    address: str | None,
    replicas: int,
    arguments: Mapping[str, Any],
) -> Path:
    engine: dict[str, Any] = {"kind": "fake", "engine_args": dict(arguments)}
    if address is not None:
        engine["placement"] = {
            "kind": "ray", "address": address, "replicas": replicas, "cpus": 0.01, "wait_s": 600.0,
        }  # fmt: skip
    path = home / "parity.toml"
    tree = {"workload": dict(workload), "run": {"out": str(home / "runs")}}
    path.write_text(tomli_w.dumps({**tree, "reference": engine, "candidate": engine}))
    return path


def recorded(address: str, replicas: int, tokens: int) -> tuple[float, float]:
    """Seconds and MiB of a driver of its own."""
    command = [sys.executable, __file__, "--one", address, str(replicas), str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, seconds, peak = done.stdout.splitlines()[-1].split()
    if code != "0":
        raise RuntimeError(done.stderr)
    return float(seconds), float(peak)


def slept(address: str | None, replicas: int) -> float:
    """Seconds of a `compare` whose engines sleep."""
    with tempfile.TemporaryDirectory() as home:
        path = configuration(Path(home), SLEPT, address, replicas, SLEEP)
        command = [sys.executable, "-m", "parity_check", "compare", "-c", str(path)]
        started = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1, 4):
            raise RuntimeError(done.stderr)
        return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicas", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--tokens", type=int, nargs=2, default=[1_000_000, 10_000_000])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        record(options.one[0], *map(int, options.one[1:]))
        return
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 8, "include_dashboard": False}
    )
    try:
        few, many = options.tokens
        print("| replicas | tokens | seconds | µs a further token | driver's peak, MiB |")
        print("|---:|---:|---:|---:|---:|")
        for replicas in options.replicas:
            first, low = recorded(nodes.address, replicas, few)
            second, high = recorded(nodes.address, replicas, many)
            each = 1e6 * (second - first) / (many - few)
            print(f"| {replicas} | {few:,} | {first:.1f} | | {low:.0f} |")
            print(f"| {replicas} | {many:,} | {second:.1f} | {each:.1f} | {high:.0f} |", flush=True)
        alone = slept(None, 1)
        one, two = slept(nodes.address, 1), slept(nodes.address, 2)
        print("\n| engines that sleep | seconds | ratio |\n|---|---:|---:|")
        print(f"| without a cluster | {alone:.1f} | 1 |")
        print(f"| one replica each | {one:.1f} | {one / alone:.2f} |")
        print(f"| two replicas each | {two:.1f} | {two / alone:.2f} |")
    finally:
        ray.shutdown()
        nodes.shutdown()


if __name__ == "__main__":
    main()
