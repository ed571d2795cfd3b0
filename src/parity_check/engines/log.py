"""An engine's log: the output of all its processes, its first error, and what it warns of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from parity_check.files import cannot_write

TAIL_LINES = 20
LARGEST = 1 << 24
"""How many bytes of one start are searched for an error."""
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
PREFIX = re.compile(
    r"^(\([\w=. ]+\)\s*)?((ERROR|CRITICAL|WARNING|INFO) [\d-]+ [\d:.,]+ )?(\[[\w./]+:\d+\]\s?)?"
)
"""vLLM's line prefix: process, level, time, place."""
TRACEBACK = "Traceback (most recent call last):"
OURS = "failures.WorkerFailure"
"""The worker's own exceptions, which are also in its reply."""
WARNINGS = {
    "soft-cap": r"does not support logits soft cap",
    "sliding-window": r"[Ss]liding window.*(not supported|[Dd]isabling)|"
    r"(not supported|[Dd]isabling).*[Ss]liding window",
    "attention-layout": r"Using irope in .* is not supported",
    "rope": r"Unrecognized keys in `rope_(scaling|parameters)`",
    "head-dtype": r"does not support .* head dtype",
    "dtype": r"doesn't support .*Falling back to .* for compatibility|Casting torch\.\w+ to torch",
    "kv-scales": r"kv-scale is not loaded|[Ff]alling back the value to 1\.0|"
    r"accuracy drop without a proper",
    "bias": r"Found bias in the loaded weights",
    "tied-head": r"so we will NOT tie them",
    "weights": r"Some weights of .* were not (used|initialized)|newly initialized",
    "implementation": r"has no vLLM implementation, falling back",
}
"""An engine's own warnings that bear on logprobs, by name: vLLM's and transformers' words."""
RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*)(: (?P<message>.*))?$")


@dataclass(frozen=True, slots=True)
class EngineLog:
    """The log of an engine; `start` is the offset at which its own output begins."""

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
        """The size in bytes; constant for a removed log."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def tail(self) -> tuple[str, ...]:
        """The last lines, without colours."""
        return tuple(self._lines())[-TAIL_LINES:]

    def first_error(self) -> str | None:
        """The exception of the first traceback, from any process.

        In a chain of exceptions, the first is the cause.
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

    def warnings(self) -> dict[str, str]:
        """The first line of each kind of warning that bears on logprobs."""
        found: dict[str, str] = {}
        for line in map(_bare, self._lines()):
            for name, words in WARNINGS.items():
                if name not in found and re.search(words, line):
                    found[name] = line.strip()
        return found

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
