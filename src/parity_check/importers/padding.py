"""Padding: removed by mask, and refused where there is none. Nothing is guessed away."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal

from parity_check.errors import InputError


def check_unpadded(
    rows: Sequence[Sequence[Any]],
    side: Literal["start", "end"],
    *,
    certain: bool,
    missing: str,
    place: str,
    logprobs: Sequence[Sequence[Any]] | None = None,
) -> None:
    """Refuse ids that are, or look, filled up to one length on a side. Raises InputError.

    `certain` says that the format pads its rows, so that equal lengths are enough. Otherwise some
    rows, not all, must hold a run of one id there: two at least (where `logprobs` are given, with
    one and the same value), or one where all rows go on with the same id behind it. A mask named
    `missing` would have said which tokens are padding.
    """
    if len(rows) < 2 or len({len(row) for row in rows}) > 1 or not rows[0]:
        return
    if certain or _filled(*(_turned(each, side) for each in (rows, logprobs or rows))):
        raise InputError(
            f"{place}: the rows are padded at the {side}, and there is no `{missing}`: it is "
            "unknown which tokens are padding",
            hint=f"dump `{missing}` too, or rows without padding",
        )


def _turned(rows: Sequence[Sequence[Any]], side: Literal["start", "end"]) -> list[list[Any]]:
    return [list(row) if side == "start" else list(row)[::-1] for row in rows]


def _filled(rows: list[list[Any]], values: list[list[Any]]) -> bool:
    for filler in {row[0] for row in rows}:
        runs = [_run(row, filler) for row in rows]
        if min(runs) > 0 or max(runs) == len(rows[0]):
            continue
        long = [value[:run] for value, run in zip(values, runs, strict=True) if run >= 2]
        if any(value == value[:1] * len(value) for value in long):
            return True
        if values is rows and len({row[run] for row, run in zip(rows, runs, strict=True)}) == 1:
            return True
    return False


def _run(row: list[Any], filler: Any) -> int:
    """How many entries a row begins with that are `filler`."""
    return sum(1 for _ in takewhile(lambda each: each == filler, row))
