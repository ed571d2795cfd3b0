#!/usr/bin/env python
"""Interrupt commands on the fake engine at random moments, and count their exits.

    PYTHONPATH=tests python scripts/interrupts.py [MOMENTS] [FIRST]

A moment is reproducible by its number. Two run in parallel.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.moments import ORDER, interrupt_at


def at(moment: int) -> str:
    with tempfile.TemporaryDirectory(prefix=f"moment-{moment}-") as home:
        try:
            return f"exit {interrupt_at(Path(home), moment)}"
        except AssertionError as error:
            command = ORDER[moment % len(ORDER)].__name__
            print(f"moment {moment}, {command}: {error}", flush=True)
            return "FAILED"


def main() -> None:
    # A shell starts what runs in its background with SIGINT ignored, and that is passed on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    moments = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with ThreadPoolExecutor(2) as two:
        ends = Counter(two.map(at, range(first, first + moments)))
    for end, count in ends.most_common():
        print(f"{count:5d}  {end}")
    sys.exit(bool(ends["FAILED"]))


if __name__ == "__main__":
    main()
