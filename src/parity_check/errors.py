"""What can go wrong, and the exit code that each kind of failure owns."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """The process's exit codes: a public contract."""

    PARITY = 0
    DRIFT = 1
    USAGE = 2
    ENGINE = 3
    INCONCLUSIVE = 4
    BUG = 70
    INTERRUPTED = 130


class ParityCheckError(Exception):
    """A failure that is not a bug of parity-check.

    `message` is one line that says what is wrong and where; `hint` says what to do; `log` is a
    file with the details, and `details` are lines worth showing at once. `kept` names what a run
    had recorded by then; the run's directory fills it in.
    """

    exit_code = ExitCode.USAGE

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        log: Path | None = None,
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log
        self.details = details
        self.kept: str | None = None


class ConfigError(ParityCheckError):
    """The configuration or the command line is wrong."""


class InputError(ParityCheckError):
    """Prompts, a model or a trace cannot be used."""


class TraceMismatchError(ParityCheckError):
    """Two traces cannot be compared token by token."""


class OutputError(ParityCheckError):
    """A result could not be written."""


class Interrupted(ParityCheckError):
    """Ctrl-C, or SIGTERM."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, kept: str | None = None) -> None:
        super().__init__("interrupted")
        self.kept = kept


class EngineEnvironmentError(ParityCheckError):
    """An engine's interpreter is missing, cannot be provisioned or does not work."""

    exit_code = ExitCode.ENGINE


class EngineError(ParityCheckError):
    """An engine could not start, refused an operation, crashed or hung.

    `kind` is the worker protocol's word for it (`bad_engine_args`, `out_of_memory`, `crashed` …).
    """

    exit_code = ExitCode.ENGINE

    def __init__(
        self,
        message: str,
        *,
        kind: str = "crashed",
        hint: str | None = None,
        log: Path | None = None,
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint, log=log, details=details)
        self.kind = kind
