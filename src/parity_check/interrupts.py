"""Ctrl-C, SIGTERM and SIGHUP: recorded when they arrive, raised where a command can end cleanly.

Python runs a signal's handler wherever the main thread happens to be. In a weakref's callback or a
`__del__` whatever the handler raises is swallowed, and anywhere else it can leave a lock held. So
the handler here sets a flag, and the interpreter writes the number of each signal into a pipe, from
which a thread sets it while the main thread is in a long call. `check` raises where it is called.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.2
"""Code that waits does so in intervals of this length, with a `check` after each."""
LEAVE_AFTER_S = 2.0
"""The time that a second signal leaves for cleanup."""
INTERRUPTED = 130


@dataclass(slots=True)
class State:
    """Of this process: whether a signal has come, and the exit code once the command is over."""

    came: bool = False
    code: int | None = None


_state = State()
_abandoned: ContextVar[tuple[threading.Event, ...]] = ContextVar("abandoned", default=())


def listen() -> None:
    """Handle the signals from now on; ignored ones stay ignored."""
    reading, writing = map(_above_the_streams, os.pipe())
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _note)
    atexit.register(_end)  # the first to be registered is the last to be called
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


def came() -> bool:
    """Whether there was a signal; for code that must not raise, such as cleanup."""
    return _state.came


def check() -> None:
    """Raise KeyboardInterrupt if there was a signal, in any thread, or if this job is abandoned."""
    if _state.came or any(each.is_set() for each in _abandoned.get()):
        raise KeyboardInterrupt


@contextmanager
def abandonable() -> Iterator[Callable[[], None]]:
    """What runs in this context, in any thread, can be abandoned: its next `check` raises.

    Yields the function that abandons it.
    """
    event = threading.Event()
    before = _abandoned.set((*_abandoned.get(), event))
    try:
        yield event.set
    finally:
        _abandoned.reset(before)


def leave(code: int) -> NoReturn:
    """End the program; a signal that comes while the interpreter ends is answered too."""
    _state.code = code
    sys.exit(code)


def _note(number: int, frame: FrameType | None) -> None:
    _state.came = True


def _end() -> None:
    """Skip what is left of the interpreter's own end, in which no signal is seen."""
    if _state.code is None:
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if _state.came and _state.code != INTERRUPTED:
        with suppress(OSError):
            os.write(2, b"interrupted; the command had finished\n")
        _state.code = INTERRUPTED
    os._exit(_state.code)


def _watch(reading: int) -> None:
    """Record the first signal; exit soon after a second, whatever the other threads do."""
    seen = False
    for _ in _signals(reading):
        if seen:
            time.sleep(LEAVE_AFTER_S)
            os._exit(INTERRUPTED)  # which also ends every process group: see engines.processes
        seen = _state.came = True


def _above_the_streams(descriptor: int) -> int:
    """The same, but not in the place of a stream that the caller has closed."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _signals(reading: int) -> Iterator[int]:
    while True:
        yield from (number for number in os.read(reading, 64) if number in SIGNALS)
