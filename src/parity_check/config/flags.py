"""Flags of the command line that stand for configuration keys, so that no file is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity_check.config.models import ROLES
from parity_check.config.training import TRAINER
from parity_check.errors import ConfigError
from parity_check.reading import beside

ON_A_TRACE = (
    "parity-check compare -c parity.toml --workload-trace {trace} --set stats.cluster_by=prompt"
)
"""How to compare engines on the tokens of a dump, which has no column of prompt families."""
STANDARD_INPUT = "-"
"""The prompts that are piped in; never a file of this name."""
KEYS: Mapping[str, tuple[str, str]] = {
    "model": ("model", "path"),
    "lora": ("model", "lora"),
    "prompts": ("workload", "prompts"),
    "prompt_column": ("workload", "prompt_column"),
    "temperature": ("workload", "temperature"),
    "max_tokens": ("workload", "max_tokens"),
    "samples": ("workload", "samples_per_prompt"),
    "objective": ("objective", "kind"),
    "profile": ("gates", "profile"),
}
NAMES = (*KEYS, *ROLES, TRAINER)
"""Of all flags, as parameters."""
JUDGING = ("objective", "profile")
"""Of flags, those that only judge: they apply to stored traces too."""
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
            if isinstance(value, Mapping):  # of a recorded trace
                tree[name] = dict(value)
            elif "://" in value:
                tree[name] = _server(name, value, table, flags.get("model"))
            else:
                kept = {key: table[key] for key in KEPT if key in table}
                tree[name] = {**_interpreter(name, value), **kept}
            continue
        if name == TRAINER:
            training = tree.setdefault("training", {})
            if isinstance(training, dict):
                training[TRAINER] = _interpreter(name, value)
            continue
        table_name, key = KEYS[name]
        table = tree.setdefault(table_name, {})
        if isinstance(table, dict):  # validation rejects anything else
            local = name in ("model", "lora", "prompts") and _is_file(value)
            table[key] = str(Path(value).absolute()) if local else value


def _is_file(value: str) -> bool:
    return value != STANDARD_INPUT and Path(value).exists()


HOST = re.compile(r"(\[[\da-fA-F:]+\]|[\w.-]+):\d+(/.*)?")
"""A server without the scheme of its address."""


def _server(role: str, url: str, table: Mapping[str, Any], model: str | None) -> dict[str, Any]:
    """A running server. It serves the model by the name that `--model` has, unless a file says."""
    if not url.rstrip("/").endswith("/v1"):
        base, version, _ = url.rstrip("/").partition("/v1/")
        raise ConfigError(
            f"--{role} {url}: the address of a server ends with its API version",
            hint=f"did you mean {base}{version.rstrip('/') or '/v1'}?",
        )
    found = table.get("endpoint")
    endpoint = dict(found) if isinstance(found, dict) else {}
    if model is not None:
        endpoint.setdefault("model", model)
    if "model" not in endpoint:
        raise ConfigError(
            f"--{role} {url}: which model does it serve?",
            hint="add --model, by the name that the server was started with",
        )
    kept = {key: table[key] for key in ("settings",) if key in table and found is not None}
    return {"kind": "endpoint", "endpoint": {**endpoint, "base_url": url}, **kept}


def _interpreter(role: str, text: str) -> dict[str, str]:
    """`current`, a path to an interpreter, or a requirement."""
    if text == "current":
        return {"python": text}
    if HOST.fullmatch(text):
        address = text.rstrip("/")
        version = "" if address.endswith("/v1") else "/v1"
        raise ConfigError(
            f"--{role} {text}: the address of a server begins with http:// or https://",
            hint=f"did you mean http://{address}{version}?",
        )
    folder = Path(text).expanduser()
    if folder.is_dir():
        raise ConfigError(f"--{role} {text}: a directory", hint=_in_directory(role, folder))
    if text.startswith((".", "/", "~")) or ("/" in text and "==" not in text):
        path = Path(text).expanduser().absolute()
        if not path.exists():
            raise ConfigError(
                f"--{role} {text}: no such file",
                hint=beside(path)
                or "pass the path of an interpreter that has vllm, or a version: vllm==0.18.1",
            )
        return {"python": str(path)}
    if text.endswith(".parquet"):
        raise ConfigError(
            f"--{role} {text}: only `compare` takes a recorded trace, and only as the reference"
        )
    return {"requirement": text}


def _in_directory(role: str, folder: Path) -> str:
    """What was meant by a directory: the trace of a run, or the interpreter of an environment."""
    trace, python = folder / "reference.parquet", folder / "bin" / "python"
    if trace.is_file() and role == ROLES[0]:
        return f"it is a run; to compare with what its reference sampled: --{role} {trace}"
    if python.exists():
        return f"did you mean its interpreter, --{role} {python}?"
    return "pass a version, e.g. vllm==0.18.1, or the path of an interpreter that has vllm"
