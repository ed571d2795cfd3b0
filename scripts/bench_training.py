"""Where the time of `parity-check train` goes, on real engines.

    python scripts/bench_training.py [--steps 8] [--set KEY=VALUE …]

Runs the example `training-curves` without its one-shot comparison and prints, for each arm, the
seconds of a step and the shares of the engine, the trainer and the weight updates. All figures are
of one run on one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHASES = ("sample_s", "learn_s", "sync_s")
HEAD = (
    "| arm | steps | s a step | engine | trainer | weights | tokens/s of the engine |\n"
    "|---|---:|---:|---:|---:|---:|---:|"
)


def train(directory: Path, steps: int, changes: list[str]) -> tuple[dict[str, object], float]:
    """The report of a run, and its wall time with all starts."""
    settings = [f"training.steps={steps}", "training.compare=false", *changes]
    began = time.perf_counter()
    subprocess.run(
        [
            sys.executable, "-m", "parity_check", "train", "-c", "bundled:training-curves",
            "-o", str(directory), "--exit-zero", "-q",
            *(part for each in settings for part in ("--set", each)),
        ],
        check=True,
    )  # fmt: skip
    took = time.perf_counter() - began
    [run] = directory.iterdir()
    report: dict[str, object] = json.loads((run / "training.json").read_text())
    return report, took


def row(arm: str, steps: list[dict[str, float]]) -> str:
    """One arm. Its first step is left out: it has the engine's first compilations."""
    rest = [step for step in steps if step["step"] > 0]
    sums = [sum(step[phase] for step in rest) for phase in PHASES]
    total = sum(sums)
    shares = [f"{100 * part / total:.0f} %" for part in sums]
    rate = sum(step["tokens"] for step in rest) / sums[0]
    cells = [arm, f"{len(rest)}", f"{total / len(rest):.2f}", *shares, f"{rate:,.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        report, took = train(Path(made), options.steps, options.set)
    print(f"{os.cpu_count()} cores, load before the run {os.getloadavg()[1]:.1f}\n\n{HEAD}")
    for arm in report["arms"]:
        steps = [step for step in report["steps"] if step["arm"] == arm["name"]]
        print(row(arm["name"], steps))
    runs = sum(len(arm["seeds"]) for arm in report["arms"])
    inside = sum(step[phase] for step in report["steps"] for phase in PHASES)
    print(f"\n{took:.0f} s for {runs} runs, {inside:.0f} s of it in their steps")


if __name__ == "__main__":
    main()
