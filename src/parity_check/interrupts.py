"""Ctrl-C, SIGTERM and SIGHUP: recorded when they arrive, raised where a command can end cleanly.

Python runs a signal's handler wherever the main thread happens to be. In a weakref's callback or a
`__del__` whatever the handler raises is swallowed, and anywhere else it can leave a lock held. So
the handlers here do nothing. The interpreter writes the number of each signal into a pipe, a thread
reads it, and `check` raises in the thread that calls it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_S = 0.2
"""Code that waits does so in intervals of this length, with a `check` after each."""
LEAVE_AFTER_S = 2.0
"""The time that a second signal leaves for cleanup."""
INTERRUPTED = 130

_came = threading.Event()


def listen() -> None:
    """Handle the signals from now on; ignored ones stay ignored."""
    reading, writing = map(_above_the_streams, os.pipe())
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda *_: None)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()


def came() -> bool:
    """Whether there was a signal; for code that must not raise, such as cleanup."""
    return _came.is_set()


def check() -> None:
    """Raise KeyboardInterrupt if there was a signal, in any thread."""
    if _came.is_set():
        raise KeyboardInterrupt


def _watch(reading: int) -> None:
    """Record the first signal; exit soon after a second, whatever the other threads do."""
    for _ in _signals(reading):
        if _came.is_set():
            time.sleep(LEAVE_AFTER_S)
            os._exit(INTERRUPTED)  # which also ends every process group: see engines.processes
        _came.set()


def _above_the_streams(descriptor: int) -> int:
    """The same, but not in the place of a stream that the caller has closed."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def _signals(reading: int) -> Iterator[int]:
    while True:
        yield from (number for number in os.read(reading, 64) if number in SIGNALS)
