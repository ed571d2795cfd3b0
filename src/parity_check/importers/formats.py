"""The importers by name, the sides of each format, and format detection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity_check.errors import ConfigError, InputError, suggestion
from parity_check.importers import (
    miles,
    nemo_rl,
    open_instruct,
    openai,
    pipelinerl,
    prime_rl,
    skyrl,
    slime,
    trl,
    verl,
)
from parity_check.importers.dump import LOGS, Dumped, json_lines
from parity_check.importers.torch_file import is_archive, read_pickle, read_torch

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Importer:
    """One format: how to read and recognise it, and the names of its two sides.

    `recognise` gets the first line of a file of JSON lines, or the object in a file of torch.
    """

    read: Callable[[Sequence[Path]], Iterator[Dumped]]
    recognise: Callable[[Any], bool]
    behaviour: str
    evaluating: str


IMPORTERS: dict[str, Importer] = {
    name: Importer(module.read, module.recognise, behaviour, evaluating)
    for name, module, behaviour, evaluating in (
        ("prime-rl", prime_rl, "prime-rl rollout", "prime-rl trainer"),
        ("slime", slime, "slime rollout", "slime trainer"),
        ("miles", miles, "miles rollout", "miles trainer"),
        ("verl", verl, "verl rollout", "verl trainer"),
        ("trl", trl, "TRL rollout", "TRL trainer"),
        ("pipelinerl", pipelinerl, "PipelineRL actor", "no trainer"),
        ("nemo-rl", nemo_rl, "NeMo-RL generation", "NeMo-RL trainer"),
        ("skyrl", skyrl, "SkyRL rollout", "SkyRL trainer"),
        ("open-instruct", open_instruct, "open-instruct rollout", "no trainer"),
        ("openai", openai, "OpenAI-compatible server", "no trainer"),
    )
}
READ_ALIKE = {"miles": "slime"}
"""A framework that also writes another's format."""


def importer(name: str) -> Importer:
    """The importer of a format. Raises ConfigError for an unknown one."""
    if name not in IMPORTERS:
        raise ConfigError(f"unknown format {name}", hint=suggestion(name, IMPORTERS))
    return IMPORTERS[name]


def find_format(paths: Sequence[Path]) -> str:
    """The one format of all files, by their content. Raises InputError."""
    found = {path: format_of(path) for path in paths}
    for path, name in found.items():
        if name is None:
            raise InputError(
                f"{path}: not a dump of a known format",
                hint=f"known formats: {', '.join(IMPORTERS)}; if yours is one of them, name it; "
                f"{LOGS} {path}",
            )
    names = sorted({name for name in found.values() if name is not None})
    if len(names) > 1:
        raise InputError(
            f"files of several formats: {', '.join(f'{p} is {n}' for p, n in found.items())}",
            hint="import them apart",
        )
    return names[0]


def check_format(name: str, paths: Sequence[Path]) -> None:
    """Reject files that clearly have another format than `name`. Raises InputError."""
    for path in paths:
        content = _first_content(path)
        found = _recognised(content)
        if _is_log(content):
            raise InputError(f"{path}: a log of metrics: it has no tokens", hint=f"{LOGS} {path}")
        if found not in (None, name, READ_ALIKE.get(name)):
            raise InputError(
                f"{path}: looks like a dump of {found}, not of {name}",
                hint=f"parity-check import {found} {path}",
            )


def format_of(path: Path) -> str | None:
    """The format that a file appears to have; None if unknown. Raises InputError if damaged."""
    return _recognised(_first_content(path))


def _recognised(content: Any) -> str | None:
    return next((name for name, each in IMPORTERS.items() if each.recognise(content)), None)


def _is_log(content: Any) -> bool:
    """Whether the first line holds nothing but numbers, perhaps in groups: a dump has tokens."""
    if not isinstance(content, dict) or not content:
        return False
    return all(
        each is None or isinstance(each, int | float) or _is_log(each) for each in content.values()
    )


def _first_content(path: Path) -> Any:
    """The first line of a text file, or the object in a file of torch or a pickle."""
    if is_archive(path):
        return read_torch(path)
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(b"\x80"):
        return read_pickle(path)
    if head == b"PAR1" or path.suffix == ".csv":
        return None
    return next(json_lines(path), ("", None))[1]
