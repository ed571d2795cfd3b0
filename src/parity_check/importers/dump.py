"""What every importer yields, and how the dumps that are JSON lines are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity_check.errors import InputError
from parity_check.reading import INTEGERS, parse_json, regular_file, wrong_text
from parity_check.visible import value as shown

LARGEST_ID = 2**31 - 1
LONGEST_LINE = 1 << 28
"""Characters of one row of a dump."""

Logprobs = list[float | None]


@dataclass(frozen=True, slots=True)
class Alternatives:
    """The likeliest ids of each token and their logprobs, by rank; empty for tokens without."""

    ids: list[list[int]]
    logprobs: list[list[float]]


@dataclass(frozen=True, slots=True)
class Dumped:
    """One sequence of a dump: prompt and completion, without padding. Every list is as long.

    `sampled[t]` says whether the policy sampled token t and the loss counts it; other entries of
    the logprobs mean nothing. `behaviour` is what the rollout engine returned, `evaluating` what
    the trainer computed (nats), None where the dump does not hold it. `place` is for errors.
    """

    place: str
    sample_id: str
    token_ids: list[int]
    sampled: list[bool]
    behaviour: Logprobs
    evaluating: Logprobs | None
    prompt_id: str | None = None
    """None where the dump names no prompt: equal prompts are then found by their ids."""
    group: str = ""
    finish_reason: str | None = None
    policy_version: int | None = None
    text: str | None = None
    alternatives: Alternatives | None = None
    texts: Mapping[int, str] = field(default_factory=dict)
    """The text of token ids, where the dump holds it."""

    def __post_init__(self) -> None:
        """Names and texts are strings that can be stored. Raises InputError."""
        named = (self.sample_id, self.prompt_id, self.group, self.finish_reason, self.text)
        for text in (*named, *self.texts.values()):
            reason = None if text is None else wrong_text(text)
            if reason is not None:
                raise InputError(f"{self.place}: a name or a text holds {reason}")
        if not -1 <= (self.policy_version or 0) <= INTEGERS[1]:
            raise InputError(f"{self.place}: policy version {shown(self.policy_version)}")


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON lines file with their places. Raises InputError."""
    empty = True
    for number, line in _lines(path):
        if not line.strip():
            continue
        empty = False
        place = f"{path}, line {number}"
        row = parse_json(line, place, "not valid JSON, or cut short")
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected an object")
        yield place, row
    if empty:
        raise InputError(f"{path}: the file is empty")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    # A JSON string may hold U+2028 and its like as they are: only \n ends a line.
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
    """A field that must be there. Raises InputError."""
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
            raise InputError(f"{place}: `{name}` holds {shown(token)}, which is not a token id")
    return value


def logprob_list(value: Any, name: str, place: str) -> Logprobs:
    """A list of logprobs; None, NaN and -9999 stay, to be counted. Raises InputError."""
    if not isinstance(value, list):
        raise InputError(f"{place}: `{name}` is not a list of logprobs")
    return [logprob(each, name, place) for each in value]


def logprob(value: Any, name: str, place: str) -> float | None:
    """One logprob, or None. Raises InputError."""
    if value is None:
        return None
    if isinstance(value, float) or (type(value) is int and INTEGERS[0] <= value <= INTEGERS[1]):
        return float(value)
    raise InputError(f"{place}: `{name}` holds {shown(value)}, which is not a logprob")


def objects(value: Any, name: str, place: str) -> list[dict[str, Any]]:
    """A list of objects. Raises InputError."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InputError(f"{place}: `{name}` is not a list of objects")
    return value


def text_or_none(value: Any) -> str | None:
    """A name or a text, whatever it is written as."""
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


def check_lengths(columns: Mapping[str, Sequence[Any]], place: str) -> None:
    """Refuse columns of one sequence that are not equally long. Raises InputError."""
    (first, expected), *others = ((name, len(column)) for name, column in columns.items())
    for name, length in others:
        if length != expected:
            raise InputError(
                f"{place}: `{name}` has {length} entries, `{first}` has {expected}: nobody knows "
                "which belongs to which"
            )
