"""Child processes: each in its own process group, and none outlives this process.

However this process ends, `kill -9` included, the kernel kills the child itself and a watchdog the
rest of its group.
"""

from __future__ import annotations

import atexit
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from parity_check import interrupts

PYTHON = [sys.executable, "-I", "-S"]
HERE = Path(__file__).parent
Output = int | IO[bytes]

_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawn")
"""The kernel ends a child when the thread that started it ends, so this thread must stay alive."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished process."""

    returncode: int
    stdout: str
    stderr: str


class _Watchdog:
    """The running process groups, and the watchdog process that knows them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def ready(self) -> None:
        """Start the watchdog first, so that no group starts without an entry."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()

    def add(self, group: int) -> None:
        with self._lock:
            self._groups.add(group)
            self._tell(f"+{group}\n")

    def discard(self, group: int) -> bool:
        """Whether the group was running until now."""
        with self._lock:
            known = group in self._groups
            self._groups.discard(group)
            if known:
                self._tell(f"-{group}\n")
            return known

    def close(self) -> None:
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                with suppress(OSError):
                    self._process.stdin.close()
                self._process.wait()
            self._process = None

    def _tell(self, line: str) -> None:
        try:
            self._write(line)
        except OSError:  # it was killed
            self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [*PYTHON, str(HERE / "watchdog.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        self._write("".join(f"+{group}\n" for group in self._groups))

    def _write(self, text: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()


_watchdog = _Watchdog()
atexit.register(_watchdog.close)


def start(
    command: Sequence[str],
    *,
    stdin: Output = subprocess.DEVNULL,
    stdout: Output,
    stderr: Output,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a command that ends with this process; call `end` afterwards. Raises OSError."""
    _watchdog.ready()
    reading, report = os.pipe()
    try:
        process = _spawner.submit(
            subprocess.Popen,
            [*PYTHON, str(HERE / "launch.py"), str(os.getpid()), str(report), *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=environ,
            pass_fds=[report, *descriptors],
            start_new_session=True,
        ).result()
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(report)
    _watchdog.add(process.pid)
    with os.fdopen(reading, "rb") as answer:
        failure = answer.read()
    if failure:
        end(process)
        raise OSError(int(failure), os.strerror(int(failure)), command[0])
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the group, and wait for it; safe to call again, from any thread."""
    if _watchdog.discard(process.pid):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    limit_s: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> Ended:
    """Run a command to its end; `tell` receives the lines of its stderr as they come.

    Whatever it has started ends with it. Raises OSError, TimeoutError and, after a signal,
    KeyboardInterrupt.
    """
    process = start(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, environ=environ
    )
    assert process.stdout is not None
    assert process.stderr is not None
    deadline = None if limit_s is None else time.monotonic() + limit_s
    said: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    told = 0
    try:
        with process.stdout, process.stderr, selectors.DefaultSelector() as streams:
            streams.register(process.stdout, selectors.EVENT_READ, "stdout")
            streams.register(process.stderr, selectors.EVENT_READ, "stderr")
            while streams.get_map():
                ready = streams.select(interrupts.POLL_S)
                for key, _ in ready:
                    received = os.read(key.fd, 1 << 16)
                    said[key.data] += received
                    if not received:
                        streams.unregister(key.fileobj)
                while tell is not None and (stop := said["stderr"].find(b"\n", told) + 1):
                    tell(said["stderr"][told:stop].decode(errors="replace"))
                    told = stop
                interrupts.check()
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError
                if not ready and process.poll() is not None:
                    break  # what holds the pipes now was left behind by it
            while process.poll() is None:
                interrupts.check()
                if deadline is not None and time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(0.01)
    finally:
        end(process)
    return Ended(
        process.returncode,
        said["stdout"].decode(errors="replace"),
        said["stderr"].decode(errors="replace"),
    )
