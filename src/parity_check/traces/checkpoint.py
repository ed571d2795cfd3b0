"""Locate the model, and check that engines read its configuration correctly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from parity_check.config.models import ModelConfig
from parity_check.errors import ConfigError, InputError
from parity_check.reading import beside, parse_json, read_text
from parity_check.traces.engine import EngineDescription
from parity_check.traces.prompts import bundled
from parity_check.visible import value as shown

MOST_BYTES = 1 << 24
"""The largest config.json."""
LARGEST = 2**63
MOST_INDEX = 1 << 28
TOKENIZER = re.compile(r"^tokenizer(?!_config).*\.json$|\.model$|\.tiktoken$|vocab|tekken|merges")
"""A file of a tokenizer, of any kind."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
POINTER = b"version https://git-lfs"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def locate_model(model: ModelConfig) -> str:
    """A directory with a config.json, or a hub name with its revision. Raises InputError."""
    path = str(bundled(model.path, "model") or model.path)
    try:
        return _located(path, model)
    except OSError as error:
        raise InputError(f"model {path}: {error.strerror}") from None


def _located(path: str, model: ModelConfig) -> str:
    alone = any(Path(path).glob("*.gguf")) and not (Path(path) / "config.json").is_file()
    if path.lower().endswith(".gguf") or alone:
        raise InputError(
            f"model {path}: GGUF is not supported: no trainer has these quantised weights",
            hint="pass the checkpoint that it was made from",
        )
    if Path(path).is_dir():
        if not (Path(path) / "config.json").is_file():
            if (Path(path) / "adapter_config.json").is_file():
                raise InputError(
                    f"model {path}: a LoRA adapter, not a model",
                    hint=f"pass its base model, and {path} as --lora (model.lora in a file)",
                )
            raise InputError(f"model {path}: no config.json in this directory")
        return path
    if Path(path).is_file():
        raise InputError(
            f"model {path}: a file, not the folder of a checkpoint",
            hint=f"did you mean {Path(path).parent}?",
        )
    near = beside(Path(path), Path.is_dir)
    if not HUB_NAME.fullmatch(path):
        raise InputError(
            f"model {path}: no such directory",
            hint=near or "the folder of a checkpoint, or its name on the hub: ORGANISATION/MODEL",
        )
    if model.revision is None:
        raise ConfigError(
            f"model.path: no directory {path}, and a hub name needs a revision",
            hint=near or "set model.revision to a commit, e.g. --set model.revision=main",
        )
    return path


def check_files(path: str, *, tokenizer: bool = True, weights: bool = True) -> None:
    """Check that a directory has what engines load from it. A hub name is not checked.

    Raises InputError.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    try:
        names = [file.name for file in folder.iterdir()]
    except OSError as error:
        raise InputError(f"model {path}: {error.strerror}") from None
    if tokenizer and not any(TOKENIZER.search(name) for name in names):
        raise InputError(
            f"model {path}: no tokenizer in this directory, e.g. a tokenizer.json",
            hint="save it there: AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained(FOLDER)",
        )
    if weights:
        _check_weights(folder, names)


def _check_weights(folder: Path, names: Sequence[str]) -> None:
    """Raises InputError for a directory without weights, or with a part of them."""
    found = [name for name in names if name.endswith(WEIGHTS)]
    if not found:
        raise InputError(
            f"model {folder}: no weights in this directory, e.g. a model.safetensors",
            hint="export a training checkpoint of another format: save_pretrained(FOLDER)",
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        loaded = parse_json(read_text(index, "the index of the weights", MOST_INDEX), str(index))
        places = loaded.get("weight_map") if isinstance(loaded, dict) else None
        wanted = {f for f in places.values() if isinstance(f, str)} if _is_map(places) else set()
        missing = sorted(wanted - set(names))
        if missing:
            raise InputError(
                f"model {folder}: {len(missing)} of {len(wanted)} files of weights are not there, "
                f"the first is {shown(missing[0])}",
                hint="download or copy the checkpoint again",
            )
    for name in found:
        if not (folder / name).exists():
            raise InputError(
                f"model {folder}: {name} is a link to a file that is not there",
                hint="download or copy the checkpoint again",
            )
        with (folder / name).open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise InputError(
                    f"model {folder}: {name} is a pointer of Git LFS, not the weights",
                    hint="git lfs pull, in that folder",
                )


def _is_map(found: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(found, dict)


def read_config(path: str) -> dict[str, Any] | None:
    """The checkpoint's config.json; None for a hub model, which only the engines load."""
    file = Path(path) / "config.json"
    if not file.is_file():
        return None
    loaded = parse_json(read_text(file, "the model's configuration", MOST_BYTES), str(file))
    if not isinstance(loaded, dict):
        raise InputError(f"{file}: expected an object")
    text = _object(loaded, "text_config", file) or loaded
    for table in (text, _object(text, "rope_parameters", file)):
        _check_number(table, "rope_theta", file)
    _check_number(text, "vocab_size", file)
    names = loaded.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise InputError(f"{file}: `architectures` is {shown(names)}, expected a list of names")
    return loaded


