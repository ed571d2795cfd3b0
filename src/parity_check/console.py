"""stdout for data, stderr for messages; no rich markup, because tokens contain brackets."""

from __future__ import annotations

import errno
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TextIO, cast

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from parity_check import visible
from parity_check.errors import ClosedOutputError, Interrupted, OutputError, ParityCheckError

LONGEST_LINE = 1000
"""The longest line on stderr, in characters."""


class Console:
    """All output of parity-check.

    `verbosity` is −1 (quiet), 0 or 1. `color` and `progress`: None decides by the terminal.
    """

    def __init__(
        self, verbosity: int = 0, color: bool | None = None, progress: bool | None = None
    ) -> None:
        self.verbosity = verbosity
        self.out = _console(color, stderr=False)
        self.err = _console(color, stderr=True)
        self._animated = self.err.is_terminal if progress is None else progress
        self._quiet_progress = progress is False
        self._lock = threading.Lock()

    @property
    def width(self) -> int:
        """Columns of the terminal; of a file or pipe as many as a report fills at most."""
        return self.out.width if self.out.is_terminal and sys.stdout.isatty() else LONGEST_LINE

    def data(self, text: str) -> None:
        """Print a report to stdout; its lines cannot be workflow commands. Raises OutputError."""
        self._write(visible.log(text))

    def commands(self, text: str) -> None:
        """Print workflow commands to stdout. Raises OutputError."""
        self._write(visible.document(text))

    def _write(self, text: str) -> None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()

    def _talk(self, text: str, style: str | None = None) -> None:
        """Print one line to stderr, wherever the text comes from."""
        self.err.print(visible.message(text, LONGEST_LINE), soft_wrap=True, style=style)

    def say(self, text: str) -> None:
        """Print a message to stderr, unless quiet."""
        if self.verbosity >= 0:
            self._talk(text)

    def detail(self, text: str) -> None:
        """Print a message that only `-v` shows."""
        if self.verbosity > 0:
            self.say(text)

    def warn(self, text: str) -> None:
        self._talk(f"warning: {text}", "yellow")

    def error(self, error: ParityCheckError) -> None:
        """Print the error, its details, its hint, its log and what was kept, in this order."""
        if isinstance(error, ClosedOutputError):
            return
        if isinstance(error, Interrupted):
            self._talk(f"interrupted; {error.kept or 'nothing was recorded'}")
            return
        self._talk(f"error: {error.message}", "bold red")
        for line in error.details:
            self._talk(f"  {line}")
        if error.hint:
            self._talk(f"hint: {error.hint}")
        if error.log:
            self._talk(f"log: {error.log}")
        if error.kept:
            self._talk(error.kept)

    @contextmanager
    def activity(self) -> Iterator[Activity]:
        """Show progress bars while the block runs."""
        shown = self._animated and self.verbosity >= 0
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            _Count(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.err,
            transient=True,
            disable=not shown,
        ) as bars:
            yield Activity(self, None if not shown else bars)


class Stream:
    """stdout or stderr: accepts any character, and handles a closed reader.

    Failed writes to stdout raise OutputError; stderr goes silent instead.
    """

    def __init__(self, stream: TextIO | None, *, quiet: bool) -> None:
        self._stream, self._quiet = stream, quiet
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would bypass the encoding
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._try(lambda stream: stream.write(text)) or len(text)

    def flush(self) -> None:
        if self._stream is not None:
            self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def _try(self, act: Callable[[TextIO], int | None]) -> int | None:
        if self._stream is None:
            if self._quiet:
                return None
            raise OutputError("cannot write to stdout: it is closed")
        try:
            return act(self._stream)
        except OSError as error:
            # Python flushes stdout again at exit, and would report the error a second time.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if self._quiet:
                return None
            if error.errno == errno.EPIPE:
                raise ClosedOutputError("the reader of stdout has closed it") from None
            raise OutputError(f"cannot write to stdout: {error.strerror}") from None


