"""A run's directory: what was made is kept, and nothing unfinished looks whole."""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tomli_w

from parity_check.trace import cannot_write


class RunDirectory:
    """`runs/<id>/`, made before any engine starts so that a bad path fails in the first second.

    On leaving with an error, samples that were finished but not yet part of a trace are kept as
    `<role>-<operation>.partial.jsonl`.
    """

    def __init__(self, parent: Path, config: dict[str, Any]) -> None:
        self.created = datetime.now(UTC)
        self.id = f"{self.created:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.path = parent.absolute() / self.id
        self.work = self.path / ".work"
        try:
            self.work.mkdir(parents=True)
        except OSError as error:
            raise cannot_write(self.path, error) from None
        self.write("config.toml", tomli_w.dumps(config))

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
        shutil.rmtree(self.work, ignore_errors=True)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the run whole, or not at all. Raises OutputError."""
        path = self.path / name
        partial = path.with_name(path.name + ".part")
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise cannot_write(path, error) from None
        return path

    def kept(self) -> list[str]:
        """What the directory holds of recorded work."""
        return sorted(
            file.name for file in self.path.iterdir() if file.suffix in (".parquet", ".jsonl")
        )

    def _keep_partial(self) -> None:
        for part in self.work.glob("*/*.jsonl.part"):
            operation = part.name.partition("-")[0]
            if operation != "tokenize" and part.stat().st_size:
                with suppress(OSError):
                    part.replace(self.path / f"{part.parent.name}-{operation}.partial.jsonl")
