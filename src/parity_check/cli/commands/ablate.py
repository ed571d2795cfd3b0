"""`ablate`: which settings of the candidate remove the drift."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parity_check.cli import invocation
from parity_check.cli.options import (
    CandidateEngine,
    Color,
    ExitZero,
    Format,
    Lora,
    MaxTokens,
    Model,
    Objective,
    OnInconclusive,
    OnlyVerdict,
    OutDirectory,
    OutputFormat,
    Overlay,
    Profile,
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
from parity_check.cli.runs import run_directory


def ablate(
    context: typer.Context,
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="A finished run, whose reference trace is reused."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="A configuration instead of a run: record the reference first."
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue an interrupted ablation.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="SETTING", help="Change only this setting (repeatable)."),
    ] = None,
    flip: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE…",
            help="Also try these values of an engine argument or setting (repeatable).",
        ),
    ] = None,
    flips: Annotated[
        bool, typer.Option("--flips/--no-flips", help="Whether to flip each setting on its own.")
    ] = True,
    model: Model = None,
    lora: Lora = None,
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    prompts: Prompts = None,
    prompt_column: PromptColumn = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    samples: Samples = None,
    objective: Objective = None,
    profile: Profile = None,
    overlay: Overlay = None,
    out: OutDirectory = None,
    format: OutputFormat = Format.text,
    write: WriteTo = None,
    exit_zero: ExitZero = False,
    inconclusive: OnInconclusive = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the steps and exit.")] = False,
    verbose: Verbose = 0,
    quiet: OnlyVerdict = 0,
    color: Color = None,
    progress: ShowProgress = None,
) -> None:
    """Restart the candidate with settings flipped, and show which ones remove the drift."""
    from parity_check.ablation import command as ablation
    from parity_check.ablation.plan import parse_flip
    from parity_check.config.load import load_config

    console = invocation.console(context, verbose - quiet, color, progress)
    named = [given for given in (run, config, resume) if given is not None]
    flags = invocation.stated(context)
    if len(named) > 1 or (named != [config] and named and flags):
        raise typer.BadParameter(
            "pass exactly one of: a finished run, -c, --resume; engines with -c or alone",
            param_hint="RUN",
        )
    picks = ablation.Picks(tuple(only or []), tuple(map(parse_flip, flip or [])), flips)
    if resume is not None and (dry_run or out is not None or picks != ablation.Picks()):
        raise typer.BadParameter(
            "cannot change the plan of the ablation: drop --only, --flip, "
            "--no-flips, --out, --dry-run",
            param_hint="--resume",
        )
    if not named or named == [config]:
        file = config
        loaded = invocation.configured(context, config, with_out(overlay, out))
    else:
        file = run_directory(named[0], "ablate --resume" if resume else "ablate") / "config.toml"
        loaded = load_config(file, with_out(overlay, out))
        ablation.check_fits(named[0], loaded, load_config(file), candidate=resume is None)
    if dry_run:
        ablation.dry_run(loaded, picks, console, run)
        return
    given = read_by(file, *named, config=loaded)
    delivery = delivery_from(format, write, exit_zero, inconclusive, given)
    if resume is not None:
        raise typer.Exit(ablation.resume(resume, loaded, delivery, console))
    raise typer.Exit(ablation.ablate(loaded, picks, delivery, console, run))
