"""What every module of an engine's model put out, at the last token of each forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from parity_check.engines.replies import UnusableError

ROWS = "#rows"
"""The array that is no module's."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One engine's modules on a few given tokens.

    `rows` [passes, 2]: the request and the position of each forward pass's last token. `modules`:
    by path in the model, in the order in which they are called, [passes, width] in float32.
    `dtypes`: of each module's output in the engine. `logprobs` (nats) are those that the engine
    returned, for each request's tokens.
    """

    rows: NDArray[np.int64]
    modules: Mapping[str, NDArray[np.float32]]
    dtypes: Mapping[str, str]
    logprobs: Sequence[Sequence[float | None]]


def read_probe(
    path: Path, dtypes: Mapping[str, str], logprobs: Sequence[Sequence[float | None]]
) -> Probe:
    """Read a worker's arrays. Raises UnusableError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UnusableError(f"its arrays cannot be read: {error}") from None
    rows = arrays.pop(ROWS, None)
    if rows is None or rows.ndim != 2 or rows.shape[1] != 2 or rows.dtype != np.int64:
        raise UnusableError("its arrays have no rows")
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.ndim != 2 or len(array) != len(rows):
            raise UnusableError(f"module {name!r}: {array.dtype} {array.shape}")
        if name not in dtypes:
            raise UnusableError(f"module {name!r} has no dtype")
    return Probe(rows, arrays, dtypes, logprobs)
