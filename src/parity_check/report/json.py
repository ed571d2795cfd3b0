"""report.json: a document's record. Never a NaN; an object of plain values is one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from parity_check.report.document import Document


def render(document: Document) -> str:
    return "".join(_written(tree(document.record), "")) + "\n"


def tree(value: Any) -> Any:
    """A record as JSON has it; infinities and NaN, which JSON does not have, become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: tree(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: tree(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [tree(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _written(value: Any, indent: str) -> Iterator[str]:
    """A line for each object or list of plain values, so that two files can be compared."""
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if all(map(_plain, nested)):
        yield json.dumps(value, ensure_ascii=False, allow_nan=False)
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    keys = [f"{_scalar(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    yield opening
    for number, (key, each) in enumerate(zip(keys, nested, strict=True)):
        yield f"{',' if number else ''}\n{indent} {key}"
        yield from _written(each, f"{indent} ")
    yield f"\n{indent}{closing}"


def _plain(value: Any) -> bool:
    """Whether a value fits into its parent's line: a scalar, or a list of numbers."""
    if isinstance(value, list):
        return all(each is None or isinstance(each, float | int) for each in value)
    return not isinstance(value, dict) or not value


def _scalar(key: Any) -> str:
    return json.dumps(str(key), ensure_ascii=False)
