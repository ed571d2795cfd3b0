"""A signal at a random moment of a command, by its number; and what must hold after it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from helpers.support import COMMAND, assert_tidy, environment, fake_config, run_cli, wait_for
from parity_check.interrupts import SIGNALS
from parity_check.traces.trace import Trace

SLOW_ENGINE = {"delay_s": 0.02}
WORKLOAD = {"num_prompts": 8, "samples_per_prompt": 1, "max_tokens": 6, "repeats": 1}
DEADLINE_S = 60.0

Command = Callable[[Path], list[object]]


def configured(home: Path) -> Path:
    return fake_config(home, reference=SLOW_ENGINE, candidate=SLOW_ENGINE, workload=WORKLOAD)


def compare(home: Path) -> list[object]:
    return ["compare", "-c", configured(home)]


def record(home: Path) -> list[object]:
    return ["record", "-c", configured(home), "--engine", "candidate", "-o", "t.parquet"]


def ablate(home: Path) -> list[object]:
    return ["ablate", "-c", configured(home), "--only", "async_scheduling"]


def weight_sync(home: Path) -> list[object]:
    config = fake_config(
        home,
        reference=SLOW_ENGINE,
        candidate=SLOW_ENGINE,
        workload={**WORKLOAD, "max_tokens": 32, "num_prompts": 12},
        weight_sync={"concurrency": 4, "weights": ["bundled:tiny-next"]},
    )
    return ["weight-sync", "-c", config]


def report(home: Path) -> list[object]:
    """Of a run that is there: no engine, reading and drawing alone."""
    if not (home / "runs").exists():
        assert run_cli(*compare(home), cwd=home).returncode in (0, 1, 4)
    [run] = (home / "runs").iterdir()
    return ["report", run, "--write", "html=page.html"]


STEPS: dict[Command, int] = {compare: 8, record: 3, ablate: 21, weight_sync: 16, report: 0}
"""Lines of progress that each command prints before its answer."""
ORDER: tuple[Command, ...] = (compare, ablate, compare, weight_sync, compare, record, report)


def interrupt_at(home: Path, moment: int) -> int:
    """Run a command and interrupt it; returns 130, or what it had ended with. AssertionError else.

    The moment is so many lines of progress and a little more, so that it does not depend on what
    else the machine does.
    """
    chance = random.Random(moment)
    command, number = ORDER[moment % len(ORDER)], chance.choice(SIGNALS)
    arguments = command(home)
    before = set(home.rglob("*"))
    said = home / "stderr"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=home,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            process_group=0,
        )
    try:
        wait_for(lambda: listens(process.pid), "the first thing that it does")
        steps = chance.randint(0, STEPS[command])
        wait_for(lambda: lines(said) >= steps or process.poll() is not None, f"{steps} steps")
        time.sleep(chance.uniform(0.0, 0.3 if steps < STEPS[command] else 2.0))
        over = not stopped(process.pid)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        code = process.wait(DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    text = said.read_text()
    assert "Traceback" not in text, text
    assert_tidy(home)
    if over:  # the answer was there before the signal
        assert code in (0, 1, 4)
        assert "interrupted" not in text
        return code
    assert code == 130, f"{number.name}: {code} {text}"
    last = text.splitlines()[-1]
    assert last.startswith("interrupted; "), text
    made = [path for path in home.rglob("*") if path not in before]
    for path in made:
        if path.suffix in (".parquet", ".jsonl") and "--resume" not in last:
            batch = path.parent.suffix == ".batches"
            name = f"{path.parent.stem}.parquet" if batch else path.name
            assert "had finished" in last or name in last, text
        if path.suffix == ".parquet":
            assert sum(1 for _ in Trace(path).samples())
        if path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())
    return code


def stopped(pid: int) -> bool:
    """Stop a child process; returns whether it had not ended yet.

    While the kernel ends a process, which takes some time, the process seems to run and is deaf to
    signals. So it is only certain that a process hears one if it could be stopped before.
    """
    os.kill(pid, signal.SIGSTOP)
    seen = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert seen is not None
    return seen.si_code == os.CLD_STOPPED


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def listens(pid: int) -> bool:
    """Whether a program handles signals already; before that Python itself ends it."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (SIGNALS[-1] - 1) & 1)
