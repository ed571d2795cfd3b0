"""docs/reference/cli.md: every command with its options, from the command line itself."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from typer import Context
from typer.main import get_command

from parity_check.cli.main import cli

INTRODUCTION = """\
# Commands

Generated from the command line by `python scripts/make_reference.py`; do not edit.

{help}

{exits}.
"""


def commands_page() -> str:
    """The text of cli.md."""
    group: Any = get_command(cli)
    context = Context(group, info_name="parity-check")
    parts = [INTRODUCTION.format(help=group.help, exits=group.epilog), *_commands(group, context)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _commands(group: Any, context: Context) -> Iterator[str]:
    """The sections of all commands, and of the commands of a group below it."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        own = Context(command, info_name=name, parent=context)
        usage = " ".join(command.get_usage(own).removeprefix("Usage: ").split())
        yield f"## {own.command_path.removeprefix('parity-check ')}"
        yield f"```\n{usage}\n```"
        yield command.help
        if hasattr(command, "list_commands"):
            yield from _commands(command, own)
        else:
            yield from _options(command, own)


def _options(command: Any, context: Context) -> Iterator[str]:
    """A table for each heading of --help."""
    panels: dict[str | None, list[str]] = {}
    for option in command.get_params(context):
        shown = option.get_help_record(context)
        if shown is not None and option.name != "help":
            name, words = (_cell(each) for each in shown)
            panels.setdefault(option.rich_help_panel, []).append(
                f"| <code>{name}</code> | {words} |"
            )
    for panel, rows in panels.items():
        yield "\n".join([f"| {panel or 'Options'} | |", "| --- | --- |", *rows])


def _cell(text: str) -> str:
    """As HTML: some renderers keep the backslash of a pipe within backticks."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")
