"""`env`: the provisioned engine environments."""

from __future__ import annotations

from typing import Annotated

import typer

from parity_check.cli import invocation
from parity_check.cli.groups import Commands
from parity_check.errors import ConfigError

environments = typer.Typer(
    cls=Commands, help="Show and remove the provisioned engine environments."
)


@environments.command("list")
def env_list(context: typer.Context) -> None:
    """Show every environment with its size."""
    from parity_check.engines.environment.environment import default_cache
    from parity_check.engines.environment.stored import stored
    from parity_check.report.text import columns

    console = invocation.console(context, 0, None, None)
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

    console = invocation.console(context, 0, None, None)
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

    console = invocation.console(context, 0, None, None)
    broken = [each for each in stored(default_cache()) if not each.ready]
    for each in broken:
        remove(each)
        console.say(f"removed {each.name}, {each.gb:.1f} GB")
    if not broken:
        console.say("nothing to remove")
