"""The keys of a configuration that must not change while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity_check.errors import ConfigError
from parity_check.visible import value as shown

JUDGING = ("run", "gates", "stats", "objective", "diagnosis", "training", "weight_sync")
"""Tables that only say how a comparison is judged and shown."""
LISTED = 3
"""Changed keys that an error names."""
ABSENT = "not set"


def keys(config: Mapping[str, Any], free: Sequence[str]) -> dict[str, Any]:
    """All keys of a dumped configuration by dotted name, without those that may change."""
    return {
        key: value
        for key, value in _leaves(config)
        if not any(key == each or key.startswith(f"{each}.") for each in free)
    }


def check_unchanged(
    file: Path, before: Mapping[str, Any], now: Mapping[str, Any], hint: str
) -> None:
    """Raises ConfigError naming what was changed in a run's configuration file since it began."""
    found = changes(before, now)
    if found:
        raise ConfigError(
            f"{file} was changed since the run began: {found}", hint=f"put it back, or {hint}"
        )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The keys that differ, with both values; empty if none does."""
    every = dict.fromkeys([*before, *now])
    changed = [key for key in every if before.get(key) != now.get(key)]
    named = ", ".join(_change(key, before, now) for key in changed[:LISTED])
    more = len(changed) - LISTED
    return named + (f" and {more} more" if more > 0 else "")


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _change(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The key, and both values, but for a variable of an environment: it may be a secret."""
    if ".env." in key:
        return key
    was, new = (shown(each[key]) if key in each else ABSENT for each in (before, now))
    return f"{key} ({was}, now {new})"
