"""Where inside the model two engines part, as their modules showed while they were loaded.

`locate` asks them. Kept in the run as `located.json`, so that the report can be rendered again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError

from parity_check.errors import InputError
from parity_check.files import write_text
from parity_check.measure.gates import Verdict
from parity_check.reading import read_text

if TYPE_CHECKING:
    from parity_check.recording.session import Session

FILE = "located.json"
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Depth:
    """The module of one layer that differs most; differences as in `locate`, None: not finite."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    place: str
    module: str
    relative: float | None
    noise: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Located:
    """The reference against the candidate on a few tokens of the run.

    `module` is the first whose output differs by more than rounding explains; None where the
    engines part nowhere, or only after the logits. `summary` says which, `reason` has the numbers.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    verdict: Verdict
    module: str | None
    summary: str
    reason: str
    passes: int
    depths: tuple[Depth, ...]


class Locator(Protocol):
    """What `locate` offers to a comparison whose engines are loaded."""

    def why_not(self, live: Session) -> str | None:
        """Why the engines cannot be asked as they are; None if they can."""

    def locate(self, live: Session, trace: Path) -> Located:
        """Ask the reference and the candidate, on tokens of a trace. Raises EngineError."""


_ADAPTER = TypeAdapter(Located)


def write(directory: Path, found: Located) -> None:
    """Raises OutputError."""
    write_text(directory / FILE, _ADAPTER.dump_json(found, indent=1).decode() + "\n")


def read(directory: Path | None) -> Located | None:
    """None where a run was not asked. Raises InputError."""
    if directory is None or not (directory / FILE).exists():
        return None
    text = read_text(directory / FILE, "where the engines part", MOST_BYTES, InputError)
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError:
        raise InputError(f"{directory / FILE}: not the file that the run wrote") from None
