"""report.json: a document's record. Never a NaN; an object of plain values is one line."""

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

    An object or a list of plain values is one line, and so is an object with one such object in it.
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
    children = value.values() if isinstance(value, dict) else value
    nested = [each for each in children if not _plain(each)] if not _plain(value) else []
    if isinstance(value, dict) and len(nested) == 1 and len(value) > 1:
        [inner] = nested
        return isinstance(inner, dict) and all(map(_plain, inner.values()))
    return not nested


def _plain(value: Any) -> bool:
    """A scalar, a list of numbers, or nothing."""
    if isinstance(value, list):
        return all(each is None or isinstance(each, float | int) for each in value)
    return not isinstance(value, dict) or not value
