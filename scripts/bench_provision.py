"""Measure the first run: both engines provisioned from empty caches, then a small comparison.

    python scripts/bench_provision.py [-c bundled:quickstart]

Prints the seconds until both environments are ready, those of each step, and the sizes that uv
reports for what it downloads (packages above 1 MiB). The caches are temporary; the user's are left
alone. Downloads several GB.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STARTED = ": starting the engine"


def run(config: str, directory: Path) -> tuple[float, list[str]]:
    """Compare with empty caches; the seconds until an engine starts, and the lines of stderr."""
    caches = {"PARITY_CHECK_CACHE": "environments", "UV_CACHE_DIR": "uv"}
    environ = {name: str(directory / below) for name, below in caches.items()}
    small = ["workload.num_prompts=8", "workload.samples_per_prompt=1", "workload.max_tokens=16"]
    command = [sys.executable, "-m", "parity_check", "compare", "-c", config]
    command += [argument for item in small for argument in ("--set", item)]
    began, ready, lines = time.monotonic(), None, []
    with subprocess.Popen(
        [*command, "-o", str(directory / "runs"), "--exit-zero"],
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stderr or ():
            lines.append(line.rstrip())
            if ready is None and STARTED in line:
                ready = time.monotonic() - began
    if process.returncode != 0 or ready is None:
        sys.exit("\n".join(lines))
    return ready, lines


def downloaded_mib(log: str) -> float:
    """What uv announced, in MiB."""
    units = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}
    sizes = re.findall(r"^Downloading \S+ \(([\d.]+)(KiB|MiB|GiB)\)$", log, re.MULTILINE)
    return sum(float(number) * units[unit] for number, unit in sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-c", "--config", default="bundled:quickstart")
    config = parser.parse_args().config
    with tempfile.TemporaryDirectory() as scratch:
        ready, lines = run(config, Path(scratch))
        print("\n".join(lines))
        print(f"both environments: {ready:.0f} s")
        for log in sorted(Path(scratch).glob("environments/envs/*/provision.log")):
            mib = downloaded_mib(log.read_text(encoding="utf-8"))
            used = subprocess.run(
                ["du", "-sm", str(log.parent)], capture_output=True, text=True, check=True
            )
            print(f"{log.parent.name}: {mib:.0f} MiB downloaded, {used.stdout.split()[0]} MiB")


if __name__ == "__main__":
    main()
