"""The provisioned environments in the cache: what they are, what they take, and their removal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from parity_check.engines.environment import provision


@dataclass(frozen=True, slots=True)
class Stored:
    """One environment; `gb` is the size of its files, some of which uv's cache shares."""

    name: str
    location: Path
    ready: bool
    gb: float


def stored(cache: Path) -> Iterator[Stored]:
    """All environments of the cache, by name."""
    for location in sorted((cache / "envs").glob("*")):
        if location.is_dir():
            ready = (location / "ready.json").is_file()
            yield Stored(location.name, location, ready, _size(location) / 1e9)


def remove(environment: Stored) -> None:
    """Delete an environment; waits while it is being made."""
    lock = environment.location.with_name(f"{environment.name}.lock")
    with provision.locked(lock, lambda _: None):
        shutil.rmtree(environment.location, ignore_errors=True)


def _size(location: Path) -> int:
    """Bytes of the files in a directory, links not followed."""
    files = (each for each in location.rglob("*") if each.is_file() and not each.is_symlink())
    return sum(each.stat().st_size for each in files)
