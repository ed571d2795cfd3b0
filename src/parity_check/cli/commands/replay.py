"""`replay`: the tokens of a trace on another engine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from parity_check.cli import invocation
from parity_check.cli.options import (
    OPERATIONS,
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
    ScorePath,
    ShowProgress,
    Temperature,
    Verbose,
    read_by,
)
from parity_check.files import check_apart


def replay(
    context: typer.Context,
    engine: Annotated[str, typer.Option(help="Name of the engine that evaluates.")],
    trace: Annotated[Path, typer.Option(help="The trace whose tokens to replay.")],
    replayed: Annotated[Path, typer.Option("--out", "-o", help="The trace to write (Parquet).")],
    path: Annotated[
        ScorePath,
        typer.Option(help="decode: one token per step; prefill: the whole sequence at once."),
    ] = ScorePath.decode,
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
    """Replay the tokens of a trace on another engine and store its logprobs."""
    from parity_check.recording import command as recording

    console = invocation.console(context, verbose - quiet, color, progress)
    loaded = invocation.configured(context, config, overlay or [], engine)
    if dry_run:
        from parity_check.cli import dry_run as dry

        check = partial(recording.check_replay, loaded, engine, OPERATIONS[path], trace)
        raise typer.Exit(dry.run(loaded, console, check, [engine], [replayed]))
    check_apart([replayed], read_by(config, trace, config=loaded))
    recording.replay(loaded, engine, OPERATIONS[path], trace, replayed, console)
