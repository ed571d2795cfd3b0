"""What an engine answers, as typed values: replies, the rows of its files, and their limits.

A worker runs code that is not ours in the middle of an engine, and a server is a stranger, so every
answer is read here, once: its size, its depth, its types, and a row for each request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

LONGEST_REPLY = 1 << 26
"""Bytes of a line of a worker's replies: the largest is a digest of each parameter of a model."""
LONGEST_ROW = 1 << 28
"""Bytes of a row: 100,000 tokens with 20 alternatives each take a third of it."""
SHOWN = 120
"""Characters of an unusable answer that are shown."""

TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]
Logprob = float | None
"""In nats. None, NaN and infinities are what an engine may return; they are counted later."""
Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class UnusableError(ValueError):
    """A response that does not match its request; the message says how."""


class Strict(BaseModel):
    """Values as they are: nothing is converted, and keys that are not known are left out."""

    model_config = ConfigDict(strict=True, frozen=True)


Answer = TypeVar("Answer", bound=Strict)


class ProgressCount(Strict):
    """How far an operation is."""

    done: Count
    total: Count | None
    unit: str = ""
    tokens: Count = 0
    """Of the samples that are done."""


class AnyReply(Strict):
    """An object; what it is depends on what it holds."""

    model_config = ConfigDict(extra="allow")


class Working(Strict):
    """The operation goes on."""

    id: int
    progress: ProgressCount


class Succeeded(Strict):
    """The operation is over; `result` depends on it."""

    id: int
    ok: Literal[True]
    result: dict[str, Any]


class Failed(Strict):
    """The operation failed, for a reason that the protocol may have a word for."""

    id: int
    ok: Literal[False]
    kind: str
    message: str


class Tokenized(Strict):
    """A prompt's token ids."""

    prompt_id: str
    token_ids: list[TokenId]


class Scored(Strict):
    """The logprobs of given tokens, [tokens], and those of the likeliest, [tokens][k]."""

    sample_id: str
    logprobs: list[Logprob]
    top_token_ids: list[list[TokenId]]
    top_logprobs: list[list[Logprob]]
    entropy: list[Logprob] | None = None


class Sampled(Scored):
    """The same of tokens that the engine sampled."""

    token_ids: list[TokenId]
    finish_reason: str
    text: str | None


class Flying(Strict):
    """A request during weight updates: `finish_reason` None while it is open.

    `switches` are the tokens before which the weights changed.
    """

    sample_id: str
    token_ids: list[TokenId]
    logprobs: list[Logprob]
    switches: list[Count]
    finish_reason: str | None
    cached_tokens: Count
    text: str | None = None


class Learned(Strict):
    """The logprobs and entropies, [tokens], of the forward pass that a gradient is of; nats."""

    sample_id: str
    logprobs: list[float]
    entropy: list[float]


class Rewarded(Strict):
    """The reward of a sample."""

    sample_id: str
    reward: float


class Texts(Strict):
    """The text of each token id."""

    texts: list[str]


class Head(Strict):
    """The logits of fixed hidden states, and the dtype of the projection that made them."""

    logits: list[float]
    dtype: str


class WeightsInForce(Strict):
    """A digest of each parameter, and what the head makes of fixed hidden states."""

    parameters: dict[str, str]
    head: Head | None


class Probed(Strict):
    """The dtype of what each module put out."""

    dtypes: dict[str, str]


class WeightUpdate(Strict):
    """One weight update as the engine went through it; times in seconds."""

    checkpoint: str
    loader: str
    requests_in_flight: Count
    requests_held: Count
    tokens_held: Count
    cache_resets: list[bool]
    preempted: Count
    standstill_s: float
    load_s: float
    paused_s: float


class Updated(Strict):
    """What the updates of a scenario did."""

    updates: list[WeightUpdate]
    preemptions: Count
    weights_before: WeightsInForce
    weights_after: WeightsInForce


