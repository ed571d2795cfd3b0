"""Load a configuration: read the file, apply `--set`, validate, dump for the run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from pydantic import ValidationError

from parity_check.config import bundled, flags
from parity_check.config.engines import Table
from parity_check.config.explain import explain
from parity_check.config.models import ROLES, SHAPING, Config, Judging, WeightSync, Workload
from parity_check.errors import ConfigError, suggestion
from parity_check.reading import MOST_DEPTH, MOST_NODES, read_text, wrong_name, wrong_tree
from parity_check.visible import value as shown

if TYPE_CHECKING:
    import yaml

T = TypeVar("T", bound=Table)

MOST_BYTES = 1 << 18
"""The largest configuration; parsing time grows faster than the text."""
LONG_KEY = re.compile(rf"(?<![\w\"'-])(?:[\w\"'-]+[ \t]*\.[ \t]*){{{MOST_DEPTH},}}")
"""A dotted key that is deeper than any configuration."""


def load_config(
    path: Path | None, overlay: Sequence[str] = (), stated: Mapping[str, Any] | None = None
) -> Config:
    """Read TOML (or YAML by suffix), apply flags and `a.b=VALUE` overlays, resolve relative paths.

    `bundled:NAME` is an example of the package; None is a configuration of flags alone. Paths are
    relative to the file. Raises ConfigError naming the file, the key and what it accepts.
    """
    if path is not None and str(path).startswith(bundled.PREFIX):
        path = bundled.example(str(path).removeprefix(bundled.PREFIX))
    source = "the command line" if path is None else path.name
    tree = {} if path is None else _checked(read_tree(path), source)
    flags.apply(tree, stated or {})
    for item in overlay:
        set_key(tree, item)
    resolve_paths(_checked(tree, "--set"), Path() if path is None else path.parent)
    return parse_config(tree, source=source)


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    return _validate(Config, tree, source)


def _validate(table: type[T], tree: Mapping[str, Any], source: str) -> T:
    try:
        return table.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(table, error)}") from None


def _checked(tree: dict[str, Any], source: str) -> dict[str, Any]:
    """The tree, if its depth and size are within limits and all values can be stored."""
    reason = wrong_tree(tree)
    if reason is not None:
        raise ConfigError(f"{source}: {reason}, which a configuration cannot have")
    return tree


def load_judging(
    path: Path | None, overlay: Sequence[str] = (), stated: Mapping[str, Any] | None = None
) -> Judging:
    """How to judge stored traces: from a configuration file or the defaults, with the flags that
    were given and with overlays.
    """
    if path is not None:
        return load_config(path, overlay, stated)
    tree: dict[str, Any] = {}
    flags.apply(tree, stated or {})
    for item in overlay:
        set_key(tree, item)
    return _validate(Judging, _checked(tree, "--set"), "--set")


def stated_sampling(items: Sequence[str]) -> dict[str, Any]:
    """Parse `NAME=VALUE` sampling parameters, validated as in [workload]. Raises ConfigError."""
    tree: dict[str, Any] = {}
    for item in items:
        name, separator, _ = item.partition("=")
        if not separator:
            raise ConfigError(f"--sampling {item}: expected NAME=VALUE")
        if name.strip() not in SHAPING:
            raise ConfigError(
                f"--sampling {item}: unknown sampling parameter `{name.strip()}`",
                hint=suggestion(name.strip(), SHAPING),
            )
        if name.strip() in tree:
            raise ConfigError(f"--sampling: `{name.strip()}` is given twice")
        set_key(tree, item)
    stated = _validate(Workload, _checked(tree, "--sampling"), "--sampling")
    return {name: getattr(stated, name) for name in tree}


def dump_config(config: Judging) -> dict[str, Any]:
    """The resolved configuration with all defaults, ready for JSON and TOML."""
    tree = config.model_dump(mode="json", exclude_none=True)
    return {name: table for name, table in tree.items() if name != "engines" or table}


def resolve_paths(tree: dict[str, Any], base: Path) -> None:
    """Make paths that are relative to the configuration file absolute."""
    for table, key in (("model", "path"), ("model", "lora"), ("workload", "prompts")):
        value = tree.get(table, {}).get(key) if isinstance(tree.get(table), dict) else None
        if _is_path(value) and value != flags.STANDARD_INPUT and not value.startswith("bundled:"):
            candidate = base / Path(value).expanduser()
            with suppress(OSError, RuntimeError):  # a link that leads to itself
                if candidate.exists():
                    tree[table][key] = str(candidate.resolve())
    updates = tree.get("weight_sync")
    if isinstance(updates, dict):
        updates["python_path"] = _below(updates.get("python_path", "."), base)
        updates["weights"] = _beside(updates.get("weights", WeightSync().weights), base)
    training = tree.get("training")
    if isinstance(training, dict):
        training["python_path"] = _below(training.get("python_path", "."), base)
        if "prompts" in training:
            [training["prompts"]] = _beside([training["prompts"]], base, kind=Path.exists)
    further = tree.get("engines")
    tables = [tree.get(role) for role in ROLES]
    tables += [training.get("trainer")] if isinstance(training, dict) else []
    for engine in [*tables, *(further.values() if isinstance(further, dict) else [])]:
        value = engine.get("python") if isinstance(engine, dict) else None
        if isinstance(engine, dict) and _is_path(value) and "/" in value:
            # Not resolved: the interpreter of a virtual environment must stay a symlink.
            engine["python"] = str(base.absolute() / Path(value).expanduser())


def _is_path(value: Any) -> TypeGuard[str]:
    """Whether a value may be a file name; if not, validation rejects it."""
    return isinstance(value, str) and wrong_name(value) is None


def _below(path: Any, base: Path) -> Any:
    """A directory as an absolute path; anything else is rejected later."""
    return str(base.absolute() / path) if _is_path(path) else path


def _beside(paths: Any, base: Path, kind: Callable[[Path], bool] = Path.is_dir) -> Any:
    """Checkpoints or files that exist, as absolute paths; anything else is rejected later."""
    if not isinstance(paths, list):
        return paths
    return [
        str((base / path).resolve()) if _is_path(path) and kind(base / path) else path
        for path in paths
    ]


def read_tree(path: Path) -> dict[str, Any]:
    """Parse a TOML file, or YAML by suffix. Raises ConfigError."""
    if (path / "config.toml").is_file():
        raise ConfigError(f"{path}: a run", hint=f"did you mean -c {path / 'config.toml'}?")
    text = read_text(path, "the configuration", MOST_BYTES, ConfigError)
    if path.suffix in (".yaml", ".yml"):
        return _read_yaml(path, text)
    try:
        return _parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"{path.name}: not valid TOML: {_reason(error)}") from None


def _parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML in bounded time. Raises ValueError, as tomllib does, also for deep nesting."""
    if LONG_KEY.search(text):
        raise ValueError(f"a key of more than {MOST_DEPTH} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_yaml(path: Path, text: str) -> dict[str, Any]:
    import yaml

    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        reason = None if node is None else _wrong_node(node)
        tree = None if node is None or reason else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        # Scalars that look like a number or a date can raise the errors of int and datetime.
        reason = _reason(error)
    except RecursionError:
        reason = "nested too deeply"
    finally:
        if loader is not None:
            loader.dispose()
    if reason is not None:
        raise ConfigError(f"{path.name}: not valid YAML: {reason}")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path.name}: expected tables with keys")
    return tree


