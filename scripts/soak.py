#!/usr/bin/env python
"""Run commands on fake engines over and over, and print what the process holds after them.

    PYTHONPATH=tests python scripts/soak.py [RUNS] [SIDE_BY_SIDE]

In sequence within this process, every tenth a `compare`, the others a `record`; then `compare`
side by side, as processes in one directory.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.soak import held
from helpers.support import call_cli, fake_config, processes_naming, run_cli

COMPARE = ("compare",)
RECORD = ("record", "--engine", "candidate", "-o", "trace.parquet")


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    beside = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        home = Path(name)
        config = fake_config(home, workload={"repeats": 1})
        ends: Counter[int] = Counter()
        for number in range(runs + 1):
            if number in (0, 1, 2, 5, 10, 20) or number % 50 == 0:
                print(f"after {number:3d} runs: {held()}", flush=True)
            if number < runs:
                command = COMPARE if number % 10 == 0 else RECORD
                ends[call_cli(*command, "-c", config, cwd=home).returncode] += 1
        run_cli(*COMPARE, "-c", config, cwd=home)  # compiles the bytecode that the others share
        with ThreadPoolExecutor(beside) as threads:
            done = threads.map(lambda _: run_cli(*COMPARE, "-c", config, cwd=home), range(beside))
            ends.update(each.returncode for each in done)
        print(f"after {beside} side by side: {held()}")
        print(f"exit codes: {dict(ends)}; processes left: {processes_naming(home)}")


if __name__ == "__main__":
    main()
