"""A configuration as a tree of tables: read from a file, and changed by `--set`."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from parity_check.errors import ConfigError


def read_tree(path: Path) -> dict[str, Any]:
    """What a TOML file holds, or a YAML file by its suffix. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: not UTF-8 at byte {error.start}") from None
    if path.suffix in (".yaml", ".yml"):
        return _read_yaml(path, text)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: not valid TOML: {error}") from None


def _read_yaml(path: Path, text: str) -> dict[str, Any]:
    import yaml

    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path.name}: not valid YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path.name}: expected tables of keys")
    return tree


def set_key(tree: dict[str, Any], item: str) -> None:
    """Set one `a.b=VALUE`; a VALUE that is not a TOML value is taken as a string."""
    dotted, separator, text = item.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set {item}: expected KEY.KEY=VALUE")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = tree
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {item}: `{key}` is a value, not a table")
    table[keys[-1]] = value
