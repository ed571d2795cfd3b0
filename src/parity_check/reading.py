"""Read untrusted input within limits: names, regular files, and nested values."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from parity_check.errors import InputError, ParityCheckError, nearest

MOST_BYTES = 1 << 30
"""The largest file that is read as a whole."""
MOST_DEPTH = 32
MOST_NODES = 100_000
INTEGERS = (-(2**63), 2**63 - 1)
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""In bytes, as on Linux."""
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def wrong_name(name: str) -> str | None:
    """Why no file can have this name or path; None if one can."""
    if not name:
        return "an empty name"
    if "\0" in name:
        return "a name with a NUL byte"
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    if len(encoded) > LONGEST_PATH or max(map(len, encoded.split(b"/"))) > LONGEST_NAME:
        return "a name that is too long"
    # Path.expanduser raises where there is no home directory.
    if name.startswith("~") and not os.path.expanduser(name).startswith("/"):  # noqa: PTH111
        return f"no home directory for {name.partition('/')[0]}"
    return None


def beside(path: Path, kind: Callable[[Path], bool] = Path.is_file) -> str | None:
    """A hint for a path that does not exist: what its folder has of a similar name, or None."""
    try:
        there = [each.name for each in path.parent.iterdir() if kind(each)]
    except OSError:
        return None
    near = nearest(path.name, there)
    return None if near is None else f"did you mean {path.with_name(near)}?"


def wrong_path(path: Path) -> str | None:
    """`wrong_name` for a path in which `~` is an ordinary character."""
    return wrong_name(f"./{path}" if str(path).startswith("~") else str(path))


def kind_of(path: Path) -> str | None:
    """What a path is; None if it is a regular file. Raises OSError."""
    mode = stat.S_IFMT(path.stat().st_mode)
    return None if mode == stat.S_IFREG else KINDS.get(mode, "no file")


def regular_file(
    path: Path,
    what: str,
    largest: int | None = None,
    error: type[ParityCheckError] = InputError,
) -> Path:
    """The path, if it is a regular file and not too large: no directory, device or FIFO."""
    reason = wrong_path(path)
    try:
        reason = reason or kind_of(path)
        size = 0 if reason else path.stat().st_size
    except OSError as failure:
        hint = beside(path) if failure.errno == errno.ENOENT else None
        raise error(f"cannot read {what} {path}: {failure.strerror}", hint=hint) from None
    if reason == KINDS[stat.S_IFDIR]:
        raise error(f"cannot read {what} {path}: {os.strerror(errno.EISDIR)}")
    if reason:
        raise error(f"cannot read {what} {path}: {reason}, expected a file")
    if largest is not None and size > largest:
        raise error(f"cannot read {what} {path}: {size:,} bytes, but the limit is {largest:,}")
    return path


def read_bytes(
    path: Path,
    what: str,
    largest: int = MOST_BYTES,
    error: type[ParityCheckError] = InputError,
) -> bytes:
    """The content of a regular file."""
    try:
        return regular_file(path, what, largest, error).read_bytes()
    except OSError as failure:
        raise error(f"cannot read {what} {path}: {failure.strerror}") from None


def read_text(
    path: Path,
    what: str,
    largest: int = MOST_BYTES,
    error: type[ParityCheckError] = InputError,
) -> str:
    """The content of a regular UTF-8 file, without a byte order mark."""
    raw = read_bytes(path, what, largest, error)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        raise error(f"{path}: not UTF-8 at byte {failure.start}") from None


def parse_json(text: str | bytes, place: str, problem: str = "not valid JSON") -> Any:
    """Parse JSON and reject duplicate keys. Raises InputError."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos}"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start}"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:  # a duplicate key, or an integer with more digits than Python reads
        reason = str(error).partition(";")[0]
    raise InputError(f"{place}: {problem}: {reason}")


def spread(text: str) -> bool:
    """Whether a text is one JSON document over several lines, which a reader of JSON lines rejects.

    Pretty-printed, for example.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text.strip()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"duplicate key {twice[:60]!r} in one object")
    return found


def wrong_tree(tree: Any, depth: int = MOST_DEPTH, nodes: int = MOST_NODES) -> str | None:
    """Why nested dicts and lists exceed the limits; None if they do not.

    Looked for: depth, number of values, keys that are no strings, integers beyond 64 bits, and
    lone surrogates. Objects that hold themselves are too deep.
    """
    level: list[Any] = [tree]
    count = 0
    for _ in range(depth + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                below += [*value.keys(), *value.values()]
                if not all(isinstance(key, str) for key in value):
                    return "a key that is not a string"
            elif isinstance(value, list | tuple):
                below += value
            elif reason := wrong_scalar(value):
                return reason
            if count + len(below) > nodes:
                return f"more than {nodes:,} values"
        if not below:
            return None
        count += len(below)
        level = below
    return f"nested more than {depth} deep"


def wrong_scalar(value: Any) -> str | None:
    """Why a single value is not accepted; None if it is."""
    if isinstance(value, str):
        return wrong_text(value)
    if isinstance(value, int) and not INTEGERS[0] <= value <= INTEGERS[1]:
        return "an integer beyond 64 bits"
    if isinstance(value, bytes | set):
        return "a value that is neither a string nor a number"
    return None


def wrong_text(text: str) -> str | None:
    """Why a string is not valid text; None if it is."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "a character that is not valid Unicode"
    return None
