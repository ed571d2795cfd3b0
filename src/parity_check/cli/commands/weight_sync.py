"""`weight-sync`: weight updates while requests are in flight."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from parity_check.cli import invocation
from parity_check.cli.options import (
    CandidateEngine,
    Color,
    ConfigFile,
    DryRun,
    Engine,
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

if TYPE_CHECKING:
    from parity_check.config.models import Role


def weight_sync(
    context: typer.Context,
    config: ConfigFile = None,
    engine: Annotated[
        Engine | None, typer.Option(help="Run only this engine. Default: both, side by side.")
    ] = None,
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
    """Update an engine's weights while requests are in flight, and check the logprobs."""
    from parity_check.config.models import ROLES
    from parity_check.weight_sync import command as updates

    console = invocation.console(context, verbose - quiet, color, progress)
    loaded = invocation.configured(context, config, with_out(overlay, out))
    given = read_by(config, config=loaded)
    delivery = delivery_from(format, write, exit_zero, inconclusive, given)
    roles: tuple[Role, ...] = ROLES if engine is None else (engine.value,)
    if dry_run:
        from parity_check.cli import dry_run as dry

        raise typer.Exit(dry.run(loaded, console, partial(updates.check, loaded, roles), roles))
    raise typer.Exit(updates.weight_sync(loaded, roles, delivery, console))
