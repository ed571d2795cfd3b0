"""What commands do first: their console, and their configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from parity_check.cli.options import USUAL_FILE, check_paths
from parity_check.console import Console
from parity_check.errors import ConfigError

if TYPE_CHECKING:
    from parity_check.config.models import Config


@dataclass(slots=True)
class State:
    """What the commands share with the code that catches their errors."""

    console: Console


def console(
    context: typer.Context, verbosity: int, color: bool | None, progress: bool | None
) -> Console:
    """The console of a command, which also reports its errors. Raises ConfigError, InputError."""
    made = Console(verbosity, color, progress)
    context.obj.console = made
    check_paths(context.params)
    if not _there():
        raise ConfigError(
            "the working directory no longer exists", hint="change to a directory that exists"
        )
    return made


def stated(context: typer.Context) -> dict[str, Any]:
    """The flags that were given of those that stand for configuration keys."""
    from parity_check.config.flags import NAMES

    given = {name: context.params.get(name) for name in NAMES}
    return {name: value for name, value in given.items() if value is not None}


def configured(
    context: typer.Context, config: Path | None, overlay: list[str], engine: str | None = None
) -> Config:
    """The configuration of a file, with the flags over it, or of flags alone.

    Without a file and without both engines, it is the one that `init` writes, if that is here. A
    dry run writes nothing: prompts from standard input are not read. A command that starts this
    `engine` alone needs no other.
    """
    from parity_check.cli import standard_input
    from parity_check.config.load import load_config
    from parity_check.config.models import ROLES

    flags = stated(context)
    if config is None and engine in ROLES and engine in flags and not USUAL_FILE.is_file():
        flags = {**dict.fromkeys(ROLES, flags[engine]), **flags}
    if config is None and not {"reference", "candidate"} <= flags.keys():
        if not USUAL_FILE.is_file():
            raise typer.BadParameter(
                "pass a configuration (-c), or --reference and --candidate; parity-check init "
                f"writes {USUAL_FILE}, which needs no -c",
                param_hint="--config",
            )
        config = USUAL_FILE
        context.obj.console.say(f"configuration: {USUAL_FILE}")
    loaded = load_config(config, overlay, flags)
    return loaded if context.params.get("dry_run") else standard_input.kept(loaded)


def _there() -> bool:
    """Whether the working directory exists."""
    try:
        return bool(Path.cwd())
    except FileNotFoundError:
        return False
