"""A group of commands, as `--help` shows it and as an interrupt ends it."""

from __future__ import annotations

from typing import Any

import typer

from parity_check.errors import Interrupted


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
    """The option; --help shows no type for one that takes no value, nor for an argument."""
    if option.param_type_name == "argument":
        option.display_type = lambda ctx: ""
    if isinstance(option, typer.core.TyperOption) and (option.is_flag or option.count):
        option.metavar, option.show_default = "", False
    return option
