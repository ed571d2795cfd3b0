"""`train`: a few training steps with each engine, and their curves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from parity_check.cli import invocation
from parity_check.cli.options import (
    CandidateEngine,
    Color,
    ConfigFile,
    DryRun,
    ExitZero,
    Format,
    MaxTokens,
    Model,
    OnInconclusive,
    OnlyVerdict,
    OutDirectory,
    OutputFormat,
    Overlay,
    ReferenceEngine,
    ShowProgress,
    Temperature,
    TrainerInterpreter,
    Verbose,
    WriteTo,
    delivery_from,
    read_by,
    with_out,
)


def train(
    context: typer.Context,
    config: ConfigFile = None,
    resume: Annotated[Path | None, typer.Option(help="Continue an interrupted run.")] = None,
    keep_rollouts: Annotated[
        bool, typer.Option("--keep-rollouts", help="Keep each step's tokens as traces.")
    ] = False,
    model: Model = None,
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    trainer: TrainerInterpreter = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    overlay: Overlay = None,
    out: OutDirectory = None,
    format: OutputFormat = Format.text,
    write: WriteTo = None,
    exit_zero: ExitZero = False,
    inconclusive: OnInconclusive = None,
    dry_run: DryRun = False,
    verbose: Verbose = 0,
    quiet: OnlyVerdict = 0,
    color: Color = None,
    progress: ShowProgress = None,
) -> None:
    """Train a few steps with each engine as the rollout backend, and compare the curves."""
    from parity_check.training import command as training

    console = invocation.console(context, verbose - quiet, color, progress)
    if resume is not None and (config or overlay or out is not None or invocation.stated(context)):
        raise typer.BadParameter(
            "cannot change the configuration: drop -c, --set, --out and the engines",
            param_hint="--resume",
        )
    if resume is not None:
        loaded, config = training.stored_config(resume), resume / "config.toml"
    else:
        if config is None and trainer is None:
            context.params["trainer"] = candidate
        loaded = invocation.configured(context, config, with_out(overlay, out))
    given = read_by(config, config=loaded)
    delivery = delivery_from(format, write, exit_zero, inconclusive, given)
    if dry_run:
        from parity_check.cli import dry_run as dry

        engines = training.check(loaded)
        raise typer.Exit(dry.run(engines, console, partial(training.check_inputs, loaded)))
    raise typer.Exit(
        training.train(loaded, delivery, console, keep_rollouts=keep_rollouts, resume=resume)
    )
