"""Atomic writes, and the error for a file that cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parity_check.errors import OutputError
from parity_check.reading import kind_of

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SYSTEM = (("dev",), ("proc",), ("sys",))
"""Directories in which a replaced file would affect the whole system."""
DISK_FULL_HINT = "free some space, or choose another directory with --out"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path, renamed to `path` at the end of the block and deleted on failure.

    Raises OutputError.
    """
    partial = _partial(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:  # an interrupt, too, leaves nothing behind
        with suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise cannot_write(path, error) from None
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Raises OutputError."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def move(source: Path, target: Path) -> None:
    """Move a whole file, also to another file system. Raises OutputError."""
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise cannot_write(target, error) from None
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy a file atomically. Raises OutputError."""
    with whole(target) as partial:
        shutil.copyfile(source, partial)


def check_writable(path: Path) -> None:
    """Create the parent directories of an output file and test a write. Raises OutputError.

    A file in the place of the unfinished one is the user's, and is kept.
    """
    try:
        kind = kind_of(path) if path.exists() else None
        if kind is None and path.absolute().parts[1:2] in SYSTEM and path.is_symlink():
            kind = "a system file"
        if kind is not None:
            raise OutputError(f"cannot write {path}: it is {kind}")
        if os.path.lexists(_partial(path)):
            raise OutputError(
                f"cannot write {path}: {_partial(path)} is in the way",
                hint="a killed run may have left it: move it away, or choose another name",
            )
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        _partial(path).touch()
        _partial(path).unlink()
    except FileExistsError:
        raise OutputError(f"cannot write {path}: {path.parent} is not a directory") from None
    except OSError as error:
        raise cannot_write(path, error) from None


def check_place(path: Path) -> None:
    """What can be said of an output file without writing. Raises OutputError."""
    place = path.absolute().parent
    try:
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise OutputError(f"cannot write {path}: {place} is not a directory")
    except OSError as error:
        raise cannot_write(path, error) from None
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: {os.strerror(errno.EACCES)}")


def check_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Reject outputs that would overwrite an input, or each other. Raises OutputError."""
    taken: dict[object, Path] = {}
    for path in inputs:
        taken.setdefault(_identity(path), path)
    for path in outputs:
        if _identity(path) in taken:
            other = taken[_identity(path)]
            raise OutputError(
                f"cannot write {path}: this command also reads or writes {other}, the same file",
                hint="choose another name",
            )
        taken[_identity(path)] = path


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The error to raise for a file that could not be written."""
    hint = DISK_FULL_HINT if error.errno in DISK_FULL else None
    reason = os.strerror(error.errno) if error.errno else str(error)
    return OutputError(f"cannot write {path}: {reason}", hint=hint)


def _identity(path: Path) -> object:
    """A key that is equal for all names of one file."""
    try:
        found = path.stat()
    except OSError:
        return os.path.realpath(path)
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else str(path)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".part")
