"""Padding is removed by mask; padded rows without a mask are rejected. Nothing is guessed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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
    """Reject ids that are, or look, padded to one length on one side. Raises InputError.

    `certain`: the format pads its rows, so equal lengths are enough. Otherwise some rows, but not
    all, must have a run of one id there: at least two (with equal `logprobs`, if given), or one if
    all rows continue with the same id. `missing` is the mask that would show the padding.
    """
    if len(rows) < 2 or len({len(row) for row in rows}) > 1 or not rows[0]:
        return
    if not all(isinstance(each, Hashable) for row in rows for each in row):
        return  # not token ids: an error when they are read
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
    """The number of leading `filler` entries of a row."""
    return sum(1 for _ in takewhile(lambda each: each == filler, row))
