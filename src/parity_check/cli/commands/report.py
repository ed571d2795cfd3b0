"""`report`: a finished run, rendered again."""

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
    Verbose,
    WriteTo,
    delivery_from,
    read_by,
)
from parity_check.cli.runs import run_directory


def report(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a finished run.")],
    overlay: Overlay = None,
    format: OutputFormat = Format.text,
    write: WriteTo = None,
    exit_zero: ExitZero = False,
    inconclusive: OnInconclusive = None,
    verbose: Verbose = 0,
    quiet: OnlyVerdict = 0,
    color: Color = None,
) -> None:
    """Render a finished run again, optionally with other limits. Starts no engine."""
    from parity_check.ablation.files import is_ablation
    from parity_check.config.load import load_config
    from parity_check.locate.files import is_locate
    from parity_check.training.files import is_training
    from parity_check.weight_sync.files import is_weight_sync

    console = invocation.console(context, verbose - quiet, color, None)
    run_directory(run, "report")
    delivery = delivery_from(format, write, exit_zero, inconclusive, read_by(run))
    loaded = load_config(run / "config.toml", overlay or [])
    if is_ablation(run):
        from parity_check.ablation import command as ablation

        raise typer.Exit(ablation.report(run, loaded, delivery, console))
    if is_locate(run):
        from parity_check.locate import command as locating

        raise typer.Exit(locating.report(run, delivery, console))
    if is_training(run):
        from parity_check.training import command as training

        raise typer.Exit(training.report(run, delivery, console))
    if is_weight_sync(run):
        from parity_check.weight_sync import command as updates

        raise typer.Exit(updates.report(run, delivery, console))
    from parity_check.comparison import recorded

    raise typer.Exit(recorded.report(run, loaded, delivery, console))
