"""Further samples of a run: recorded apart, then joined with those that it has."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parity_check.files import cannot_write
from parity_check.traces import manifest
from parity_check.traces.manifest import Part
from parity_check.traces.trace import Trace, write_trace


def join(directory: Path, further: Path, parts: Sequence[Part], look: int) -> None:
    """Append the traces in `further` to the run's own, and delete them.

    The run's files are replaced when all of the new ones are whole, so that an interrupted join
    leaves the run as it was. Raises OutputError.
    """
    joined = further / "joined"
    digests: dict[str | None, str] = {}
    try:
        joined.mkdir()
        for part in parts:
            own, more = Trace(directory / part.file), Trace(further / part.file)
            header = replace(own.header, replayed_from=digests.get(own.header.replayed_from))
            samples = [*own.samples(), *more.samples()]
            texts = {**own.vocabulary(), **more.vocabulary()}
            written = write_trace(joined / part.file, samples, header, texts)
            digests[own.header.token_digest] = written.token_digest
        for part in parts:
            (joined / part.file).replace(directory / part.file)
        manifest.finish(directory, look)
        shutil.rmtree(further)
    except OSError as error:
        raise cannot_write(further, error) from None
