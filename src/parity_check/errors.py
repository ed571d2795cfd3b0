"""Error classes, each with its exit code, and hints for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
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
    CLOSED = 141
    """The reader of stdout closed it, as with `| head`: 128 + SIGPIPE, as in a shell."""


def nearest(word: str, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """The known word that a misspelled one is closest to; None when none is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=similarity)
    return close[0] if close else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: the nearest known one, or all of them."""
    known = list(known)
    near = nearest(word, known)
    return f"did you mean {near}?" if near else f"expected one of: {', '.join(known)}"


class ParityCheckError(Exception):
    """A failure that is not a bug in parity-check.

    `message` is one line: what is wrong, and where. `hint` says what to do. `log` is a file with
    the details; `details` are lines to print directly. `kept` says what the run recorded before it
    failed; the run directory sets it.
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


class ClosedOutputError(OutputError):
    """The reader of stdout closed it. Ends the command without a message."""

    exit_code = ExitCode.CLOSED


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

    `kind` is the error kind of the worker protocol (`bad_engine_args`, `out_of_memory`,
    `crashed`…).
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
