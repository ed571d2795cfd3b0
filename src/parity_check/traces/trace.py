"""Traces: rollouts on disk with their provenance, as Parquet with one row per sample."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from parity_check import interrupts
from parity_check.errors import InputError
from parity_check.files import whole
from parity_check.reading import parse_json, regular_file
from parity_check.traces.batch import BATCH_COLUMNS, SampleBatch, batch_of
from parity_check.traces.engine import UNKNOWN as UNKNOWN
from parity_check.traces.engine import (
    Distribution,
    LogprobPath,
    completed,
    first_fault,
)
from parity_check.traces.schema import (
    ConfigFacts,
    Count,
    EngineFacts,
    HostFacts,
    ModelFacts,
    Number,
    known_fields,
    label_names,
    leaf_types,
    numbers,
    optional_fields,
    trace_schema,
    wrong_alternatives,
    wrong_columns,
    wrong_rows,
)
from parity_check.traces.seal import is_sealed, write_seal
from parity_check.visible import value as shown

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SCHEMA_VERSION = 1
METADATA_KEY = b"parity_check"
VOCABULARY_KEY = b"parity_check_vocabulary"
ROWS_PER_GROUP = 1024
TOKENS_PER_GROUP = 1 << 16
"""A row group has at most so many tokens, or one sample: readers hold a few groups in memory."""
NO_TRACE = (
    "a dump of a training run becomes a trace with parity-check import; a log of metrics is for "
    "parity-check logs"
)
LONGEST_ID = 10
"""Digits of a token id."""


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
    labels: Mapping[str, str | None] = field(default_factory=dict)
    """Other columns of the prompts file, as text: `stats.cluster_by` can name one."""
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
    engine: EngineFacts
    model: ModelFacts
    sampling: dict[str, Number | bool]
    logprob_path: LogprobPath
    logprob_distribution: Distribution
    host: HostFacts
    config: ConfigFacts
    replayed_from: str | None = None
    token_digest: str = ""
    samples: Count = 0
    tokens: Count = 0
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

    header = replace(
        header,
        token_digest=token_digest(samples),
        samples=len(samples),
        tokens=sum(len(sample.completion_token_ids) for sample in samples),
    )
    metadata = _metadata(header, vocabulary)
    columns = [
        *trace_schema(),
        *(
            field
            for field in optional_fields()
            if any(getattr(sample, field.name) is not None for sample in samples)
        ),
    ]
    names = [each.name for each in columns]
    labels = sorted({name for sample in samples for name in sample.labels})
    columns += [pa.field(name, pa.string()) for name in labels]
    schema = pa.schema(columns).with_metadata(metadata)
    with whole(path) as partial:
        with trace_writer(partial, schema) as writer:
            for group in _row_groups(samples):
                rows = [
                    {name: getattr(sample, name) for name in names} | dict(sample.labels)
                    for sample in group
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        write_seal(partial)
    return header


def join_traces(
    paths: Sequence[Path], target: Path, replayed_from: str | None = None
) -> TraceHeader:
    """Write the samples of several traces as one, atomically; return its header.

    Its provenance is that of the last one, with `replayed_from`. Holds one row group in memory.
    Raises OutputError if the file cannot be written.
    """
    import pyarrow as pa

    traces = [Trace(path) for path in paths]
    header = replace(
        traces[-1].header,
        replayed_from=replayed_from,
        token_digest=token_digest(sample for trace in traces for sample in trace.samples()),
        samples=sum(trace.header.samples for trace in traces),
        tokens=sum(trace.header.tokens for trace in traces),
    )
    texts: dict[int, str] = {}
    for trace in traces:
        texts |= trace.vocabulary()
    schema = pa.unify_schemas([trace.schema() for trace in traces])
    schema = schema.with_metadata(_metadata(header, texts))
    with whole(target) as partial:
        with trace_writer(partial, schema) as writer:
            for trace in traces:
                for table in trace.tables():
                    both = [schema.empty_table(), table]
                    writer.write_table(pa.concat_tables(both, promote_options="default"))
        write_seal(partial)
    return header


def _metadata(header: TraceHeader, vocabulary: Mapping[int, str]) -> dict[bytes, bytes]:
    return {
        METADATA_KEY: json.dumps({**asdict(header), "engine": header.engine.stated()}).encode(),
        VOCABULARY_KEY: json.dumps(dict(vocabulary)).encode(),
    }


def trace_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of Parquet as traces are stored.

    Logprobs hardly repeat: a dictionary would only cost time, and their bytes compress better by
    place. LZ4 is read in four fifths of the time of zstd, at the same size.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = leaf_types(schema)
    logprobs = [path for path, kind in kinds.items() if pa.types.is_floating(kind)]
    columns: dict[str, Any] = {
        "use_dictionary": [path for path in kinds if path not in logprobs],
        "use_byte_stream_split": logprobs,
    }
    return pq.ParquetWriter(path, schema, compression="lz4", write_page_checksum=True, **columns)


def _row_groups(samples: Sequence[Sample]) -> Iterator[Sequence[Sample]]:
    first = tokens = 0
    for number, sample in enumerate(samples):
        size = len(sample.prompt_token_ids) + len(sample.completion_token_ids)
        if number > first and (
            tokens + size > TOKENS_PER_GROUP or number - first == ROWS_PER_GROUP
        ):
            yield samples[first:number]
            first, tokens = number, 0
        tokens += size
    yield samples[first:]


def read_header(path: Path) -> TraceHeader:
    """The provenance without the data. Raises InputError if the file is not a trace."""
    file, _ = _open(path)
    return _header(file, path)


class Trace:
    """A trace on disk. Reads the header at once, and samples one row group at a time."""

    has_checksums: bool
    """Whether damage to the trace would be found; a file that another program wrote has none.

    The footer is verified first, pages while they are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file, self.has_checksums = _open(path)
        self.header = _header(self._file, path)
        reason = wrong_columns(self._file.schema_arrow)
        if reason is not None:
            raise InputError(f"{path}: {reason}")
        self._columns = [field.name for field in known_fields(self._file.schema_arrow)]
        self._columns += self.labels
        if self._file.metadata.num_rows == 0:
            raise InputError(f"{path}: the trace has no samples")

    @property
    def labels(self) -> list[str]:
        """The further columns of text, each of which may name what is independent."""
        return label_names(self._file.schema_arrow)

    def vocabulary(self) -> dict[int, str]:
        """The text of every token id in the trace."""
        raw = (self._file.schema_arrow.metadata or {}).get(VOCABULARY_KEY, b"{}")
        tree = parse_json(raw, f"{self.path}: its vocabulary")
        fits = isinstance(tree, dict) and all(
            token.isdecimal() and len(token) <= LONGEST_ID and isinstance(text, str)
            for token, text in tree.items()
        )
        if not fits:
            raise InputError(f"{self.path}: its vocabulary is not a text for each token id")
        return {int(token): text for token, text in tree.items()}

    def samples(self) -> Iterator[Sample]:
        for table in self.tables():
            yield from map(_sample, table.to_pylist())

    def schema(self) -> pa.Schema:
        """Its columns that are known, without metadata."""
        import pyarrow as pa

        return pa.schema([self._file.schema_arrow.field(name) for name in self._columns])

    def tables(self) -> Iterator[pa.Table]:
        """All columns of each row group, in order."""
        for index in range(self._file.num_row_groups):
            yield self._read(index)

    def samples_at(self, numbers: Iterable[int]) -> dict[int, Sample]:
        """Some samples, by their index in the trace. Reads each row group once."""
        wanted = set(numbers)
        found = {}
        for index, (first, last) in enumerate(self._spans()):
            here = sorted(number for number in wanted if first <= number < last)
            if here:
                table = self._read(index)
                for number in here:
                    [row] = table.slice(number - first, 1).to_pylist()
                    found[number] = _sample(row)
        if wanted - found.keys():
            raise IndexError(min(wanted - found.keys()))
        return found

    def mean_entropy(self) -> float | None:
        """Mean entropy of the full distribution over all tokens, nats; None if not recorded."""
        if "entropy" not in self._file.schema_arrow.names:
            return None
        found: list[float] = []
        for index in range(self._file.num_row_groups):
            column: Any = self._read(index, ["entropy"]).column(0)
            found += numbers(column.combine_chunks().flatten(), missing=math.nan).tolist()
        return float(np.mean(found))

    @property
    def row_groups(self) -> int:
        return int(self._file.num_row_groups)

    def batches(
        self,
        groups: Sequence[int] | None = None,
        label: str | None = None,
        like: Trace | None = None,
    ) -> Iterator[SampleBatch]:
        """The given row groups, or all, in order; reads ahead by one.

        `label` is a further column to read. Raises InputError if the trace does not have it. With
        `like`, the samples of that trace's row groups: two programs may cut them differently.
        """
        there = set(self._file.schema_arrow.names)
        own = self.labels
        if label is not None and label not in own:
            known = ", ".join(("prompt", "group", "sample", *own))
            raise InputError(
                f"stats.cluster_by: {self.path} has no column {label!r}",
                hint=f"one of: {known}; for example --set stats.cluster_by=prompt",
            )
        columns = [name for name in BATCH_COLUMNS if name in there]
        columns += [] if label is None else [label]
        spans = self._spans()
        if like is not None and like._spans()[-1][1] == spans[-1][1]:
            spans = like._spans()
        tables = self._tables(columns, spans if groups is None else [spans[g] for g in groups])

        def read() -> SampleBatch | None:
            table = next(tables, None)
            return None if table is None else batch_of(table, label)

        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = reader.submit(read)
            while (batch := ahead.result()) is not None:
                ahead = reader.submit(read)
                yield batch

    def _spans(self) -> list[tuple[int, int]]:
        """The first sample of each row group, and the first after it."""
        metadata = self._file.metadata
        sizes = (metadata.row_group(index).num_rows for index in range(self.row_groups))
        return list(pairwise(accumulate(sizes, initial=0)))

    def _tables(self, columns: list[str], spans: Iterable[tuple[int, int]]) -> Iterator[pa.Table]:
        """The samples of each span; of two spans in one row group, which is read once."""
        import pyarrow as pa

        own = self._spans()
        held: dict[int, pa.Table] = {}
        for first, last in spans:
            parts = []
            for index, (start, end) in enumerate(own):
                if not (start < last and first < end):
                    continue
                table = held.pop(index, None)
                if table is None:
                    table = self._read(index, columns)
                    self._refuse(index, wrong_alternatives(table))
                begin = max(first, start)
                parts.append(table.slice(begin - start, min(last, end) - begin))
                if last < end:
                    held[index] = table
            if parts:
                yield parts[0] if len(parts) == 1 else pa.concat_tables(parts)

    def _read(self, index: int, columns: list[str] | None = None) -> pa.Table:
        import pyarrow as pa

        interrupts.check()
        try:
            table = self._file.read_row_group(index, columns=columns or self._columns)
            table.validate(full=True)
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{self.path}: cannot be read: {reason}") from None
        self._refuse(index, wrong_rows(table))
        return table

    def _refuse(self, index: int, reason: str | None) -> None:
        if reason is not None:
            raise InputError(f"{self.path}, row group {index}, {reason}")


