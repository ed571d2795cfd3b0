"""The command line: every command by name, and what an error becomes."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from parity_check import __version__, interrupts
from parity_check.cli.commands import (
    ablate,
    compare,
    demo,
    doctor,
    env,
    import_dump,
    init,
    locate,
    logs,
    record,
    replay,
    report,
    train,
    weight_sync,
)
from parity_check.cli.groups import Commands
from parity_check.cli.invocation import State
from parity_check.cli.options import check_arguments
from parity_check.console import Console, guard_streams
from parity_check.errors import ExitCode, InputError, Interrupted, ParityCheckError

cli = typer.Typer(
    name="parity-check",
    cls=Commands,
    help="Did my rollout engine change the numbers that my RL trainer learns from?\n\n"
    "To see a report: parity-check demo. On your model: parity-check init, which asks a few "
    "questions, or parity-check compare --model … --reference vllm==0.8.5 "
    "--candidate vllm==0.18.1 --prompts ….",
    epilog="Exit codes: 0 parity · 1 drift · 2 usage or input · 3 an engine failed · "
    "4 inconclusive · 70 a bug in parity-check · 130 interrupted",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # rich tracebacks with locals would leak prompts
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command()(compare.compare)
cli.command()(report.report)
cli.command()(ablate.ablate)
cli.command()(locate.locate)
cli.command()(record.record)
cli.command()(replay.replay)
cli.command("weight-sync")(weight_sync.weight_sync)
cli.command()(train.train)
cli.command("import")(import_dump.import_dump)
cli.command()(logs.logs)
cli.command()(init.init)
cli.command()(demo.demo)
cli.command()(doctor.doctor)
cli.add_typer(env.environments, name="env", no_args_is_help=True)


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
    except PermissionError as error:  # a folder that this user may not enter
        refused = InputError(f"{error.filename}: {error.strerror}")
        state.console.error(refused)
        return refused.exit_code
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
