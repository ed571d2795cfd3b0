"""Flags of the command line that stand for configuration keys, so that no file is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity_check.config.models import ROLES
from parity_check.errors import ConfigError

KEYS: Mapping[str, tuple[str, str]] = {
    "model": ("model", "path"),
    "prompts": ("workload", "prompts"),
    "temperature": ("workload", "temperature"),
    "max_tokens": ("workload", "max_tokens"),
    "samples": ("workload", "samples_per_prompt"),
    "objective": ("objective", "kind"),
    "profile": ("gates", "profile"),
}
NAMES = (*KEYS, *ROLES)
"""Of all flags, as parameters."""
KEPT = ("settings", "engine_args", "env")
"""Of an engine's table in the file, where a flag names another interpreter."""


def apply(tree: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """Set the keys of all flags that are not None. Raises ConfigError.

    Paths of flags are relative to the working directory, unlike those of a file.
    """
    for name, value in flags.items():
        if value is None:
            continue
        if name in ROLES:
            found = tree.get(name)
            table = found if isinstance(found, dict) else {}
            kept = {key: table[key] for key in KEPT if key in table}
            tree[name] = {**_interpreter(name, value), **kept}
            continue
        table_name, key = KEYS[name]
        table = tree.setdefault(table_name, {})
        if isinstance(table, dict):  # validation rejects anything else
            local = name in ("model", "prompts") and Path(value).exists()
            table[key] = str(Path(value).absolute()) if local else value


def _interpreter(role: str, text: str) -> dict[str, str]:
    """`current`, a path to an interpreter, or a requirement."""
    if "://" in text:
        raise ConfigError(
            f"--{role} {text}: a server needs a configuration",
            hint="parity-check init endpoint writes one",
        )
    if text == "current":
        return {"python": text}
    if text.startswith((".", "/", "~")) or ("/" in text and "==" not in text):
        return {"python": str(Path(text).expanduser().absolute())}
    return {"requirement": text}