def _sample(row: dict[str, Any]) -> Sample:
    """A row's sample: columns that it has no field for are its labels."""
    known = {each.name: row.pop(each.name) for each in fields(Sample) if each.name in row}
    return Sample(**known, labels=row)


OWN = ("reference.parquet", "candidate.parquet")
"""The rollouts in a run directory."""


def _open(path: Path) -> tuple[pq.ParquetFile, bool]:
    """The file, and whether it has checksums."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sampled = next((path / name for name in OWN if (path / name).is_file()), None)
    if sampled is not None:
        raise InputError(f"{path}: a run, not a trace", hint=f"did you mean {sampled}?")
    regular_file(path, "the trace")
    try:
        sealed = is_sealed(path)
        file = pq.ParquetFile(path, page_checksum_verification=True)
        file.schema_arrow  # noqa: B018 - read here, where it can be refused
    except pa.ArrowInvalid:
        hint = None if path.suffix == ".parquet" else NO_TRACE
        raise InputError(f"{path}: not a Parquet file, or truncated", hint=hint) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot read the trace {path}: damaged: {reason}") from None
    return file, sealed


def _header(file: pq.ParquetFile, path: Path) -> TraceHeader:
    metadata = file.schema_arrow.metadata or {}
    raw = metadata.get(METADATA_KEY)
    if raw is None:
        raise InputError(f"{path}: a Parquet file, but not a parity-check trace")
    unknown = f"{path}: its metadata is not a valid trace header"
    tree = parse_json(raw, unknown)
    if not isinstance(tree, dict):
        raise InputError(f"{unknown}: expected an object")
    version = tree.get("schema_version")
    if version != SCHEMA_VERSION or not isinstance(version, int):
        raise InputError(
            f"{path}: trace schema {shown(version)}, but this version of parity-check reads "
            f"{SCHEMA_VERSION}",
            hint="record it again, or use the parity-check version that wrote it",
        )
    foreign = sorted(tree.keys() - TraceHeader.__dataclass_fields__.keys())
    if foreign:
        raise InputError(f"{unknown}: unknown field {shown(foreign[0])}")
    try:
        header = _adapter().validate_python({**tree, "engine": completed(tree.get("engine"))})
    except ValidationError as error:
        raise InputError(f"{unknown}: {first_fault(error)}") from None
    rows = file.metadata.num_rows
    if rows and header.samples != rows:
        raise InputError(f"{path}: {rows} samples, its metadata counts {header.samples}")
    return header


@cache
def _adapter() -> TypeAdapter[TraceHeader]:
    return TypeAdapter(TraceHeader)
