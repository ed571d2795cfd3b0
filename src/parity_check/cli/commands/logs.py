"""`logs`: what a training run logged, against the limits."""

from __future__ import annotations

from pathlib import Path
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
    Overlay,
    WriteTo,
    delivery_from,
    read_by,
)


def logs(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="CSV, JSON or JSON lines, exported or as written."),
    ],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A configuration, for its limits.")
    ] = None,
    overlay: Overlay = None,
    format: OutputFormat = Format.text,
    write: WriteTo = None,
    exit_zero: ExitZero = False,
    inconclusive: OnInconclusive = None,
    quiet: OnlyVerdict = 0,
    color: Color = None,
) -> None:
    """Show what a training run logged (W&B, TensorBoard, JSON lines) against the limits, by step.

    Without tokens there is no uncertainty, so there is no verdict: the exit code is 4.
    """
    from parity_check.config.load import load_judging
    from parity_check.logs import command as logging

    console = invocation.console(context, -quiet, color, None)
    judging = load_judging(config, overlay or [])
    delivery = delivery_from(format, write, exit_zero, inconclusive, read_by(*files, config))
    raise typer.Exit(logging.report(files, judging, delivery, console))