def _object(table: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """A nested object; empty if missing or null."""
    found = table.get(name)
    if not isinstance(found, dict | None):
        raise InputError(f"{file}: `{name}` is {shown(found)}, expected an object")
    return found or {}


def _check_number(table: Mapping[str, Any], name: str, file: Path) -> None:
    """Reject values that are present and not numbers of a plausible size."""
    value = table.get(name)
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (fits and abs(value) < LARGEST):
        raise InputError(f"{file}: `{name}` is {shown(value)}, expected a number")


def vocabulary_size(config: Mapping[str, Any]) -> int | None:
    """The vocabulary size in a config.json; None if it is not there."""
    size = (config.get("text_config") or config).get("vocab_size")
    return size if isinstance(size, int) else None


def attention_heads(config: Mapping[str, Any]) -> int | None:
    """The attention heads in a config.json; None if it does not say, in any usual place."""
    heads = (config.get("text_config") or config).get("num_attention_heads")
    return heads if isinstance(heads, int) and heads > 0 else None


def rope_theta(config: Mapping[str, Any]) -> float | None:
    """The RoPE base in a config.json, in the format of transformers 4 or 5; None without one."""
    text = config.get("text_config") or config
    parameters = text.get("rope_parameters")
    nested = parameters.get("rope_theta") if isinstance(parameters, dict) else None
    base = text.get("rope_theta") if nested is None else nested
    return float(base) if isinstance(base, int | float) else None


def check_reading(
    role: str,
    description: EngineDescription,
    dtype: str,
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
) -> None:
    """Check that an engine has the RoPE base and dtype that it should have. Raises InputError.

    A base in `overrides` (`hf_overrides`) replaces that of the checkpoint. A checkpoint saved by
    transformers 5 loads in 0.8.5 and 0.18.1 with a base of 10000, silently: the two engines then
    run different models.
    """
    written, requested = rope_theta(config), rope_theta(overrides)
    read = description.model.get("rope_theta")
    base = written if requested is None else requested
    if read is not None and base is not None and float(read) != base:
        if requested is not None:
            raise InputError(
                f"the {role} engine has rope_theta {float(read):g}, but its hf_overrides request "
                f"{requested:g}",
                hint=f"hf_overrides = {_other_form(overrides, requested)}: this version reads the "
                "base from there",
            )
        raise InputError(
            f"the {role} engine reads rope_theta {float(read):g} from this checkpoint, but its "
            f"config.json has {base:g}",
            hint='its transformers is older than the checkpoint: write "rope_theta" and '
            '"torch_dtype" at the top level of config.json, as transformers 4 does',
        )
    loaded = description.config.get("dtype", dtype)
    if loaded != dtype:
        raise InputError(f"the {role} engine runs in {loaded}, but {dtype} was requested")


def _other_form(overrides: Mapping[str, Any], base: float) -> str:
    """The form of transformers 5 for an override in that of transformers 4, and the reverse."""
    flat = f"{{ rope_theta = {base:.1f} }}"
    nested = f'{{ rope_parameters = {{ rope_type = "default", rope_theta = {base:.1f} }} }}'
    return flat if "rope_parameters" in overrides else nested
