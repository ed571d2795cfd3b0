"""Further samples of a run: recorded apart, then joined with those that it has."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from parity_check.files import cannot_write
from parity_check.traces import manifest
from parity_check.traces.manifest import Part
from parity_check.traces.trace import join_traces, read_header


def join(directory: Path, further: Path, parts: Sequence[Part], look: int) -> None:
    """Append the traces in `further` to the run's own, and delete them.

    The run's files are replaced when all of the new ones are whole, so that an interrupted join
    leaves the run as it was. Raises OutputError.
    """
    joined = further / "joined"
    digests: dict[str | None, str] = {}
    try:
        shutil.rmtree(joined, ignore_errors=True)  # of a join that was interrupted
        joined.mkdir()
        for part in parts:
            own = read_header(directory / part.file)
            both = [place / part.file for place in (directory, further)]
            written = join_traces(both, joined / part.file, digests.get(own.replayed_from))
            digests[own.token_digest] = written.token_digest
        for part in parts:
            (joined / part.file).replace(directory / part.file)
        manifest.finish(directory, look)
        shutil.rmtree(further)
    except OSError as error:
        raise cannot_write(further, error) from None
