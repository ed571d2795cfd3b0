"""The command line: parse, one call per command, return an exit code."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parity_check import __version__, interrupts
from parity_check.cli.options import (
    OPERATIONS,
    USUAL_FILE,
    CandidateEngine,
    Color,
    ConfigFile,
    DryRun,
    Dump,
    Engine,
    ExitZero,
    Format,
    MaxTokens,
    Model,
    Objective,
    OnInconclusive,
    OnlyVerdict,
    OutDirectory,
    OutputFormat,
    Overlay,
    Profile,
    Prompts,
    Quiet,
    ReferenceEngine,
    ReferenceTrace,
    Samples,
    ScorePath,
    ShowProgress,
    StatedModel,
    StatedSampling,
    StoredPair,
    Temperature,
    TraceOut,
    TrainerInterpreter,
    Verbose,
    WorkloadTrace,
    WriteTo,
    check_arguments,
    check_paths,
    delivery_from,
    read_by,
    with_out,
)
from parity_check.console import Console, guard_streams
from parity_check.errors import ConfigError, ExitCode, Interrupted, ParityCheckError
from parity_check.files import check_apart

if TYPE_CHECKING:
    from parity_check.config.models import Config, Role


class Commands(typer.core.TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Typer would exit without a message.
            raise Interrupted from None

    def get_params(self, ctx: Any) -> Any:
        return [_without_type(option) for option in super().get_params(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        for option in command.get_params(ctx) if command is not None else ():
            _without_type(option)
        return command


def _without_type(option: Any) -> Any:
    """The option; --help shows no type for one that takes no value."""
    if isinstance(option, typer.core.TyperOption) and (option.is_flag or option.count):
        option.metavar, option.show_default = "", False
    return option


cli = typer.Typer(
    name="parity-check",
    cls=Commands,
    help="Did my rollout engine change the numbers that my RL trainer learns from?\n\n"
    "To see a report: parity-check demo. On your model: parity-check init, which asks five "
    "questions, or parity-check compare --model … --reference vllm==0.8.5 "
    "--candidate vllm==0.18.1 --prompts ….",
    epilog="Exit codes: 0 parity · 1 drift · 2 usage or input · 3 an engine failed · "
    "4 inconclusive · 70 a bug in parity-check · 130 interrupted",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # rich tracebacks with locals would leak prompts
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(slots=True)
class State:
    """What the commands share with the code that catches their errors."""

    console: Console


@cli.command()
def compare(
    context: typer.Context,
    traces: StoredPair = None,
    config: ConfigFile = None,
    model: Model = None,
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    prompts: Prompts = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    samples: Samples = None,
    objective: Objective = None,
    profile: Profile = None,
    reference_trace: ReferenceTrace = None,
    workload_trace: WorkloadTrace = None,
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
    """Run identical prompts through both engines and compare their logprobs.

    Or compare two stored traces, where one is a replay of the other's tokens.
    """
    from parity_check.config.load import load_judging

    console = _console(context, verbose - quiet, color, progress)
    if traces:
        from parity_check.comparison import recorded

        others = (reference_trace, workload_trace)
        if len(traces) != 2 or _stated(context) or any(each is not None for each in others):
            raise typer.BadParameter(
                "pass two traces, or engines; limits of two traces with --set", param_hint="traces"
            )
        judging = load_judging(config, overlay or [])
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
    if reference_trace is not None and workload_trace is not None:
        raise typer.BadParameter(
            "cannot be combined with --reference-trace", param_hint="--workload-trace"
        )
    loaded = _configured(context, config, with_out(overlay, out))
    given = read_by(config, reference_trace, workload_trace, config=loaded)
    delivery = delivery_from(format, write, exit_zero, inconclusive, given)
    if dry_run:
        comparison.dry_run(loaded, console)
        return
    from parity_check.locate import loaded as loaded_engines

    if workload_trace is not None:
        raise typer.Exit(comparison.compare_on(workload_trace, loaded, delivery, console))
    raise typer.Exit(comparison.compare(loaded, delivery, console, loaded_engines, reference_trace))


@cli.command()
def report(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The directory of a finished run.")],
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

    console = _console(context, verbose - quiet, color, None)
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


@cli.command()
def ablate(
    context: typer.Context,
    run: Annotated[
        Path | None, typer.Argument(help="A finished run, whose reference trace is reused.")
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
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    prompts: Prompts = None,
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

    console = _console(context, verbose - quiet, color, progress)
    named = [given for given in (run, config, resume) if given is not None]
    flags = _stated(context)
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
        loaded = _configured(context, config, with_out(overlay, out))
    else:
        file = named[0] / "config.toml"
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


@cli.command()
def locate(
    context: typer.Context,
    config: ConfigFile = None,
    model: Model = None,
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    prompts: Prompts = None,
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
    from parity_check.comparison import command as comparison
    from parity_check.locate import command as locating

    console = _console(context, verbose - quiet, color, progress)
    loaded = _configured(context, config, with_out(overlay, out))
    given = read_by(config, config=loaded)
    delivery = delivery_from(format, write, exit_zero, inconclusive, given)
    if dry_run:
        comparison.dry_run(loaded, console)
        return
    raise typer.Exit(locating.locate(loaded, delivery, console))


@cli.command()
def record(
    context: typer.Context,
    engine: Annotated[str, typer.Option(help="Name of the engine that samples.")],
    trace: Annotated[Path, typer.Option("--out", "-o", help="The trace to write (Parquet).")],
    config: ConfigFile = None,
    model: Model = None,
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    prompts: Prompts = None,
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
    from parity_check.comparison import command as comparison
    from parity_check.recording import command as recording

    console = _console(context, verbose - quiet, color, progress)
    loaded = _configured(context, config, overlay or [])
    if dry_run:
        comparison.dry_run(loaded, console)
        return
    check_apart([trace], read_by(config, config=loaded))
    recording.record(loaded, engine, trace, console)


@cli.command()
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
    reference: ReferenceEngine = None,
    candidate: CandidateEngine = None,
    prompts: Prompts = None,
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
    from parity_check.comparison import command as comparison
    from parity_check.recording import command as recording

    console = _console(context, verbose - quiet, color, progress)
    loaded = _configured(context, config, overlay or [])
    if dry_run:
        comparison.dry_run(loaded, console)
        return
    check_apart([replayed], read_by(config, trace, config=loaded))
    recording.replay(loaded, engine, OPERATIONS[path], trace, replayed, console)


@cli.command("weight-sync")
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
    from parity_check.comparison import command as comparison
    from parity_check.config.models import ROLES
    from parity_check.weight_sync import command as updates

    console = _console(context, verbose - quiet, color, progress)
    loaded = _configured(context, config, with_out(overlay, out))
    given = read_by(config, config=loaded)
    delivery = delivery_from(format, write, exit_zero, inconclusive, given)
    if dry_run:
        comparison.dry_run(loaded, console)
        return
    roles: tuple[Role, ...] = ROLES if engine is None else (engine.value,)
    raise typer.Exit(updates.weight_sync(loaded, roles, delivery, console))


@cli.command()
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
    from parity_check.comparison import command as comparison
    from parity_check.training import command as training

    console = _console(context, verbose - quiet, color, progress)
    if resume is not None and (config or overlay or out is not None or _stated(context)):
        raise typer.BadParameter(
            "cannot change the configuration: drop -c, --set, --out and the engines",
            param_hint="--resume",
        )
    if resume is not None:
        loaded, config = training.stored_config(resume), resume / "config.toml"
    else:
        if config is None and trainer is None:
            context.params["trainer"] = candidate
        loaded = _configured(context, config, with_out(overlay, out))
    given = read_by(config, config=loaded)
    delivery = delivery_from(format, write, exit_zero, inconclusive, given)
    if dry_run:
        comparison.dry_run(training.check(loaded), console)
        return
    raise typer.Exit(
        training.train(loaded, delivery, console, keep_rollouts=keep_rollouts, resume=resume)
    )


@cli.command("import")
def import_dump(
    context: typer.Context,
    dump: Dump,
    trace: TraceOut,
    sampling: StatedSampling = None,
    model: StatedModel = None,
    quiet: Quiet = 0,
    color: Color = None,
) -> None:
    """Convert a dump of a training run to traces: rollout and trainer logprobs."""
    from parity_check.importers import command as importing

    console = _console(context, -quiet, color, None)
    format, files = importing.format_and_files(dump)
    check_apart([trace, importing.evaluating_path(trace)], files)
    importing.import_dump(format, files, trace, sampling or [], model, console)


@cli.command()
def logs(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="CSV, JSON or JSON lines, exported or as written."),
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

    console = _console(context, -quiet, color, None)
    judging = load_judging(config, overlay or [])
    delivery = delivery_from(format, write, exit_zero, inconclusive, read_by(*files, config))
    raise typer.Exit(logging.report(files, judging, delivery, console))


@cli.command()
def init(
    context: typer.Context,
    example: Annotated[
        str | None,
        typer.Argument(
            help="quickstart, v0-to-v1, trainer, endpoint, weight-sync, training-curves or "
            "training-rungs. Without one, five questions on a terminal, else quickstart."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = USUAL_FILE,
    quiet: Quiet = 0,
    color: Color = None,
) -> None:
    """Write a commented configuration to start from: an example, or from your answers."""
    from parity_check.config import bundled
    from parity_check.files import write_text

    console = _console(context, -quiet, color, None)
    example_file = bundled.example(example or "quickstart")
    if out.exists():
        raise ConfigError(f"{out} exists already", hint="choose another file with -o")
    if example is None and sys.stdin.isatty() and sys.stderr.isatty():
        from parity_check.cli import questions

        text = questions.answered(str(out), console)
    else:
        text = example_file.read_text(encoding="utf-8")
    write_text(out, text)
    named = "" if out == USUAL_FILE else f" -c {out}"
    console.say(
        f"wrote {out}; next: parity-check doctor -c {out}, then parity-check compare{named}"
    )


@cli.command()
def demo(
    context: typer.Context,
    fault: Annotated[
        str, typer.Argument(help="raw-logprobs, bf16-head, stale-cache or parity.")
    ] = "raw-logprobs",
    format: OutputFormat = Format.text,
    write: WriteTo = None,
    exit_zero: ExitZero = False,
    inconclusive: OnInconclusive = None,
    verbose: Verbose = 0,
    quiet: OnlyVerdict = 0,
    color: Color = None,
) -> None:
    """Show the report of a known fault on traces that ship with the package. Starts no engine."""
    from parity_check.comparison.demo import demo as show

    console = _console(context, verbose - quiet, color, None)
    raise typer.Exit(
        show(fault, delivery_from(format, write, exit_zero, inconclusive, []), console)
    )


environments = typer.Typer(
    cls=Commands, help="Show and remove the provisioned engine environments."
)
cli.add_typer(environments, name="env", no_args_is_help=True)


@environments.command("list")
def env_list(context: typer.Context) -> None:
    """Show every environment with its size."""
    from parity_check.engines.environment.environment import default_cache
    from parity_check.engines.environment.stored import stored
    from parity_check.report.text import columns

    console = _console(context, 0, None, None)
    rows = [
        (each.name, f"{each.gb:.1f} GB", "" if each.ready else "not finished, or broken")
        for each in stored(default_cache())
    ]
    console.data("\n".join(columns(rows, "<><")) if rows else "no environments")


@environments.command("remove")
def env_remove(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(help="As `env list` shows them.")],
) -> None:
    """Delete environments; a later run makes them again."""
    from parity_check.engines.environment.environment import default_cache
    from parity_check.engines.environment.stored import remove, stored
    from parity_check.errors import suggestion

    console = _console(context, 0, None, None)
    known = {each.name: each for each in stored(default_cache())}
    for name in names:
        if name not in known:
            raise ConfigError(f"no environment is called {name!r}", hint=suggestion(name, known))
    for name in names:
        remove(known[name])
        console.say(f"removed {name}, {known[name].gb:.1f} GB")


@environments.command("prune")
def env_prune(context: typer.Context) -> None:
    """Delete environments that were never finished, or do not work."""
    from parity_check.engines.environment.environment import default_cache
    from parity_check.engines.environment.stored import remove, stored

    console = _console(context, 0, None, None)
    broken = [each for each in stored(default_cache()) if not each.ready]
    for each in broken:
        remove(each)
        console.say(f"removed {each.name}, {each.gb:.1f} GB")
    if not broken:
        console.say("nothing to remove")


@cli.command()
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

    console = _console(context, 0, color, None)
    if config is None and start:
        raise typer.BadParameter("needs a configuration (-c)", param_hint="--start")
    loaded = None if config is None else load_config(config, overlay or [])
    raise typer.Exit(checks.run(loaded, console, start))


@cli.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"parity-check {__version__}")
        raise typer.Exit


def main() -> int:
    """Run the command line; returns the exit code. The only place where errors are caught."""
    guard_streams()
    state = State(Console())
    try:
        check_arguments(sys.argv[1:])
        cli(obj=state)
    except SystemExit as end:
        code = end.code
    except ParityCheckError as error:
        state.console.error(error)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        state.console.err.print("this is a bug in parity-check; please report it")
        return ExitCode.BUG
    else:
        code = ExitCode.PARITY
    if interrupts.came():  # too late to stop anything, but the sender expects exit code 130
        state.console.error(Interrupted("the command had finished"))
        return ExitCode.INTERRUPTED
    return code if isinstance(code, int) else ExitCode.USAGE


def _console(
    context: typer.Context, verbosity: int, color: bool | None, progress: bool | None
) -> Console:
    console = Console(verbosity, color, progress)
    context.obj.console = console
    check_paths(context.params)
    if not _there():
        raise ConfigError(
            "the working directory no longer exists", hint="change to a directory that exists"
        )
    return console


def _stated(context: typer.Context) -> dict[str, Any]:
    """The flags that were given of those that stand for configuration keys."""
    from parity_check.config.flags import NAMES

    given = {name: context.params.get(name) for name in NAMES}
    return {name: value for name, value in given.items() if value is not None}


def _configured(context: typer.Context, config: Path | None, overlay: list[str]) -> Config:
    """The configuration of a file, with the flags over it, or of flags alone.

    Without a file and without both engines, it is the one that `init` writes, if that is here.
    """
    from parity_check.cli import standard_input
    from parity_check.config.load import load_config

    stated = _stated(context)
    if config is None and not {"reference", "candidate"} <= stated.keys():
        if not USUAL_FILE.is_file():
            raise typer.BadParameter(
                "pass a configuration (-c), or --reference and --candidate; parity-check init "
                f"writes {USUAL_FILE}, which needs no -c",
                param_hint="--config",
            )
        config = USUAL_FILE
        context.obj.console.say(f"configuration: {USUAL_FILE}")
    return standard_input.kept(load_config(config, overlay, stated))


def _recorded_engine(trace: Path) -> dict[str, Any] | None:
    """The table of the engine that recorded a trace; None if the trace does not have it."""
    from parity_check.traces.trace import read_header

    header = read_header(trace)
    table = header.config.get(header.evaluated_by)
    return table if isinstance(table, dict) else None


def _there() -> bool:
    """Whether the working directory exists."""
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False
