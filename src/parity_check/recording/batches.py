"""Batches: a trace is recorded in parts, so that memory is bounded and finished parts are kept.

While `reference.parquet` is recorded, its batches are whole traces in `reference.batches/`. When
all are done they become the trace. A run that is continued records only those that are missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Protocol, TypeVar

from parity_check.engines.base import Engine
from parity_check.errors import TraceMismatchError
from parity_check.files import cannot_write, move
from parity_check.recording import unchanged
from parity_check.traces.trace import (
    Sample,
    Trace,
    TraceHeader,
    join_traces,
    read_header,
    write_trace,
)

TOKENS_PER_BATCH = 1 << 21
"""A batch has at most so many tokens, prompts included, or one request. Its samples are in memory,
with five alternatives about 0.5 kB a token. At its end an engine runs out of requests, which costs
the time of a long completion."""
SUFFIX = ".batches"
SAME_ENGINE = ("version", "family", "packages", "device", "model")
FREE = (*unchanged.JUDGING, "workload.seed")
"""What may be another when a run is continued; of the seed, see `comparison.command`."""
Item = TypeVar("Item")


class Work(Protocol[Item]):
    """What an engine computes for one trace, a sample for each item."""

    @property
    def engine(self) -> Engine: ...
    @property
    def run(self) -> Path: ...
    @property
    def count(self) -> int: ...
    def items(self) -> Iterator[Item]: ...
    def tokens(self, item: Item) -> int: ...
    def compute(self, batch: Sequence[Item]) -> list[Sample]: ...
    def is_of(self, sample: Sample, item: Item) -> bool: ...
    def header(self) -> TraceHeader: ...
    def texts(self, samples: Sequence[Sample]) -> Mapping[int, str]: ...


def batches_of(path: Path, run: Path) -> Path:
    """The directory of a trace's batches while it is recorded: always in the run's own."""
    place = path.parent if path.absolute().is_relative_to(run) else run
    return place / f"{path.stem}{SUFFIX}"


def record_in_batches(
    path: Path, work: Work[Item], begin: Callable[[int], None], *, continued: bool
) -> TraceHeader:
    """Compute a trace batch by batch, and write it. `begin` is told the samples before a batch.

    A `continued` run keeps what it recorded before. Raises TraceMismatchError if that is of other
    tokens, another engine, or another configuration.
    """
    parts = batches_of(path, work.run)
    if continued and path.exists():
        _check(path, work, work.items())
        shutil.rmtree(parts, ignore_errors=True)  # of a run that ended before it did this
        return Trace(path).header
    try:
        parts.mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(parts, error) from None
    paths: list[Path] = []
    done = 0
    for batch in _batches(work):
        paths.append(parts / f"{len(paths) + 1:04}.parquet")
        if paths[-1].exists():
            _check(paths[-1], work, batch)
        else:
            begin(done)
            _record(paths[-1], work, batch)
        done += len(batch)
    if len(paths) == 1:
        move(paths[0], path)
        written = read_header(path)
    else:
        written = join_traces(paths, path, work.header().replayed_from)
    shutil.rmtree(parts)
    return written


def _record(path: Path, work: Work[Item], batch: Sequence[Item]) -> None:
    """Compute and write one batch. Its samples are gone when the next one is computed."""
    samples = work.compute(batch)
    write_trace(path, samples, work.header(), work.texts(samples))
    work.engine.forget()


def _batches(work: Work[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    tokens = 0
    for item in work.items():
        own = work.tokens(item)
        if batch and tokens + own > TOKENS_PER_BATCH:
            yield batch
            batch, tokens = [], 0
        batch.append(item)
        tokens += own
    if batch:
        yield batch


def _check(path: Path, work: Work[Item], items: Iterable[Item]) -> None:
    """Refuse an earlier part of other tokens, another engine, or another configuration."""
    trace, now = Trace(path), work.header()
    before, ours = (
        {name: getattr(header.engine, name) for name in SAME_ENGINE}
        for header in (trace.header, now)
    )
    if other := unchanged.changes(before, ours):
        raise TraceMismatchError(
            f"{path} was recorded by another engine: {other}",
            hint="a run is continued with the engines that began it",
        )
    if trace.header.model != now.model:
        raise TraceMismatchError(
            f"{path} was recorded with another model: its files have changed",
            hint="a run is continued with the model that began it",
        )
    changed = unchanged.changes(
        *(unchanged.keys(header.config, FREE) for header in (trace.header, now))
    )
    if changed:
        raise TraceMismatchError(
            f"{path} was recorded with another configuration: {changed}",
            hint="a run is continued with the configuration that began it",
        )
    pairs = zip_longest(trace.samples(), items)
    if not all(sample and item and work.is_of(sample, item) for sample, item in pairs):
        raise TraceMismatchError(
            f"{path} was recorded for other prompts or tokens",
            hint="a run is continued with the prompts that began it",
        )
