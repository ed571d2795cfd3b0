"""What a trace may hold: the columns of its rows, and the parts of its header."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)

from parity_check.reading import wrong_tree
from parity_check.traces.engine import EngineDescription, first_fault

if TYPE_CHECKING:
    import pyarrow as pa

# --- the header -----------------------------------------------------------------------------------


class Part(BaseModel):
    """An object of the header: what is named here has to fit, what else there is stays."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class EffectiveConfig(Part):
    block_size: int | None = None
    dtype: str | None = None
    truncation: bool = False


class Asked(Part):
    """What the configuration asked of one engine."""

    engine_args: dict[str, Any] = {}
    transformers: dict[str, Any] = {}
    env: dict[str, str] = {}


class Place(Part):
    out: str = "runs"


class Configuration(Part):
    reference: Asked = Asked()
    candidate: Asked = Asked()
    run: Place = Place()


class Model(Part):
    name: str = ""


def _check(part: type[Part], tree: Any) -> None:
    """Raises ValueError for an object that is too deep, or whose known fields do not fit."""
    reason = wrong_tree(tree)
    if reason is not None:
        raise ValueError(reason)
    try:
        part.model_validate(dict(tree))
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


def _fits(part: type[Part]) -> AfterValidator:
    def check(tree: dict[str, Any]) -> dict[str, Any]:
        _check(part, tree)
        return tree

    return AfterValidator(check)


def _engine(engine: EngineDescription) -> EngineDescription:
    _check(EffectiveConfig, engine.config)
    _check(Part, engine.model)
    return engine


EngineFacts = Annotated[EngineDescription, AfterValidator(_engine)]
ConfigFacts = Annotated[dict[str, Any], _fits(Configuration)]
ModelFacts = Annotated[dict[str, Any], _fits(Model)]
HostFacts = Annotated[dict[str, Any], _fits(Part)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = (
    Annotated[float, Field(strict=True, allow_inf_nan=False)]
    | Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
)

# --- the columns ----------------------------------------------------------------------------------

IDS = ("prompt_token_ids", "completion_token_ids")


def trace_schema() -> pa.Schema:
    """The columns of every trace; see `optional_fields` for more."""
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


def optional_fields() -> tuple[pa.Field[Any], ...]:
    """The columns that some traces have: an entropy per token, and turns of a whole rollout."""
    import pyarrow as pa

    return (
        pa.field("entropy", pa.list_(pa.float32())),
        pa.field("rollout_id", pa.string()),
        pa.field("turn", pa.int32()),
    )


def known_fields(found: pa.Schema) -> list[pa.Field[Any]]:
    """The fields that a trace must have, and the optional ones that it has."""
    return [*trace_schema(), *(each for each in optional_fields() if each.name in found.names)]


def label_names(found: pa.Schema) -> list[str]:
    """The further columns of text, in their order: each may name what is independent."""
    import pyarrow as pa

    known = {field.name for field in (*trace_schema(), *optional_fields())}
    names = [field.name for field in found if pa.types.is_string(field.type)]
    return [name for name in names if name not in known and names.count(name) == 1]


def leaf_types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The type of the values of each column, by its path in a Parquet file."""
    import pyarrow as pa

    found = {}
    for field in schema:
        path, kind = field.name, field.type
        while pa.types.is_list(kind):
            path, kind = f"{path}.list.element", kind.value_type
        found[path] = kind
    return found


def wrong_columns(found: pa.Schema) -> str | None:
    """Why a file's columns are not those of a trace; None where they are."""
    missing = sorted(set(trace_schema().names) - set(found.names))
    if missing:
        return f"missing columns: {', '.join(missing)}"
    for field in known_fields(found):
        if found.names.count(field.name) > 1:
            return f"column {field.name} is there twice"
        kind = found.field(field.name).type
        if not _same(kind, field.type):
            return f"column {field.name} is {kind}, expected {field.type}"
    return None


def _same(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether two types are equal; whether entries of lists may be null shows in the rows."""
    import pyarrow as pa

    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return _same(found.value_type, wanted.value_type)
    return bool(found == wanted)


def numbers(array: Any, missing: float | None = None) -> NDArray[Any]:
    """The values of an Arrow array of numbers, with `missing` in place of nulls.

    `to_numpy` and `fill_null` import pandas, which takes longer than a small comparison.
    """
    import pyarrow as pa

    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    if not array.null_count:
        return np.from_dlpack(array)
    stored = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    values = stored[array.offset : array.offset + len(array)].copy()
    values[numbers(array.is_null()).astype(np.bool_)] = missing
    return values


def whole(column: pa.ChunkedArray[Any]) -> Any:
    """A column of a table as one array; copies only where it has several chunks."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def wrong_rows(table: pa.Table) -> str | None:
    """Why rows of such columns cannot be used: the row, the column, and what is wrong there."""
    columns = {name: whole(table.column(name)) for name in table.column_names}
    return next(_wrong_rows(columns), None)


def _wrong_rows(columns: dict[str, Any]) -> Iterator[str]:
    for field in trace_schema():
        column = columns.get(field.name)
        if column is not None and not field.nullable and column.null_count:
            yield f"row {_first(numbers(column.is_null()))}: {field.name} is null"
    for name in IDS:
        column = columns.get(name)
        if column is None:
            continue
        ids = column.flatten()
        if ids.null_count:
            yield f"{name}: a token id is null"
        elif len(ids) and numbers(ids).min() < 0:
            yield f"{name}: a negative token id"


def wrong_alternatives(table: pa.Table) -> str | None:
    """Why the alternatives of such rows do not belong to their tokens."""
    columns = {name: whole(table.column(name)) for name in table.column_names}
    return next(_wrong_alternatives(columns), None)


def _wrong_alternatives(columns: dict[str, Any]) -> Iterator[str]:
    ids, logprobs = columns["top_token_ids"], columns["top_logprobs"]
    lengths = [_lengths(each) for each in (ids, logprobs, columns["completion_token_ids"])]
    if (lengths[0] != lengths[1]).any():
        row = _first(lengths[0] != lengths[1])
        yield f"row {row}: top_token_ids and top_logprobs are not of one length"
    # A sample whose logprobs are not one a token is counted elsewhere, with all that it has.
    fits = (_lengths(columns["logprobs"]) == lengths[2]) & (lengths[0] >= 0)
    if (fits & (lengths[0] != lengths[2])).any():
        row = _first(fits & (lengths[0] != lengths[2]))
        yield f"row {row}: top_token_ids is not of as many tokens as completion_token_ids"
    inner, values = ids.flatten(), logprobs.flatten()
    if inner.null_count or values.null_count or inner.flatten().null_count:
        yield "top_token_ids: the alternatives of a token are null"
    if not np.array_equal(np.diff(numbers(inner.offsets)), np.diff(numbers(values.offsets))):
        yield "top_token_ids and top_logprobs hold different numbers of alternatives for a token"


def _lengths(column: Any) -> Any:
    """[rows] entries of each list; -1 for null."""
    import pyarrow.compute as pc

    return numbers(pc.list_value_length(column), missing=-1)


def _first(mask: NDArray[Any]) -> int:
    return int(np.argmax(mask))
