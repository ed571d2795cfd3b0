"""Turn a validation error into one line that names the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from parity_check.errors import nearest
from parity_check.visible import value as shown

UNSHOWN = ("base_url", "api_key_env")
"""Keys whose value may be a secret pasted by mistake; never printed."""
UNION_MEMBER = re.compile(r"bool|literal\[.*\]")


def explain(root: type[BaseModel], error: ValidationError) -> str:
    """Which key is wrong, and what it accepts."""
    first, *others = error.errors()
    keys, table = _located(root, first["loc"])
    place = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return _unknown_key(keys, table)
    if first["type"] == "missing":
        return f"[{place}] is missing"
    if first["type"] == "union_tag_invalid":
        *kinds, last = first["ctx"]["expected_tags"].split(", ")
        expected = f"input should be {', '.join(kinds)} or {last}"
        return f"{place}.kind: {expected} (got {first['ctx']['tag']!r})"
    same = [other for other in others if _located(root, other["loc"])[0] == keys]
    reasons = [each["msg"].removeprefix("Value error, ") for each in (first, *same)]
    reason = ", or ".join(each[0].lower() + each[1:] for each in reasons)
    if isinstance(first["input"], str | int | float) and not place.endswith(UNSHOWN):
        reason += f" (got {shown(first['input'])})"
    return f"{place}: {reason}"


def _located(root: type[BaseModel], location: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The keys of a place, and the table that the last of them is in.

    Without the members of unions, which pydantic names in between.
    """
    keys: list[str] = []
    table, below = None, root
    for part in map(str, location):
        kinds = _kinds(below)
        if part in kinds:
            below = kinds[part]
        elif not UNION_MEMBER.fullmatch(part):
            keys.append(part)
            table, below = below, _below(below, part)
    return keys, table


def _kinds(annotation: Any) -> Mapping[str, Any]:
    """The tables of a union by their tags; empty for anything else."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    members = [get_args(m) for m in get_args(annotation) if get_origin(m) is Annotated]
    return {note.tag: table for table, *notes in members for note in notes if isinstance(note, Tag)}


def _below(table: Any, key: str) -> Any:
    """What stands below a key of a table, or of a table of tables."""
    if get_origin(table) is dict:
        return get_args(table)[-1]
    members = [table, *get_args(table)]
    model = next((m for m in members if isinstance(m, type) and issubclass(m, BaseModel)), None)
    found = model.model_fields.get(key) if model is not None else None
    return None if found is None else found.annotation


def _unknown_key(keys: list[str], table: Any) -> str:
    *_, last = keys
    models = [m for m in (table, *get_args(table)) if isinstance(m, type)]
    known = [name for m in models if issubclass(m, BaseModel) for name in m.model_fields]
    near = nearest(last, known)
    return f"unknown key `{'.'.join(keys)}`" + (f" (did you mean `{near}`?)" if near else "")
