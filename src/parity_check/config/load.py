"""Load a configuration: read the file, apply `--set`, validate, dump for the run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from parity_check.config.engines import Table
from parity_check.config.explain import explain
from parity_check.config.models import ROLES, SHAPING, Config, Judging, WeightSync, Workload
from parity_check.errors import ConfigError, suggestion

T = TypeVar("T", bound=Table)


def load_config(path: Path, overlay: Sequence[str] = ()) -> Config:
    """Read TOML (or YAML by suffix), apply `a.b=VALUE` overlays, resolve relative paths.

    Paths are relative to the file. Raises ConfigError naming the file, the key and what it accepts.
    """
    tree = read_tree(path)
    for item in overlay:
        set_key(tree, item)
    _resolve_paths(tree, path.parent)
    return parse_config(tree, source=path.name)


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    return _validate(Config, tree, source)


def _validate(table: type[T], tree: Mapping[str, Any], source: str) -> T:
    try:
        return table.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(table, error)}") from None


def load_judging(path: Path | None, overlay: Sequence[str] = ()) -> Judging:
    """How to judge stored traces: from a configuration file or the defaults, with overlays."""
    if path is not None:
        return load_config(path, overlay)
    tree: dict[str, Any] = {}
    for item in overlay:
        set_key(tree, item)
    return _validate(Judging, tree, "--set")


def stated_sampling(items: Sequence[str]) -> dict[str, Any]:
    """Parse `NAME=VALUE` sampling parameters, validated as in [workload]. Raises ConfigError."""
    tree: dict[str, Any] = {}
    for item in items:
        name, _, _ = item.partition("=")
        if name.strip() not in SHAPING:
            raise ConfigError(
                f"--sampling {item}: unknown sampling parameter `{name.strip()}`",
                hint=suggestion(name.strip(), SHAPING),
            )
        set_key(tree, item)
    stated = _validate(Workload, tree, "--sampling")
    return {name: getattr(stated, name) for name in tree}


def dump_config(config: Judging) -> dict[str, Any]:
    """The resolved configuration with all defaults, ready for JSON and TOML."""
    tree = config.model_dump(mode="json", exclude_none=True)
    return {name: table for name, table in tree.items() if name != "engines" or table}


def _resolve_paths(tree: dict[str, Any], base: Path) -> None:
    """Make paths that are relative to the configuration file absolute."""
    for table, key in (("model", "path"), ("workload", "prompts")):
        value = tree.get(table, {}).get(key) if isinstance(tree.get(table), dict) else None
        if isinstance(value, str) and not value.startswith("bundled:"):
            candidate = base / Path(value).expanduser()
            if candidate.exists():
                tree[table][key] = str(candidate.resolve())
    updates = tree.get("weight_sync")
    if isinstance(updates, dict):
        updates["python_path"] = str(base.absolute() / updates.get("python_path", "."))
        updates["weights"] = _beside(updates.get("weights", WeightSync().weights), base)
    further = tree.get("engines")
    tables = [tree.get(role) for role in ROLES]
    for engine in [*tables, *(further.values() if isinstance(further, dict) else [])]:
        value = engine.get("python") if isinstance(engine, dict) else None
        if isinstance(engine, dict) and isinstance(value, str) and "/" in value:
            # Not resolved: the interpreter of a virtual environment must stay a symlink.
            engine["python"] = str(base.absolute() / Path(value).expanduser())


def _beside(paths: Any, base: Path) -> Any:
    """Checkpoints that exist, as absolute paths; anything else is rejected later."""
    if not isinstance(paths, list):
        return paths
    return [
        str((base / path).resolve()) if isinstance(path, str) and (base / path).is_dir() else path
        for path in paths
    ]


def read_tree(path: Path) -> dict[str, Any]:
    """Parse a TOML file, or YAML by suffix. Raises ConfigError."""
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
        raise ConfigError(f"{path.name}: expected tables with keys")
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
