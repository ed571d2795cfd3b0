"""stdout for data, stderr for messages; no rich markup, because tokens contain brackets."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from parity_check.errors import Interrupted, OutputError, ParityCheckError


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

    def data(self, text: str) -> None:
        """Print to stdout, unchanged. Raises OutputError when stdout is closed or full."""
        try:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
            sys.stdout.flush()
        except OSError as error:
            # Python flushes stdout again at exit, and would report the error a second time.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise OutputError(f"cannot write to stdout: {error.strerror}") from None

    def say(self, text: str) -> None:
        """Print a message to stderr, unless quiet."""
        if self.verbosity >= 0:
            self.err.print(text, soft_wrap=True)

    def detail(self, text: str) -> None:
        """Print a message that only `-v` shows."""
        if self.verbosity > 0:
            self.say(text)

    def warn(self, text: str) -> None:
        self.err.print(f"warning: {text}", soft_wrap=True, style="yellow")

    def error(self, error: ParityCheckError) -> None:
        """Print the error, its details, its hint, its log and what was kept, in this order."""
        if isinstance(error, Interrupted):
            self.err.print(f"interrupted; {error.kept or 'nothing was recorded'}", soft_wrap=True)
            return
        self.err.print(f"error: {error.message}", soft_wrap=True, style="bold red")
        for line in error.details:
            self.err.print(f"  {line}", soft_wrap=True)
        if error.hint:
            self.err.print(f"hint: {error.hint}", soft_wrap=True)
        if error.log:
            self.err.print(f"log: {error.log}", soft_wrap=True)
        if error.kept:
            self.err.print(error.kept, soft_wrap=True)

    @contextmanager
    def activity(self) -> Iterator[Activity]:
        """Show progress bars while the block runs."""
        shown = self._animated and self.verbosity >= 0
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.err,
            transient=True,
            disable=not shown,
        ) as bars:
            yield Activity(self, None if not shown else bars)


class Activity:
    """Progress by name: bars on a terminal, one line per step elsewhere."""

    def __init__(self, console: Console, bars: Progress | None) -> None:
        self._console, self._bars = console, bars
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, str] = {}
        self._started = time.monotonic()

    def update(
        self, name: str, step: str, done: int | None = None, total: int | None = None
    ) -> None:
        """Line `name` is at `step`, `done` of `total` (None: unknown). Thread-safe."""
        with self._console._lock:
            if self._bars is None:
                self._print_step(name, step)
                return
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=None)
            self._bars.update(
                self._tasks[name],
                description=f"{name}: {step}",
                completed=done or 0,
                total=total,
            )

    def _print_step(self, name: str, step: str) -> None:
        """Without a terminal, print each step once, with the time at which it began."""
        if self._printed.get(name) != step and not self._console._quiet_progress:
            self._printed[name] = step
            elapsed = time.monotonic() - self._started
            self._console.say(f"[{elapsed:6.1f} s] {name}: {step}")


def _console(color: bool | None, *, stderr: bool) -> RichConsole:
    return RichConsole(
        stderr=stderr,
        markup=False,
        emoji=False,
        highlight=False,
        no_color=None if color is None else not color,
        force_terminal=True if color else None,
    )
