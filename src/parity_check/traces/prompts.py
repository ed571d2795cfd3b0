"""The user's prompts: JSONL or Parquet with text, chat messages or token ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from parity_check.errors import InputError
from parity_check.traces.trace import Sample

ASSETS = Path(__file__).parents[1] / "assets"
CONTENT = ("prompt", "prompt_token_ids", "messages")
RESERVED = frozenset({each.name for each in fields(Sample)})
"""Columns that a trace has of its own."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; exactly one of `text`, `messages` and `token_ids` is given."""

    prompt_id: str
    group: str
    text: str | None
    messages: list[dict[str, Any]] | None
    token_ids: list[int] | None
    labels: Mapping[str, str] = field(default_factory=dict)
    """The other columns that hold one value, as text."""


def bundled(reference: str, kind: str) -> Path | None:
    """The path of `bundled:NAME`, None for anything else. Raises InputError."""
    prefix, _, name = reference.partition(":")
    if prefix != "bundled":
        return None
    known = {
        "model": {name: ASSETS / name for name in ("tiny", "tiny-next")},
        "prompts": {"prompts": ASSETS / "prompts.jsonl"},
    }
    if name not in known[kind]:
        names = ", ".join(f"bundled:{each}" for each in known[kind])
        raise InputError(f"{reference}: no such bundled {kind}", hint=f"expected one of: {names}")
    return known[kind][name]


def read_prompts(source: str, limit: int | None = None) -> list[Prompt]:
    """Read and check all prompts. Raises InputError with file and line."""
    path = bundled(source, "prompts") or Path(source)
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path)
    prompts = [_prompt(row, place, number) for number, (place, row) in enumerate(rows)][:limit]
    if not prompts:
        raise InputError(f"{path}: no prompts")
    [(most_common, count)] = Counter(prompt.prompt_id for prompt in prompts).most_common(1)
    if count > 1:
        raise InputError(f"{path}: prompt_id `{most_common}` occurs {count} times")
    return prompts


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the prompts {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from None
    # Not splitlines: a JSON string may contain U+2028 and the like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            try:
                yield place, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{place}: not valid JSON: {error.msg}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            rows = pq.read_table(file).to_pylist()
    except OSError as error:
        raise InputError(f"cannot read the prompts {path}: {error.strerror}") from None
    except pa.ArrowInvalid:
        raise InputError(f"{path}: not a Parquet file, or truncated") from None
    for number, row in enumerate(rows):
        yield f"{path}, row {number}", row


def _prompt(row: Any, place: str, number: int) -> Prompt:
    if not isinstance(row, dict):
        raise InputError(f"{place}: expected an object with one of {', '.join(CONTENT)}")
    row = {name: value for name, value in row.items() if value is not None}
    given = [name for name in CONTENT if name in row]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise InputError(f"{place}: needs exactly one of {', '.join(CONTENT)} (found {found})")
    value = row[given[0]]
    if not value:
        raise InputError(f"{place}: `{given[0]}` is empty")
    _check_type(given[0], value, place)
    return Prompt(
        prompt_id=str(row.get("prompt_id", f"p{number:04d}")),
        group=str(row.get("prompt_group", "all")),
        text=row.get("prompt"),
        messages=row.get("messages"),
        token_ids=row.get("prompt_token_ids"),
        labels={
            name: str(value)
            for name, value in row.items()
            if name not in (*CONTENT, "prompt_id", "prompt_group") and name not in RESERVED
            and isinstance(value, str | int | float)
        },
    )  # fmt: skip


def _check_type(name: str, value: Any, place: str) -> None:
    if name == "prompt":
        fits, wanted = isinstance(value, str) and _is_unicode(value), "a string of valid Unicode"
    elif name == "prompt_token_ids":
        fits = isinstance(value, list) and _all(value, lambda x: type(x) is int and x >= 0)
        wanted = "a list of token ids"
    else:
        fits = isinstance(value, list) and _all(value, lambda x: isinstance(x, dict))
        wanted = "a list of chat messages"
    if not fits:
        raise InputError(f"{place}: `{name}` must be {wanted}")


def _is_unicode(text: str) -> bool:
    """Whether the text can be encoded: JSON can contain a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _all(values: Iterable[Any], test: Any) -> bool:
    return all(test(value) for value in values)
