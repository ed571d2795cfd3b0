"""`record`: rollouts of one engine as a trace."""

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
    Lora,
    MaxTokens,
    Model,
    Overlay,
    PromptColumn,
    Prompts,
    Quiet,
    ReferenceEngine,
    Samples,
    ShowProgress,
    Temperature,
    Verbose,
    read_by,
)
from parity_check.files import check_apart


def record(
    context: typer.Context,
    engine: Annotated[str, typer.Option(help="Name of the engine that samples.")],
    trace: Annotated[Path, typer.Option("--out", "-o", help="The trace to write (Parquet).")],
    config: ConfigFile = None,
    model: Model = None,
    lora: Lora = None,
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    prompts: Prompts = None,
    prompt_column: PromptColumn = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    samples: Samples = None,
    overlay: Overlay = None,
    dry_run: DryRun = False,
    verbose: Verbose = 0,
    quiet: Quiet = 0,
    color: Color = None,
    progress: ShowProgress = None,
) -> None:
    """Sample rollouts with one engine and store their logprobs."""
    from parity_check.recording import command as recording

    console = invocation.console(context, verbose - quiet, color, progress)
    loaded = invocation.configured(context, config, overlay or [], engine)
    if dry_run:
        from parity_check.cli import dry_run as dry

        check = partial(recording.check_record, loaded, engine)
        raise typer.Exit(dry.run(loaded, console, check, [engine], [trace]))
    check_apart([trace], read_by(config, config=loaded))
    recording.record(loaded, engine, trace, console)
