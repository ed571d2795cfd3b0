"""Atomic writes, and the error for a file that cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from parity_check.errors import OutputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise cannot_write(path, error) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. Raises OutputError."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Copy a file atomically. Raises OutputError."""
    with whole(target) as partial:
        shutil.copyfile(source, partial)


def check_writable(path: Path) -> None:
    """Create the parent directories of an output file and test a write. Raises OutputError."""
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True)
        _partial(path).touch()
        _partial(path).unlink()
    except FileExistsError:
        raise OutputError(f"cannot write {path}: {path.parent} is not a directory") from None
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The error to raise for a file that could not be written."""
    hint = DISK_FULL_HINT if error.errno in DISK_FULL else None
    reason = os.strerror(error.errno) if error.errno else str(error)
    return OutputError(f"cannot write {path}: {reason}", hint=hint)


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".part")
