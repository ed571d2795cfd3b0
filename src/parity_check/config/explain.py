"""What is wrong with a configuration, in one line that names the key."""

from __future__ import annotations

import difflib
import re
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from parity_check.visible import value as shown

UNSHOWN = ("base_url", "api_key_env")
"""Keys into which somebody may have pasted a secret."""
UNION_MEMBER = re.compile(r"bool|literal\[.*\]")


def explain(root: type[BaseModel], error: ValidationError) -> str:
    """Which key of which table is wrong, and what it takes."""
    first, *others = error.errors()
    place = _place(first["loc"])
    if first["type"] == "extra_forbidden":
        return _unknown_key(root, first["loc"])
    if first["type"] == "missing":
        return f"[{place}] is missing"
    same = [other for other in others if _place(other["loc"]) == place]
    reasons = [each["msg"].removeprefix("Value error, ") for each in (first, *same)]
    reason = ", or ".join(each[0].lower() + each[1:] for each in reasons)
    if isinstance(first["input"], str | int | float) and not place.endswith(UNSHOWN):
        reason += f" (got {shown(first['input'])})"
    return f"{place}: {reason}"


def _place(location: tuple[int | str, ...]) -> str:
    """The dotted key, without the member of a union that pydantic adds."""
    *parts, last = map(str, location)
    return ".".join(parts if UNION_MEMBER.fullmatch(last) else [*parts, last])


def _unknown_key(root: type[BaseModel], location: tuple[int | str, ...]) -> str:
    table: Any = root
    for part in location[:-1]:
        if get_origin(table) is dict:  # a table of tables: the part is a name
            table = get_args(table)[-1]
        else:
            table = table.model_fields[str(part)].annotation
        members = [each for each in get_args(table) if isinstance(each, type)]
        if get_origin(table) is not dict:
            table = next((each for each in members if issubclass(each, BaseModel)), table)
    close = difflib.get_close_matches(str(location[-1]), table.model_fields, n=1)
    dotted = ".".join(map(str, location))
    return f"unknown key `{dotted}`" + (f" (did you mean `{close[0]}`?)" if close else "")
