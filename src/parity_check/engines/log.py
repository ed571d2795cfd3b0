"""An engine's log: everything that its processes print, and the error that stands first in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from parity_check.files import cannot_write

TAIL_LINES = 20
LARGEST = 1 << 24
"""Bytes of one start that are searched for an error."""
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
PREFIX = re.compile(
    r"^(\([\w=. ]+\)\s*)?((ERROR|CRITICAL|WARNING|INFO) [\d-]+ [\d:.,]+ )?(\[[\w./]+:\d+\]\s?)?"
)
"""What vLLM puts before each line: the process, the level, the time, the place."""
TRACEBACK = "Traceback (most recent call last):"
OURS = "failures.WorkerFailure"
"""What the worker raises itself, it also says in its reply."""
RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(: (?P<message>.*))?$")


@dataclass(frozen=True, slots=True)
class EngineLog:
    """The log of an engine; `start` is where it began to write, after what others had written."""

    path: Path
    start: int

    @classmethod
    def begin(cls, path: Path) -> tuple[EngineLog, IO[bytes]]:
        """The log, and the file to write to. Raises OutputError."""
        try:
            file = path.open("ab")
        except OSError as error:
            raise cannot_write(path, error) from None
        return cls(path, file.tell()), file

    def size(self) -> int:
        """In bytes; a log that was removed does not grow."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def tail(self) -> tuple[str, ...]:
        """The last lines, without colours."""
        return tuple(self._lines())[-TAIL_LINES:]

    def first_error(self) -> str | None:
        """The exception behind the first traceback, whichever process printed it.

        Of a chain the first is the cause: the later ones are raised in its course.
        """
        inside = False
        for line in map(_bare, self._lines()):
            if line.strip() == TRACEBACK:
                inside = True
            elif inside and line and not line[0].isspace():
                inside = False
                if RAISED.match(line) and not line.startswith(OURS):
                    return line
        return None

    def _lines(self) -> Iterator[str]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                text = file.read(LARGEST).decode(errors="replace")
        except OSError:
            return
        yield from (ANSI.sub("", line) for line in text.splitlines())


def _bare(line: str) -> str:
    return PREFIX.sub("", line, count=1)