class Paused(Strict):
    """A weight update between two phases of rollouts, in seconds: the pause, and the load in it."""

    paused_s: float
    load_s: float


class Optimized(Strict):
    """A step of training: its loss, and the norm of the gradient before clipping."""

    loss: float
    grad_norm: float


Reply = Working | Succeeded | Failed
Row = TypeVar("Row", Tokenized, Scored, Sampled, Flying, Learned, Rewarded)


def read_reply(line: bytes) -> Reply:
    """A line of a worker's replies. Raises UnusableError."""
    found = typed_json(AnyReply, line, LONGEST_REPLY).model_extra or {}
    if "progress" in found:
        return typed(Working, found)
    if found.get("ok") is True:
        return typed(Succeeded, found)
    return typed(Failed, found)


def read_rows(
    path: Path, kind: type[Row], requests: Sequence[Mapping[str, Any]], name: str = "sample_id"
) -> list[Row]:
    """The rows of a file, one for each request, in the order of the requests.

    A request that weights change under may have several, the last of them finished. Raises
    UnusableError.
    """
    wanted = {request[name] for request in requests}
    rows: dict[str, Row] = {}
    for number, line in enumerate(_lines(path), 1):
        try:
            row = typed_json(kind, line, LONGEST_ROW)
        except UnusableError as error:
            raise UnusableError(f"row {number}: {error}") from None
        found = getattr(row, name)
        if found not in wanted:
            raise UnusableError(f"row {number} is about {found!r}, which was not requested")
        if found in rows and getattr(rows[found], "finish_reason", "") is not None:
            raise UnusableError(f"row {number} is the second about {found!r}")
        rows[found] = row
    if missing := [request[name] for request in requests if request[name] not in rows]:
        raise UnusableError(f"{len(rows)} rows for {len(wanted)} requests: none of {missing[0]!r}")
    return [rows[request[name]] for request in requests]


def check_shape(row: Scored, tokens: int, top: int) -> None:
    """A value for each of the tokens, and at most `top` alternatives. Raises UnusableError."""
    columns: Mapping[str, Sequence[Any] | None] = {
        "logprobs": row.logprobs,
        "rows of top_token_ids": row.top_token_ids,
        "rows of top_logprobs": row.top_logprobs,
        "entropies": row.entropy,
    }
    for name, column in columns.items():
        if column is not None and len(column) != tokens:
            raise UnusableError(
                f"sample {row.sample_id!r}: {len(column)} {name} for {tokens} tokens"
            )
    for place, (ids, values) in enumerate(zip(row.top_token_ids, row.top_logprobs, strict=True)):
        if len(ids) != len(values) or len(ids) > top:
            raise UnusableError(
                f"sample {row.sample_id!r}, token {place}: {len(ids)} likeliest tokens with "
                f"{len(values)} logprobs instead of the requested {top}"
            )


def typed(kind: type[Answer], found: object) -> Answer:
    """A parsed answer as a typed value. Raises UnusableError."""
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise UnusableError(_why(error)) from None


def typed_json(kind: type[Answer], text: bytes, longest: int) -> Answer:
    """The same from JSON, of at most so many bytes; it may be nested some 200 deep."""
    if len(text) > longest:
        raise UnusableError(f"it is longer than {longest:,} bytes")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise UnusableError(_why(error)) from None


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; the one that is too long, cut off behind the limit."""
    if not path.is_file():
        raise UnusableError(f"there is no file {path.name}")
    with path.open("rb") as file:
        while line := file.readline(LONGEST_ROW + 1):
            yield line


def _why(error: ValidationError) -> str:
    """The first of what is wrong, in one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"`{place}` is missing"
    what = first["msg"][:1].lower() + first["msg"][1:]
    text = what if first["type"] == "json_invalid" else f"{what}, not {_shown(first['input'])}"
    return f"`{place}`: {text}" if place else text


def _shown(value: object) -> str:
    if isinstance(value, list | tuple | dict):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of so many digits"
    text = value.decode(errors="replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
