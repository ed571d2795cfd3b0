"""The seal of a trace: the SHA-256 of its Parquet footer, stored in front of the footer.

The pages of a trace have checksums, which Parquet defines. The footer has none, and Arrow can end
the process on a damaged one, so it is verified before Arrow reads it. Readers of Parquet find the
footer from the end of the file and ignore what lies between the last page and the footer. A program
that rewrites a trace leaves the seal out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from parity_check.errors import InputError

MARK = b"parity-check footer sha256 "
SEAL_BYTES = len(MARK) + hashlib.sha256().digest_size
MAGIC = b"PAR1"
LENGTH_BYTES = 4
"""Of the footer's length: little-endian, in front of the magic bytes."""


def write_seal(path: Path) -> None:
    """Seal a finished Parquet file."""
    with path.open("r+b") as file:
        start, footer = _footer(file)
        file.seek(start)
        file.write(MARK + hashlib.sha256(footer).digest() + footer)


def is_sealed(path: Path) -> bool:
    """Whether the file has a seal. Raises InputError if the footer does not match it."""
    with path.open("rb") as file:
        start, footer = _footer(file)
        if start < SEAL_BYTES:
            return False
        file.seek(start - SEAL_BYTES)
        seal = file.read(SEAL_BYTES)
    if not seal.startswith(MARK):
        return False
    if not seal.endswith(hashlib.sha256(footer).digest()):
        raise InputError(f"{path}: damaged: its metadata does not match its checksum")
    return True


def _footer(file: BinaryIO) -> tuple[int, bytes]:
    """Where the footer starts and its bytes, to the end of the file.

    Of a file that is not Parquet: its end and no bytes.
    """
    end = file.seek(0, 2)
    tail = LENGTH_BYTES + len(MAGIC)
    file.seek(max(0, end - tail))
    last = file.read(tail)
    start = end - tail - int.from_bytes(last[:LENGTH_BYTES], "little")
    if len(last) < tail or not last.endswith(MAGIC) or start < 0:
        return end, b""
    file.seek(start)
    return start, file.read()
