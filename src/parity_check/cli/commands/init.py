"""`init`: a commented configuration to start from."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from parity_check.cli import invocation
from parity_check.cli.options import USUAL_FILE, Color, Quiet
from parity_check.errors import ConfigError

STANDARD_OUTPUT = Path("-")
OF_TABLES = {"training": "train", "weight_sync": "weight-sync"}
"""The command of a configuration that has this table."""


def init(
    context: typer.Context,
    example: Annotated[
        str | None,
        typer.Argument(
            help="quickstart (CPU), v0-to-v1 or gpu, ci, trainer, endpoint (a running server), "
            "weight-sync, training-curves or training-rungs. Without one, questions on a terminal, "
            "else quickstart.",
            metavar="EXAMPLE",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to write, or - for standard output.")
    ] = USUAL_FILE,
    quiet: Quiet = 0,
    color: Color = None,
) -> None:
    """Write a commented configuration to start from: an example, or from your answers."""
    from parity_check.config import bundled
    from parity_check.files import write_text

    console = invocation.console(context, -quiet, color, None)
    example_file = bundled.example(example or "quickstart")
    if out != STANDARD_OUTPUT and out.exists():
        raise ConfigError(f"{out} exists already", hint="choose another file with -o")
    if example is None and sys.stdin.isatty() and sys.stderr.isatty():
        from parity_check.cli import questions

        text = questions.answered(out, console)
    else:
        text = example_file.read_text(encoding="utf-8")
    if out == STANDARD_OUTPUT:
        console.data(text)
        return
    write_text(out, text)
    named = "" if out == USUAL_FILE else f" -c {out}"
    console.say(
        f"wrote {out}; next: parity-check doctor -c {out}, then parity-check {_next(text)}{named}"
    )


def _next(text: str) -> str:
    """The command that a configuration is for."""
    tables = tomllib.loads(text)
    return next((name for table, name in OF_TABLES.items() if table in tables), "compare")
