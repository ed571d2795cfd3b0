"""Measure what replicas on a Ray cluster cost the driver, and what two of them gain.

    python scripts/bench_replicas.py [--replicas 4 16 64] [--tokens 3000000 6000000 10000000]

Starts a local cluster. First, `parity-check record` with replicas that answer at once: the
processor time and the peak memory of the driver are those of dealing, gathering and writing. Each
replica is an actor process of its own, about 0.1 GB. A size has its own driver and actors; what a
token takes is the difference to the size before it. A size below one batch (2 million tokens) has
a lower peak, because the driver holds one batch.

Then `compare` with fake engines that sleep for each sample: without a cluster, and with one and
two replicas an engine.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import ray
import tomli_w
from ray.cluster_utils import Cluster

from parity_check.cli.main import main as parity_check
from parity_check.engines.placement import cluster
from parity_check.engines.placement.replica import Replica
from parity_check.engines.replies import Sampled

SIZES = [3_000_000, 6_000_000, 10_000_000]
LENGTH = 2048
TOP = 5
SLEEP = {"delay_s": 0.05}
SLEPT = {"num_prompts": 48, "samples_per_prompt": 4, "max_tokens": 8, "repeats": 0}


class Instant(Replica):
    """Answers `generate` at once, with as many numbers as a real engine."""

    def _run(self, operation: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        if operation != "generate":
            return super()._run(operation, arguments, named)
        draw = np.random.default_rng(0)
        return [
            Sampled(
                sample_id=request["sample_id"],
                token_ids=draw.integers(256, size=LENGTH).tolist(),
                logprobs=(-draw.random(LENGTH)).tolist(),
                top_token_ids=draw.integers(256, size=(LENGTH, TOP)).tolist(),
                top_logprobs=(-draw.random((LENGTH, TOP))).tolist(),
                finish_reason="length",
                text="",
            )
            for request in arguments[0]
        ]


class Cost(NamedTuple):
    """What a record costs its driver."""

    seconds: float
    cpu: float
    """Seconds of the driver's own processor time."""
    peak: float
    """MiB."""


def record(address: str, replicas: int, tokens: int) -> None:
    """Record a trace with instant replicas; print the exit code and the cost."""
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
        with patch.object(cluster, "Replica", Instant):
            code = parity_check()
        seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    print(f"cost {code} {seconds:.2f} {cpu:.2f} {used.ru_maxrss / 1024:.0f}")


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


def recorded(address: str, replicas: int, tokens: int) -> Cost:
    """The cost in a driver of its own."""
    command = [sys.executable, __file__, "--one", address, str(replicas), str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    [found] = [line for line in done.stdout.splitlines() if line.startswith("cost ")]
    _, code, *cost = found.split()
    if code != "0":
        raise RuntimeError(done.stderr)
    return Cost(*map(float, cost))


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
    parser.add_argument("--tokens", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        record(options.one[0], *map(int, options.one[1:]))
        return
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 8, "include_dashboard": False}
    )
    try:
        print("| replicas | tokens | seconds | driver's CPU s | µs a further token | peak, MiB |")
        print("|---:|---:|---:|---:|---:|---:|")
        for replicas in options.replicas:
            before: tuple[int, Cost] | None = None
            for tokens in options.tokens:
                cost = recorded(nodes.address, replicas, tokens)
                each = ""
                if before is not None:
                    more = cost.cpu - before[1].cpu
                    each = f"{1e6 * more / (tokens - before[0]):.1f}"
                before = tokens, cost
                print(
                    f"| {replicas} | {tokens:,} | {cost.seconds:.1f} | {cost.cpu:.1f} | {each} | "
                    f"{cost.peak:.0f} |",
                    flush=True,
                )
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
