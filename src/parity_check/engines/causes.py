"""Why an engine failed: the error to show, and its kind in the protocol."""

from __future__ import annotations

import re
from dataclasses import dataclass

from parity_check.engines.log import EngineLog

SIGNS = {
    "out_of_memory": (
        "out of memory",
        "not enough memory",
        "can't allocate memory",
        "cannot allocate memory",
        "no available memory",
        "less than desired gpu memory",
        "larger than the maximum number of tokens",
        "larger than the available kv cache memory",
    ),
    "no_device": (
        "failed to infer device type",
        "device string must not be empty",
        "no cuda gpus are available",
        "found no nvidia driver",
    ),
    "damaged": (
        "marshal data too short",
        "bad marshal data",
        "file too short",
        "invalid elf header",
        "source code cannot contain null bytes",
        "source code string cannot contain null bytes",
    ),
    "missing_package": ("no module named",),
}
"""Fragments of error messages, by kind."""
UNNAMED = ("load_failed", "internal")
"""The kinds of failures without a specific kind."""
NAMED_PACKAGE = ("vllm_not_installed", "transformers_not_installed")
"""These say which package is missing, so no sign says more."""
WRAPPERS = re.compile(
    r"engine core initialization failed|engine process failed to start|died unexpectedly"
    r"|workerproc initialization failed|engine loop is not running|enginedead",
    re.IGNORECASE,
)
"""Errors about the failure of another process, whose cause is in the log."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The error in one line, its kind, and further lines from the log."""

    kind: str
    message: str
    details: tuple[str, ...] = ()


def explain(kind: str, message: str, log: EngineLog) -> Cause:
    """The cause of a failure that a worker reports, with the first error of its log."""
    first = log.first_error()
    details: tuple[str, ...] = ()
    if first is not None and first not in message:
        if WRAPPERS.search(message):
            message = first
        elif kind in UNNAMED:
            details = (f"the first error in its log: {first}",)
    if kind not in NAMED_PACKAGE:
        kind = _by_sign(message) or kind
    return Cause(kind, message, details)


def _by_sign(message: str) -> str | None:
    said = message.lower()
    return next((kind for kind, signs in SIGNS.items() if any(s in said for s in signs)), None)
