"""Where a report goes: to the terminal, to files, and to the run's page on GitHub Actions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from parity_check.console import Console
from parity_check.errors import ExitCode
from parity_check.files import cannot_write, check_writable, write_text
from parity_check.report.document import Document
from parity_check.report.renderers import Format, render, render_text


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

    def ends_with(self, document: Document) -> ExitCode:
        """The exit code of a report."""
        if self.exit_zero and not document.failed:
            return ExitCode.PARITY
        inconclusive = document.exit_code is ExitCode.INCONCLUSIVE
        return self.inconclusive if inconclusive else document.exit_code

    def draws(self) -> bool:
        """Whether a page is wanted, which takes another pass over the traces."""
        return "html" in {self.format, *self.write.values()}


def deliver(
    document: Document, delivery: Delivery, console: Console, brief: Document | None = None
) -> ExitCode:
    """Print and write a report; returns the exit code. Raises OutputError.

    `brief` is the same report as a screenful: what a terminal shows without `-v`.
    """
    for path, format in delivery.write.items():
        write_text(path, render(document, format))
    if delivery.format == "text":
        shown = document if brief is None or console.verbosity > 0 else brief
        quiet = console.verbosity < 0
        console.data(document.verdict_line if quiet else render_text(shown, console.width))
    else:
        show = console.commands if delivery.format == "github" else console.data
        show(render(document, delivery.format))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        _annotate(document, delivery, console)
    ended = delivery.ends_with(document)
    if ended is not document.exit_code:
        console.say(f"exit code {int(ended)} instead of {int(document.exit_code)}, as asked")
    return ended


def _annotate(document: Document, delivery: Delivery, console: Console) -> None:
    """Annotations where stdout is for people, and the step summary in any case."""
    if delivery.format == "text":
        console.commands(render(document, "github"))
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(render(document, "markdown"))
        except OSError as error:
            raise cannot_write(Path(summary), error) from None
