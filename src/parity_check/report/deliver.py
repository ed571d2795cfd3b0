"""Where a report goes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from parity_check.errors import ExitCode
from parity_check.files import cannot_write, check_writable
from parity_check.report.renderers import Format


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a report goes, and what its verdict does to the exit code."""

    format: Format = "text"
    write: Mapping[Path, Format] = field(default_factory=dict)
    exit_zero: bool = False
    inconclusive: ExitCode = ExitCode.INCONCLUSIVE

    def check(self) -> None:
        """Raises OutputError for a file that cannot be written, before the long work."""
        for path in self.write:
            check_writable(path)

    def draws(self) -> bool:
        """Whether a page is wanted, which takes another pass over the traces."""
        return "html" in {self.format, *self.write.values()}


def append_step_summary(markdown: str) -> None:
    """Add to the summary of a step of GitHub Actions, where there is one. Raises OutputError."""
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(markdown)
        except OSError as error:
            raise cannot_write(Path(summary), error) from None
