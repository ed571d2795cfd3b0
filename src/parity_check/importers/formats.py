"""The importers by name, and the names of their two sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from parity_check.errors import ConfigError, suggestion
from parity_check.importers import openai, prime_rl, slime, trl, verl
from parity_check.importers.dump import Dumped


@dataclass(frozen=True, slots=True)
class Importer:
    """One format: its reader, and the names of its two sides."""

    read: Callable[[Sequence[Path]], Iterator[Dumped]]
    behaviour: str
    evaluating: str


IMPORTERS: dict[str, Importer] = {
    "prime-rl": Importer(prime_rl.read, "prime-rl rollout", "prime-rl trainer"),
    "slime": Importer(slime.read, "slime rollout", "slime trainer"),
    "verl": Importer(verl.read, "verl rollout", "verl trainer"),
    "trl": Importer(trl.read, "TRL rollout", "TRL trainer"),
    "openai": Importer(openai.read, "OpenAI-compatible server", "no trainer"),
}


def importer(name: str) -> Importer:
    """The importer of a format. Raises ConfigError for an unknown one."""
    if name not in IMPORTERS:
        raise ConfigError(f"unknown format {name}", hint=suggestion(name, IMPORTERS))
    return IMPORTERS[name]
