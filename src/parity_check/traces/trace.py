"""Traces: rollouts on disk with their provenance, as Parquet with one row per sample."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from parity_check.errors import InputError
from parity_check.files import whole
from parity_check.traces.batch import BATCH_COLUMNS, SampleBatch, batch_of
from parity_check.traces.engine import UNKNOWN as UNKNOWN
from parity_check.traces.engine import (
    Distribution,
    EngineDescription,
    LogprobPath,
    completed,
    first_fault,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SCHEMA_VERSION = 1
METADATA_KEY = b"parity_check"
VOCABULARY_KEY = b"parity_check_vocabulary"
ROWS_PER_GROUP = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of one prompt.

    `logprobs[t]` (nats) belongs to `completion_token_ids[t]`; None if the engine did not return
    one. `top_token_ids[t]` are the most likely ids, by rank.
    """

    sample_id: str
    prompt_id: str
    sample_index: int
    prompt_group: str
    prompt_token_ids: Sequence[int]
    completion_token_ids: Sequence[int]
    logprobs: Sequence[float | None]
    top_token_ids: Sequence[Sequence[int]] | None
    top_logprobs: Sequence[Sequence[float]] | None
    finish_reason: str | None
    seed: int | None
    policy_version: int | None
    text: str | None
    entropy: Sequence[float] | None = None
    """Entropy of the full distribution at each token, nats, if the engine returns it."""
    rollout_id: str | None = None
    """The rollout that this sample is a turn of; None where the sample is a whole rollout."""
    turn: int | None = None
    """Which turn of its rollout, from 0."""


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """The provenance of a trace, stored as JSON in the Parquet schema metadata.

    `token_digest` is the SHA-256 of all sample ids and token ids, in order. `replayed_from` is the
    digest of the trace whose tokens were replayed.
    """

    run_id: str
    created_utc: str
    command: str
    sampled_by: str
    evaluated_by: str
    engine: EngineDescription
    model: dict[str, Any]
    sampling: dict[str, float | int | bool]
    logprob_path: LogprobPath
    logprob_distribution: Distribution
    host: dict[str, Any]
    config: dict[str, Any]
    replayed_from: str | None = None
    token_digest: str = ""
    samples: int = 0
    tokens: int = 0
    schema_version: int = SCHEMA_VERSION


def token_digest(samples: Iterable[Sample]) -> str:
    """SHA-256 over sample ids, prompt ids and completion ids, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.sample_id.encode() + b"\0")
        for ids in (sample.prompt_token_ids, sample.completion_token_ids):
            digest.update(len(ids).to_bytes(8, "little"))
            digest.update(np.asarray(ids, dtype="<i4").tobytes())
    return digest.hexdigest()


def check_vocabulary(samples: Iterable[Sample], size: int | None, source: str) -> None:
    """Check that token ids are inside a model's vocabulary of `size` ids. Raises InputError."""
    for sample in samples if size is not None else ():
        largest = max((*sample.prompt_token_ids, *sample.completion_token_ids), default=0)
        if size is not None and largest >= size:
            raise InputError(
                f"{source}, sample {sample.sample_id}: token id {largest} is outside the model's "
                f"vocabulary of {size}: the tokens are of another model"
            )


