"""The example configurations, which ship inside the package: `bundled:NAME`."""

from __future__ import annotations

from pathlib import Path

from parity_check.errors import ConfigError, suggestion

DIRECTORY = Path(__file__).parents[1] / "assets" / "configs"
PREFIX = "bundled:"
OTHER_NAMES = {"gpu": "v0-to-v1"}
"""Other names of examples."""


def names() -> tuple[str, ...]:
    """Of all examples, e.g. `quickstart`."""
    return tuple(sorted(path.stem for path in DIRECTORY.glob("*.toml")))


def example(name: str) -> Path:
    """The file of an example. Raises ConfigError for an unknown name."""
    name = OTHER_NAMES.get(name, name)
    if name not in names():
        raise ConfigError(
            f"no example configuration is called {name!r}",
            hint=suggestion(name, (*names(), *OTHER_NAMES)),
        )
    return DIRECTORY / f"{name}.toml"
