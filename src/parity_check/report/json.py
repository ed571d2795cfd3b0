"""report.json: a document's record. Never a NaN; what has nothing nested is in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from parity_check.report.document import Document


def render(document: Document) -> str:
    return dumps(tree(document.record))


def dumps(value: Any) -> str:
    """JSON in which two files can be compared line by line.

    What holds no objects and no lists is one line, and so is an object with one such object in it.
    """
    return "".join(_written(value, "")) + "\n"


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
    if _fits(value):
        yield json.dumps(value, ensure_ascii=False, allow_nan=False)
        return
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    entries = value.items() if isinstance(value, dict) else (("", each) for each in value)
    yield opening
    for number, (key, each) in enumerate(entries):
        name = f"{json.dumps(key, ensure_ascii=False)}: " if isinstance(value, dict) else ""
        yield f"{',' if number else ''}\n{indent} {name}"
        yield from _written(each, f"{indent} ")
    yield f"\n{indent}{closing}"


def _fits(value: Any) -> bool:
    """Whether a value is one line."""
    nested = [each for each in _children(value) if isinstance(each, dict | list) and each]
    if isinstance(value, dict) and len(nested) == 1 and len(value) > 1:
        [inner] = nested
        return isinstance(inner, dict) and not any(
            isinstance(each, dict | list) for each in inner.values()
        )
    return not nested


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
