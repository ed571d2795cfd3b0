"""Jobs in threads: side by side, ended together, and nothing that they started is left."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from parity_check.engines import processes
from parity_check.engines.environment import provision
from parity_check.engines.side_by_side import side_by_side


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def sleeper(pid: Path, lock: Path) -> None:
    """Holds a lock while a child of it sleeps."""
    with provision.locked(lock, lambda _: None):
        processes.run(["sh", "-c", f"echo $$ > {pid}.new && mv {pid}.new {pid} && exec sleep 60"])


def assert_gone(pid: Path, lock: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_results_have_the_order_of_the_jobs_and_jobs_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=20)
    jobs = dict.fromkeys(("b", "a"), both.wait)
    found = side_by_side(jobs)
    assert list(found) == ["b", "a"]
    assert sorted(found.values()) == [0, 1]


def test_the_first_failure_ends_the_others(tmp_path: Path) -> None:
    pid, lock = tmp_path / "pid", tmp_path / "lock"

    def fails() -> None:
        wait_for(pid.exists)
        raise LookupError("first")

    def compiles() -> None:  # as the compilers of an extension, in jobs of its own
        side_by_side({"source": partial(sleeper, pid, lock)}, at_most=1)

    began = time.monotonic()
    with pytest.raises(LookupError, match="first"):
        side_by_side({"compiles": compiles, "fails": fails})
    assert time.monotonic() - began < 20
    assert_gone(pid, lock)


def test_jobs_that_wait_for_a_thread_are_not_begun_after_a_failure() -> None:
    begun: list[str] = []

    def fails() -> None:
        raise LookupError

    jobs = {"fails": fails, **{name: partial(begun.append, name) for name in "abcdef"}}
    with pytest.raises(LookupError):
        side_by_side(jobs, at_most=1)
    assert len(begun) < 6
    assert side_by_side({"later": lambda: 1}) == {"later": 1}


def test_an_interrupt_ends_all(tmp_path: Path) -> None:
    pids, locks = [tmp_path / "p0", tmp_path / "p1"], [tmp_path / "l0", tmp_path / "l1"]

    def interrupt() -> None:
        wait_for(lambda: all(pid.exists() for pid in pids))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        side_by_side(
            {pid: partial(sleeper, pid, lock) for pid, lock in zip(pids, locks, strict=True)}
        )
    for pid, lock in zip(pids, locks, strict=True):
        assert_gone(pid, lock)
