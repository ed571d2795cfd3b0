"""The run directory: keeps finished work, and no unfinished file looks complete."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tomli_w

from parity_check import interrupts
from parity_check.errors import Interrupted, ParityCheckError
from parity_check.files import cannot_write, write_text


class RunDirectory:
    """`runs/<id>/`, created before any engine starts so that a bad path fails immediately.

    After an error, samples that were finished but are not yet in a trace are kept as
    `<role>-<operation>.partial.jsonl`, and the error says what was kept. Ctrl-C becomes Interrupted
    here.
    """

    def __init__(self, parent: Path, config: dict[str, Any]) -> None:
        self._open(parent / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        self._holds_earlier_work = False
        # Not `write`, which an interrupt may end: cleanup is not set up yet.
        write_text(self.path / "config.toml", tomli_w.dumps(config))

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Open the directory of an interrupted run."""
        shutil.rmtree(path / ".work", ignore_errors=True)  # left by a killed process
        directory = cls.__new__(cls)
        directory._open(path)
        directory._holds_earlier_work = True
        return directory

    def _open(self, shown: Path) -> None:
        self.created = datetime.now(UTC)
        self.id = shown.absolute().name
        self.path, self.shown = shown.absolute(), shown
        self.work = self.path / ".work"
        try:
            self.work.mkdir(parents=True)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._keep_partial()
        for batches in self.path.rglob("*.batches"):
            with suppress(OSError):  # some are there, for the run to be continued
                batches.rmdir()
        shutil.rmtree(self.work, ignore_errors=True)
        empty = kind is not None and not (self._holds_earlier_work or self._has_logs())
        kept = None if empty else self._kept()
        if empty:
            shutil.rmtree(self.path, ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(kept) from None
        if isinstance(error, ParityCheckError):
            error.kept = kept

    def write(self, name: str, text: str) -> Path:
        """Write a file of the run atomically. Raises OutputError."""
        interrupts.check()
        path = self.path / name
        write_text(path, text)
        return path

    def _has_logs(self) -> bool:
        """Whether an engine was started."""
        return any(self.path.rglob("*.log"))

    def _kept(self) -> str | None:
        """The recorded work in the directory, as text."""
        recorded = (".parquet", ".jsonl")
        names = sorted(file.name for file in self.path.iterdir() if file.suffix in recorded)
        for batches in sorted(self.path.glob("*.batches")):
            whole = len(list(batches.glob("*.parquet")))
            names.append(
                f"{whole} {'batch' if whole == 1 else 'batches'} of {batches.stem}.parquet"
            )
        return f"kept in {self.shown}: {', '.join(names)}" if names else None

    def _keep_partial(self) -> None:
        for output in sorted(self.work.glob("*/*-*.jsonl*")):
            operation = output.name.partition("-")[0]
            if ".in." in output.name or operation == "tokenize":
                continue
            # The disk may be full: renaming and truncating need no space, copying does.
            with suppress(OSError):
                if _cut_to_whole_lines(output):
                    output.replace(self._free_name(f"{output.parent.name}-{operation}"))

    def _free_name(self, stem: str) -> Path:
        suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        names = (f"{stem}{suffix}.partial.jsonl" for suffix in suffixes)
        return next(path for name in names if not (path := self.path / name).exists())


def _cut_to_whole_lines(path: Path) -> int:
    """Remove an unfinished last line of a killed worker; return the remaining size."""
    size = path.read_bytes().rfind(b"\n") + 1
    os.truncate(path, size)
    return size
