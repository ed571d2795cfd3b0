"""`compare`: identical prompts through both engines, or two stored traces."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from parity_check.cli import invocation
from parity_check.cli.options import (
    EARLIER,
    USUAL_FILE,
    CandidateEngine,
    Color,
    ConfigFile,
    DryRun,
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
    ReferenceTrace,
    Samples,
    ShowProgress,
    StoredPair,
    Temperature,
    Verbose,
    WorkloadTrace,
    WriteTo,
    delivery_from,
    read_by,
    with_out,
)
from parity_check.cli.runs import run_directory
from parity_check.errors import ConfigError


def compare(
    context: typer.Context,
    traces: StoredPair = None,
    model: Model = None,
    lora: Lora = None,
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    prompts: Prompts = None,
    prompt_column: PromptColumn = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    samples: Samples = None,
    config: ConfigFile = None,
    overlay: Overlay = None,
    objective: Objective = None,
    profile: Profile = None,
    reference_trace: ReferenceTrace = None,
    workload_trace: WorkloadTrace = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Continue an interrupted run.", rich_help_panel=EARLIER),
    ] = None,
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
    """Run identical prompts through both engines and compare their logprobs.

    For example: parity-check compare --model MODEL --reference vllm==0.8.5 --candidate
    vllm==0.18.1 --prompts FILE. What it would do, without an engine: the same with --dry-run.

    Or compare two stored traces, where one is a replay of the other's tokens.
    """
    from parity_check.config.flags import JUDGING
    from parity_check.config.load import load_config, load_judging

    console = invocation.console(context, verbose - quiet, color, progress)
    if resume is not None:
        from parity_check.comparison import command as comparison
        from parity_check.locate import loaded as loaded_engines

        others = (*(traces or ()), config, overlay, out, reference_trace, workload_trace)
        if invocation.stated(context) or dry_run or any(others):
            raise typer.BadParameter(
                "continues a run as it was begun: only how to report can be set beside it",
                param_hint="--resume",
            )
        begun = load_config(run_directory(resume, "compare --resume") / "config.toml")
        delivery = delivery_from(format, write, exit_zero, inconclusive, read_by(config=begun))
        raise typer.Exit(comparison.resume(resume, begun, delivery, console, loaded_engines))
    if traces:
        from parity_check.comparison import recorded

        flags = invocation.stated(context)
        others = (reference_trace, workload_trace)
        if (
            len(traces) != 2
            or not flags.keys() <= set(JUDGING)
            or any(each is not None for each in others)
        ):
            raise typer.BadParameter(
                "pass two traces, or engines; two traces take --profile, --objective and --set",
                param_hint="traces",
            )
        if out is not None or dry_run:
            raise typer.BadParameter(
                "two stored traces start no engine and make no run; --write saves the report",
                param_hint="--dry-run" if dry_run else "--out",
            )
        judging = load_judging(config, overlay or [], flags)
        given = read_by(*traces, config)
        delivery = delivery_from(format, write, exit_zero, inconclusive, given)
        raise typer.Exit(recorded.compare_traces(traces[0], traces[1], judging, delivery, console))
    from parity_check.comparison import command as comparison

    if reference is not None and reference.endswith(".parquet"):
        if reference_trace is not None:
            raise typer.BadParameter(
                "two names for the reference: drop one of them", param_hint="--reference-trace"
            )
        reference_trace = Path(reference)
        context.params["reference"] = _recorded_engine(reference_trace)
        if context.params["reference"] is None and config is None and not USUAL_FILE.is_file():
            raise ConfigError(
                f"--reference {reference}: an imported trace does not say how its engine was "
                "configured",
                hint="pass a configuration that says it, which is not started: parity-check init "
                f"writes {USUAL_FILE}",
            )
    if reference_trace is not None and workload_trace is not None:
        raise typer.BadParameter(
            "cannot be combined with --reference-trace", param_hint="--workload-trace"
        )
    loaded = invocation.configured(context, config, with_out(overlay, out))
    given = read_by(config, reference_trace, workload_trace, config=loaded)
    delivery = delivery_from(format, write, exit_zero, inconclusive, given)
    if dry_run:
        from parity_check.cli import dry_run as dry

        check: Callable[[], object] = partial(comparison.check, loaded, console, reference_trace)
        if workload_trace is not None:
            check = partial(comparison.check_on, workload_trace, loaded, console)
        names = tuple(n for n in loaded.names if reference_trace is None or n != "reference")
        raise typer.Exit(dry.run(loaded, console, check, names, delivery.write))
    from parity_check.locate import loaded as loaded_engines

    if workload_trace is not None:
        raise typer.Exit(comparison.compare_on(workload_trace, loaded, delivery, console))
    raise typer.Exit(comparison.compare(loaded, delivery, console, loaded_engines, reference_trace))


def _recorded_engine(trace: Path) -> dict[str, Any] | None:
    """The table of the engine that recorded a trace; None if the trace does not have it."""
    from parity_check.traces.trace import read_header

    header = read_header(trace)
    table = header.config.get(header.evaluated_by)
    return table if isinstance(table, dict) else None
