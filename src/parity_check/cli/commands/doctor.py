"""`doctor`: what is installed, and what would be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parity_check.cli import invocation
from parity_check.cli.options import Color, Overlay


def doctor(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Check the engines of this configuration.")
    ] = None,
    overlay: Overlay = None,
    start: Annotated[
        bool,
        typer.Option("--start", help="Also start the engines and prove the settings in force."),
    ] = False,
    color: Color = None,
) -> None:
    """Show what is installed and what would be provisioned: environments, versions, settings."""
    from parity_check.cli import doctor as checks
    from parity_check.config.load import load_config

    console = invocation.console(context, 0, color, None)
    if config is None and start:
        raise typer.BadParameter("needs a configuration (-c)", param_hint="--start")
    loaded = None if config is None else load_config(config, overlay or [])
    raise typer.Exit(checks.run(loaded, console, start))