def _wrong_node(root: yaml.Node) -> str | None:
    """Why a YAML document is rejected: too deep, too large with aliases, or a duplicate key."""
    import yaml

    level, count = [root], 0
    for _ in range(MOST_DEPTH + 1):
        below: list[yaml.Node] = []
        for node in level:
            if isinstance(node, yaml.MappingNode):
                names = [(key.tag, key.value) for key, _ in node.value if _is_scalar(key)]
                twice = next((name for _, name in names if names.count((_, name)) > 1), None)
                if twice is not None:
                    return f"duplicate key {shown(twice)} at line {node.start_mark.line + 1}"
                below += [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                below += node.value
            if count + len(below) > MOST_NODES:
                return f"more than {MOST_NODES:,} values, including aliases"
        if not below:
            return None
        count += len(below)
        level = below
    return f"nested more than {MOST_DEPTH} deep"


def _is_scalar(node: yaml.Node) -> bool:
    import yaml

    return isinstance(node, yaml.ScalarNode)


def _reason(error: Exception) -> str:
    """An error's text on one line, without advice for programmers."""
    return " ".join(str(error).partition(";")[0].split())


def set_key(tree: dict[str, Any], item: str) -> None:
    """Set one `a.b=VALUE`; a VALUE that is not a TOML value is taken as a string."""
    dotted, separator, text = item.partition("=")
    keys = dotted.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set {item}: expected KEY.KEY=VALUE")
    if len(keys) > MOST_DEPTH:
        raise ConfigError(f"--set {item}: a key of more than {MOST_DEPTH} parts")
    try:
        value = _parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except ValueError as error:
        raise ConfigError(f"--set {item}: {_reason(error)}") from None
    table = tree
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {item}: `{key}` is a value, not a table")
    table[keys[-1]] = value
