"""`demo`: the report of a known fault, on stored traces."""

from __future__ import annotations

from typing import Annotated

import typer

from parity_check.cli import invocation
from parity_check.cli.options import (
    Color,
    ExitZero,
    Format,
    OnInconclusive,
    OnlyVerdict,
    OutputFormat,
    Verbose,
    WriteTo,
    delivery_from,
)


def demo(
    context: typer.Context,
    fault: Annotated[
        str, typer.Argument(help="raw-logprobs, bf16-head, stale-cache or parity.")
    ] = "raw-logprobs",
    format: OutputFormat = Format.text,
    write: WriteTo = None,
    exit_zero: ExitZero = False,
    inconclusive: OnInconclusive = None,
    verbose: Verbose = 0,
    quiet: OnlyVerdict = 0,
    color: Color = None,
) -> None:
    """Show the report of a known fault on traces that ship with the package. Starts no engine."""
    from parity_check.comparison.demo import demo as show

    console = invocation.console(context, verbose - quiet, color, None)
    raise typer.Exit(
        show(fault, delivery_from(format, write, exit_zero, inconclusive, []), console)
    )
