"""Run uv, and say in one line why it failed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import uv

from parity_check.engines import processes
from parity_check.errors import EngineEnvironmentError


class UvFailedError(EngineEnvironmentError):
    """uv stopped; `cause` is its own explanation on one line."""

    def __init__(self, cause: str, log: Path) -> None:
        super().__init__(cause, log=log)
        self.cause = cause

    @property
    def disk_is_full(self) -> bool:
        return "os error 28" in self.cause or "No space left" in self.cause

    @property
    def index_is_unreachable(self) -> bool:
        return "ailed to fetch" in self.cause or "ailed to download" in self.cause


def run_uv(
    arguments: Sequence[str], location: Path, tell: Callable[[str], None] | None = None
) -> None:
    """Run uv on the environment at `location`, its talk going to `provision.log` there.

    `tell` receives uv's lines as they come. uv keeps its own cache whole however it ends. Raises
    UvFailedError.
    """
    log = location / "provision.log"
    environ = {**os.environ, "VIRTUAL_ENV": str(location), "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
    with log.open("a", encoding="utf-8") as file:

        def note(line: str) -> None:
            file.write(line)
            if tell is not None:
                tell(line)

        file.write(f"$ uv {' '.join(arguments)}\n")
        file.flush()
        ended = processes.run(
            [uv.find_uv_bin(), *arguments],
            # Elsewhere, uv would read the settings of the project that the user stands in.
            cwd=location,
            environ=environ,
            tell=note,
        )
        file.write(ended.stdout)
    if ended.returncode != 0:
        raise UvFailedError(cause_of(ended.stderr), log)


def cause_of(talk: str) -> str:
    """uv's explanation of a failure as one line, without its decoration."""
    start = re.search(r"^(error: |\s*[×x] )", talk, re.MULTILINE)
    text = talk[start.start() :] if start else talk
    text = re.sub(r"^\s*(error:|cause:|hint:|[×╰─▶├│]+)\s*", "", text, flags=re.MULTILINE)
    line = " ".join(text.split())
    line = line.removesuffix(", we can conclude that your requirements are unsatisfiable.")
    return line if len(line) <= 400 else line[:397] + "…"
