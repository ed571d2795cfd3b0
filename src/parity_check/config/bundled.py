"""The example configurations, which ship inside the package: `bundled:NAME`."""

from __future__ import annotations

from pathlib import Path

from parity_check.errors import ConfigError, suggestion

DIRECTORY = Path(__file__).parents[1] / "assets" / "configs"
PREFIX = "bundled:"


def names() -> tuple[str, ...]:
    """Of all examples, e.g. `quickstart`."""
    return tuple(sorted(path.stem for path in DIRECTORY.glob("*.toml")))


def example(name: str) -> Path:
    """The file of an example. Raises ConfigError for an unknown name."""
    if name not in names():
        raise ConfigError(
            f"no example configuration is called {name!r}", hint=suggestion(name, names())
        )
    return DIRECTORY / f"{name}.toml"