def guard_streams() -> None:
    """Make stdout and stderr Streams, and keep other files from taking a closed descriptor."""
    sys.stdout = cast("TextIO", Stream(sys.stdout, quiet=False))
    sys.stderr = cast("TextIO", Stream(sys.stderr, quiet=True))
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


class _Count(MofNCompleteColumn):
    """`done/total`; only what is known of them."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(f"{int(task.completed)}" if task.completed else "")
        return super().render(task)


class _Rate(ProgressColumn):
    """The tokens per second of what is recorded."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("rate", ""))


@dataclass(slots=True)
class _Recording:
    """A trace that an engine records, in one or several batches."""

    total: int
    first: int
    """The samples that an earlier run recorded."""
    before: int
    """The samples of earlier batches."""
    began: float
    kept: int = 0
    """The tokens of the batches of this run that are done, and of the current one."""
    tokens: int = 0

    def next(self, before: int) -> None:
        self.before, self.kept, self.tokens = before, self.kept + self.tokens, 0

    def rate(self) -> str:
        """Empty while no sample is done."""
        tokens = self.kept + self.tokens
        elapsed = time.monotonic() - self.began
        return f"{tokens / elapsed:,.0f} tokens/s" if tokens and elapsed else ""

    def left(self) -> str:
        """At the speed of this run so far."""
        elapsed = time.monotonic() - self.began
        seconds = elapsed * (self.total - self.before) / (self.before - self.first)
        return f"{timedelta(seconds=round(seconds))} left"


class Activity:
    """Progress by name: bars on a terminal, one line per step and batch elsewhere."""

    def __init__(self, console: Console, bars: Progress | None) -> None:
        self._console, self._bars = console, bars
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, str] = {}
        self._recordings: dict[str, _Recording] = {}
        self._started = time.monotonic()

    def whole(self, name: str, before: int, total: int | None) -> None:
        """Count what follows of `name` as part of `total`, of which `before` are done.

        None ends it. Thread-safe.
        """
        with self._console._lock:
            if total is None:
                self._recordings.pop(name, None)
            elif name not in self._recordings:
                self._recordings[name] = _Recording(total, before, before, time.monotonic())
            else:
                recording = self._recordings[name]
                recording.next(before)
                if self._bars is None:
                    how = f"{before:,} of {total:,} samples, {recording.rate()}, {recording.left()}"
                    self._print(f"{name}: {self._printed.get(name, '')}, {how}")

    def update(
        self,
        name: str,
        step: str,
        done: int | None = None,
        total: int | None = None,
        tokens: int = 0,
    ) -> None:
        """Line `name` is at `step`, `done` of `total` (None: unknown). Thread-safe.

        `tokens` are those of the samples that are done.
        """
        with self._console._lock:
            recording = self._recordings.get(name)
            if recording is not None:
                recording.tokens = tokens
            if self._bars is None:
                self._print_step(name, step)
                return
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=None)
            task, text = self._tasks[name], f"{name}: {step}"
            if done is not None and recording is not None:
                total = recording.total
                done += recording.before
            if self._bars.tasks[task].description != text:
                self._bars.reset(task, description=text)  # the time left is of this step
            self._bars.tasks[task].total = total  # `update` would keep that of the step before
            rate = "" if recording is None else recording.rate()
            self._bars.update(task, completed=done or 0, rate=rate)

    def _print_step(self, name: str, step: str) -> None:
        """Without a terminal, print each step once, with the time at which it began."""
        if self._printed.get(name) != step:
            self._printed[name] = step
            self._print(f"{name}: {step}")

    def _print(self, text: str) -> None:
        if not self._console._quiet_progress:
            elapsed = time.monotonic() - self._started
            self._console.say(f"[{elapsed:6.1f} s] {text}")


def _console(color: bool | None, *, stderr: bool) -> RichConsole:
    return RichConsole(
        stderr=stderr,
        markup=False,
        emoji=False,
        highlight=False,
        no_color=None if color is None else not color,
        force_terminal=True if color else None,
    )
