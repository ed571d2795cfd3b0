"""Run uv, and explain a failure in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import uv

from parity_check.engines import processes
from parity_check.errors import EngineEnvironmentError


class UvFailedError(EngineEnvironmentError):
    """uv failed; `cause` is its explanation as one line."""

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
    """Run uv on the environment at `location`; its output goes to `provision.log` there.

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
            # In another directory, uv would read the settings of the user's project.
            cwd=location,
            environ=environ,
            tell=note,
        )
        file.write(ended.stdout)
    if ended.returncode != 0:
        raise UvFailedError(cause_of(ended.stderr), log)


def cause_of(output: str) -> str:
    """uv's explanation of a failure as one line, without decoration."""
    start = re.search(r"^(error: |\s*[×x] )", output, re.MULTILINE)
    text = output[start.start() :] if start else output
    text = re.sub(r"^\s*(error:|cause:|hint:|[×╰─▶├│]+)\s*", "", text, flags=re.MULTILINE)
    line = " ".join(text.split())
    line = line.removesuffix(", we can conclude that your requirements are unsatisfiable.")
    return line if len(line) <= 400 else line[:397] + "…"