def write_trace(
    path: Path, samples: Sequence[Sample], header: TraceHeader, vocabulary: Mapping[int, str]
) -> TraceHeader:
    """Write atomically; return the header with its counts and digest filled in.

    `vocabulary` has the text of every token id, for display. Raises OutputError if the file cannot
    be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    header = replace(
        header,
        token_digest=token_digest(samples),
        samples=len(samples),
        tokens=sum(len(sample.completion_token_ids) for sample in samples),
    )
    metadata = {
        METADATA_KEY: json.dumps({**asdict(header), "engine": header.engine.stated()}).encode(),
        VOCABULARY_KEY: json.dumps(dict(vocabulary)).encode(),
    }
    columns = list(trace_schema())
    if any(sample.entropy is not None for sample in samples):
        columns.append(pa.field("entropy", pa.list_(pa.float32())))
    if any(sample.rollout_id is not None for sample in samples):
        columns += [pa.field("rollout_id", pa.string()), pa.field("turn", pa.int32())]
    rows = [{each.name: getattr(sample, each.name) for each in columns} for sample in samples]
    with whole(path) as partial:
        pq.write_table(
            pa.Table.from_pylist(rows, schema=pa.schema(columns).with_metadata(metadata)),
            partial,
            compression="zstd",
            row_group_size=ROWS_PER_GROUP,
        )
    return header


def read_header(path: Path) -> TraceHeader:
    """The provenance without the data. Raises InputError if the file is not a trace."""
    return _header(_open(path), path)


class Trace:
    """A trace on disk. Reads the header at once, and samples one row group at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        self.header = _header(self._file, path)
        missing = set(trace_schema().names) - set(self._file.schema_arrow.names)
        if missing:
            raise InputError(f"{path}: missing columns: {', '.join(sorted(missing))}")
        if self._file.metadata.num_rows == 0:
            raise InputError(f"{path}: the trace has no samples")

    def vocabulary(self) -> dict[int, str]:
        """The text of every token id in the trace."""
        raw = (self._file.schema_arrow.metadata or {}).get(VOCABULARY_KEY, b"{}")
        return {int(token): text for token, text in json.loads(raw).items()}

    def samples(self) -> Iterator[Sample]:
        for index in range(self._file.num_row_groups):
            for row in self._read(index).to_pylist():
                yield Sample(**row)

    def sample(self, number: int) -> Sample:
        """One sample by its index in the trace."""
        for index in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(index).num_rows
            if number < rows:
                [row] = self._read(index).slice(number, 1).to_pylist()
                return Sample(**row)
            number -= rows
        raise IndexError(number)

    def mean_entropy(self) -> float | None:
        """Mean entropy of the full distribution over all tokens, nats; None if not recorded."""
        if "entropy" not in self._file.schema_arrow.names:
            return None
        found: list[float] = []
        for index in range(self._file.num_row_groups):
            column: Any = self._read(index, ["entropy"]).column(0)
            found += column.combine_chunks().flatten().to_numpy(zero_copy_only=False).tolist()
        return float(np.mean(found))

    @property
    def row_groups(self) -> int:
        return int(self._file.num_row_groups)

    def batches(self, groups: Sequence[int] | None = None) -> Iterator[SampleBatch]:
        """The given row groups, or all, in order; reads ahead by one."""

        there = set(self._file.schema_arrow.names)
        columns = [name for name in BATCH_COLUMNS if name in there]

        def read(index: int) -> SampleBatch:
            return batch_of(self._read(index, columns))

        first, *others = range(self.row_groups) if groups is None else groups
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(read, first)
            for index in others:
                batch = ahead.result()
                ahead = reader.submit(read, index)
                yield batch
            yield ahead.result()

    def _read(self, index: int, columns: list[str] | None = None) -> pa.Table:
        import pyarrow as pa

        try:
            return self._file.read_row_group(index, columns=columns)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{self.path}: cannot be read: {reason}") from None


def trace_schema() -> pa.Schema:
    """The columns of every trace; `entropy`, `rollout_id` and `turn` are written as needed."""
    import pyarrow as pa

    ids, logprobs = pa.list_(pa.int32()), pa.list_(pa.float32())
    columns: list[pa.Field[Any]] = [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample_index", pa.int32(), nullable=False),
        pa.field("prompt_group", pa.string(), nullable=False),
        pa.field("prompt_token_ids", ids, nullable=False),
        pa.field("completion_token_ids", ids, nullable=False),
        pa.field("logprobs", logprobs, nullable=False),
        pa.field("top_token_ids", pa.list_(ids)),
        pa.field("top_logprobs", pa.list_(logprobs)),
        pa.field("finish_reason", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("policy_version", pa.int64()),
        pa.field("text", pa.string()),
    ]
    return pa.schema(columns)


def _open(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise InputError(f"cannot read the trace {path}: {reason}") from None
    except pa.ArrowInvalid:
        raise InputError(f"{path}: not a Parquet file, or truncated") from None


def _header(file: pq.ParquetFile, path: Path) -> TraceHeader:
    raw = (file.schema_arrow.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise InputError(f"{path}: a Parquet file, but not a parity-check trace")
    unknown = f"{path}: its metadata is not a valid trace header"
    try:
        fields_read = json.loads(raw)
        version = fields_read.get("schema_version")
    except (ValueError, AttributeError):
        raise InputError(unknown) from None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: trace schema {version}, but this version of parity-check reads "
            f"{SCHEMA_VERSION}",
            hint="record it again, or use the parity-check version that wrote it",
        )
    try:
        return _adapter().validate_python(
            {**fields_read, "engine": completed(fields_read.get("engine"))}
        )
    except ValidationError as error:
        raise InputError(f"{unknown}: {first_fault(error)}") from None


@cache
def _adapter() -> TypeAdapter[TraceHeader]:
    return TypeAdapter(TraceHeader)
