"""Further samples of a run: recorded apart, then joined with those that it has."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from parity_check.files import cannot_write
from parity_check.traces import manifest
from parity_check.traces.manifest import Part
from parity_check.traces.trace import join_traces, read_header

JOINED = "joined"


def place_of(directory: Path, look: int) -> Path:
    """Where a look's own traces are recorded; the first one's are the run's."""
    return directory if look == 1 else directory / f"look-{look}"


def join(directory: Path, parts: Sequence[Part], look: int) -> None:
    """Append a look's traces to the run's own, and delete them.

    The run's files are replaced when all of the new ones are whole. A join that is interrupted
    before leaves the run as it was; `finish_join` completes one that is interrupted later. Raises
    OutputError.
    """
    further = place_of(directory, look)
    joined = further / JOINED
    digests: dict[str | None, str] = {}
    try:
        shutil.rmtree(joined, ignore_errors=True)  # of a join that was interrupted
        joined.mkdir()
        for part in parts:
            own = read_header(directory / part.file)
            both = [place / part.file for place in (directory, further)]
            written = join_traces(both, joined / part.file, digests.get(own.replayed_from))
            digests[own.token_digest] = written.token_digest
        _replace(directory, parts, look)
    except OSError as error:
        raise cannot_write(further, error) from None


def finish_join(directory: Path) -> None:
    """Complete a join that was interrupted while it replaced the run's files.

    A file that is not the manifest's has been replaced: so all new ones are whole. Raises
    OutputError.
    """
    begun = manifest.read_manifest(directory)
    if begun is None or not begun.finished:
        return
    try:
        for look in range(2, begun.looks + 1):
            shutil.rmtree(place_of(directory, look), ignore_errors=True)  # joined before
        look = begun.looks + 1
        joined = place_of(directory, look) / JOINED
        if joined.is_dir() and not manifest.is_unchanged(directory, begun):
            _replace(directory, begun.parts, look)
    except OSError as error:
        raise cannot_write(directory, error) from None


def _replace(directory: Path, parts: Sequence[Part], look: int) -> None:
    further = place_of(directory, look)
    for part in parts:
        new = further / JOINED / part.file
        if new.exists():
            new.replace(directory / part.file)
    manifest.finish(directory, look)
    shutil.rmtree(further)
