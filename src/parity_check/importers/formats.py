"""The importers by name, and whose logprobs each format holds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from parity_check.errors import ConfigError
from parity_check.importers import openai, prime_rl, slime, trl, verl
from parity_check.importers.dump import Dumped


@dataclass(frozen=True, slots=True)
class Importer:
    """One format: how it is read, and what its two sides are called."""

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
    """Raises ConfigError for an unknown format."""
    if name not in IMPORTERS:
        close = difflib.get_close_matches(name, IMPORTERS, n=1)
        raise ConfigError(
            f"unknown format {name}",
            hint=f"did you mean {close[0]}?" if close else f"there is {', '.join(IMPORTERS)}",
        )
    return IMPORTERS[name]
