"""`locate`: the first module whose output differs."""

from __future__ import annotations

from functools import partial

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
    PromptColumn,
    Prompts,
    ReferenceEngine,
    Samples,
    ShowProgress,
    Temperature,
    Verbose,
    WriteTo,
    delivery_from,
    read_by,
    with_out,
)


def locate(
    context: typer.Context,
    config: ConfigFile = None,
    model: Model = None,
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    prompts: Prompts = None,
    prompt_column: PromptColumn = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    samples: Samples = None,
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
    """Find the first module of the model whose output differs between the engines."""
    from parity_check.locate import command as locating

    console = invocation.console(context, verbose - quiet, color, progress)
    loaded = invocation.configured(context, config, with_out(overlay, out))
    given = read_by(config, config=loaded)
    delivery = delivery_from(format, write, exit_zero, inconclusive, given)
    if dry_run:
        from parity_check.cli import dry_run as dry
        from parity_check.config.models import ROLES

        raise typer.Exit(dry.run(loaded, console, partial(locating.check, loaded), ROLES))
    raise typer.Exit(locating.locate(loaded, delivery, console))
