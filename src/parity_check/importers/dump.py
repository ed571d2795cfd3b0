"""The common result of the importers, and helpers to read JSON lines dumps."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from parity_check.errors import InputError
from parity_check.reading import (
    INTEGERS,
    parse_json,
    read_text,
    regular_file,
    spread,
    wrong_text,
)
from parity_check.visible import value as shown

LARGEST_ID = 2**31 - 1
LOGS = "a log without tokens is for: parity-check logs"
LONGEST_LINE = 1 << 28
"""Characters of one row of a dump."""

Logprobs = list[float | None]


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The likeliest ids of each token and their logprobs, by rank; empty if a token has none."""

    ids: list[list[int]]
    logprobs: list[list[float]]


@dataclass(frozen=True, slots=True)
class Dumped:
    """One sequence of a dump: prompt and completion without padding. All lists have equal length.

    `sampled[t]`: whether the policy sampled token t and the loss counts it; other logprobs are
    ignored. `behaviour` is what the rollout engine returned, `evaluating` what the trainer computed
    (nats; None if the dump has no trainer side). `place` is for error messages.
    """

    place: str
    sample_id: str
    token_ids: list[int]
    sampled: list[bool]
    behaviour: Logprobs
    evaluating: Logprobs | None
    prompt_id: str | None = None
    """None if the dump has no prompt ids: equal prompts are then found by their token ids."""
    rollout_id: str | None = None
    """The rollout that several sequences belong to; None if this sequence is a rollout itself."""
    group: str = ""
    finish_reason: str | None = None
    policy_versions: Sequence[int | None] | None = None
    """The policy that sampled each token, if the dump has it; a turn has that of its oldest
    token."""
    text: str | None = None
    alternatives: Alternatives | None = None
    texts: Mapping[int, str] = field(default_factory=dict)
    """The text of token ids, if the dump has it."""

    def __post_init__(self) -> None:
        """Names and texts are strings that can be stored. Raises InputError."""
        names = (self.sample_id, self.prompt_id, self.rollout_id, self.group, self.finish_reason)
        for text in (*names, self.text, *self.texts.values()):
            reason = None if text is None else wrong_text(text)
            if reason is not None:
                raise InputError(f"{self.place}: a name or a text holds {reason}")
        for version in self.policy_versions or ():
            if version is not None and not INTEGERS[0] <= version <= INTEGERS[1]:
                raise InputError(f"{self.place}: policy version {shown(version)}")


def prompt_name(ids: Sequence[int]) -> str:
    """A name for the prompt of these ids: samples of one group share it."""
    return f"prompt-{hashlib.sha256(np.asarray(ids, '<i4').tobytes()).hexdigest()[:12]}"


def turns_of(sampled: Sequence[bool]) -> list[tuple[int, int]]:
    """Where runs of sampled tokens begin and end."""
    edges = np.flatnonzero(np.diff([False, *sampled, False]))
    return [(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON lines file with their places. Raises InputError."""
    for place, row in json_lines(path):
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected an object")
        yield place, row


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a JSON lines file with their places. Raises InputError."""
    empty = True
    for number, line in _lines(path):
        if not line.strip():
            continue
        empty = False
        place = f"{path}, line {number}"
        try:
            row = parse_json(line, place, "not valid JSON, or truncated")
        except InputError:
            if number == 1 and spread(read_text(path, "the dump")):
                raise InputError(
                    f"{path}: one JSON document over several lines",
                    hint=f"of a dump, write one JSON object a line; {LOGS} {path}",
                ) from None
            raise
        yield place, row
    if empty:
        raise InputError(f"{path}: the file is empty")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    # A JSON string may contain U+2028 and the like unescaped: only \n ends a line.
    regular_file(path, "the dump")
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            while line := file.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise InputError(f"{path}, line {number}: longer than {LONGEST_LINE:,}")
                yield number, line
    except OSError as error:
        raise InputError(f"cannot read the dump {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8: {error.reason}") from None


def wanted(row: Mapping[str, Any], name: str, place: str, hint: str | None = None) -> Any:
    """A required field. Raises InputError if it is missing."""
    value = row.get(name)
    if value is None:
        raise InputError(f"{place}: `{name}` is missing", hint=hint)
    return value


def token_list(value: Any, name: str, place: str) -> list[int]:
    """A list of token ids. Raises InputError."""
    if not isinstance(value, list):
        raise InputError(f"{place}: `{name}` is not a list of token ids")
    for token in value:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token <= LARGEST_ID:
            raise InputError(f"{place}: `{name}` contains {shown(token)}, which is not a token id")
    return value


def logprob_list(value: Any, name: str, place: str) -> Logprobs:
    """A list of logprobs; None, NaN and -9999 are kept, to be counted. Raises InputError."""
    if not isinstance(value, list):
        raise InputError(f"{place}: `{name}` is not a list of logprobs")
    return [logprob(each, name, place) for each in value]


def logprob(value: Any, name: str, place: str) -> float | None:
    """One logprob, or None. Raises InputError."""
    if value is None:
        return None
    if isinstance(value, float) or (type(value) is int and INTEGERS[0] <= value <= INTEGERS[1]):
        return float(value)
    raise InputError(f"{place}: `{name}` contains {shown(value)}, which is not a logprob")


def objects(value: Any, name: str, place: str) -> list[dict[str, Any]]:
    """A list of objects. Raises InputError."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InputError(f"{place}: `{name}` is not a list of objects")
    return value


def text_or_none(value: Any) -> str | None:
    """A name or a text of any type, as a string."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, bool | int | float) else shown(value)


def mask_list(value: Any, name: str, place: str) -> list[bool]:
    """A list of 0 and 1, or of booleans. Raises InputError."""
    if not isinstance(value, list) or not all(_is_flag(each) for each in value):
        raise InputError(f"{place}: `{name}` is not a list of 0 and 1")
    return [bool(each) for each in value]


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | int | float) and value in (0, 1)


def check_masks(names: Iterable[str], known: Collection[str], place: str) -> None:
    """Reject an unknown column that looks like a mask. Raises InputError.

    A mask that is not applied gives wrong numbers without a word.
    """
    for name in names:
        if "mask" in name.lower() and name not in known:
            raise InputError(
                f"{place}: `{name}` looks like a mask, but this importer does not know what it "
                "masks",
                hint="apply it before dumping, or remove it if it masks no token",
            )


def kept(columns: Mapping[str, Sequence[Any]], mask: Sequence[bool]) -> dict[str, list[Any]]:
    """The columns without the entries that `mask` excludes; all have equal length."""
    return {name: list(compress(column, mask)) for name, column in columns.items()}


def check_lengths(columns: Mapping[str, Sequence[Any]], place: str) -> None:
    """Check that all columns of a sequence have equal length. Raises InputError."""
    (first, expected), *others = ((name, len(column)) for name, column in columns.items())
    for name, length in others:
        if length != expected:
            raise InputError(
                f"{place}: `{name}` has {length} entries, but `{first}` has {expected}"
            )
