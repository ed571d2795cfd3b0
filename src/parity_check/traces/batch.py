"""A batch of whole samples of a trace, as flat columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parity_check.traces.schema import numbers, whole

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_COLUMNS = [
    "sample_id",
    "prompt_id",
    "prompt_group",
    "prompt_token_ids",
    "completion_token_ids",
    "logprobs",
    "top_token_ids",
    "top_logprobs",
    "rollout_id",
    "turn",
]
"""The columns of a trace that a batch is made of; the last two are not in every trace."""


@dataclass(frozen=True, slots=True)
class SampleBatch:
    """Whole samples as flat columns: sample s owns tokens `starts[s]:starts[s + 1]`.

    `logprobs` is NaN where the engine returned none (`nulls` of them). The top-k arrays are
    [tokens, k], None if not recorded; a missing entry has id -1 and logprob NaN. `wrong_lengths`
    samples have more or fewer logprobs than tokens, so that they cannot be matched: all their
    tokens (`voided` of them) have NaN.
    """

    sample_ids: list[str]
    prompt_ids: list[str]
    prompt_groups: list[str]
    prompt_starts: NDArray[np.int64]
    prompt_token_ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    nulls: int
    top_token_ids: NDArray[np.int32] | None
    top_logprobs: NDArray[np.float32] | None
    wrong_lengths: int = 0
    voided: int = 0
    rollout_ids: list[str] | None = None
    turns: NDArray[np.int32] | None = None
    labels: list[str | None] | None = None
    """The values of one further column, if requested."""


def batch_of(table: pa.Table, label: str | None = None) -> SampleBatch:
    """Convert a table of samples to a batch, with the values of a `label` column."""

    def column(name: str) -> Any:
        return whole(table.column(name))

    completion = column("completion_token_ids")
    starts = numbers(completion.offsets).astype(np.int64)
    logprobs, nulls, fits = _logprobs(column("logprobs"), np.diff(starts))
    prompts = column("prompt_token_ids")
    prompt_starts = numbers(prompts.offsets).astype(np.int64)
    samples = column("sample_id").to_pylist()
    rollouts = turns = None
    if "rollout_id" in table.column_names and "turn" in table.column_names:
        named = zip(column("rollout_id").to_pylist(), samples, strict=True)
        rollouts = [sample if rollout is None else rollout for rollout, sample in named]
        turns = numbers(column("turn"), missing=0)
    return SampleBatch(
        sample_ids=samples,
        prompt_ids=column("prompt_id").to_pylist(),
        prompt_groups=column("prompt_group").to_pylist(),
        prompt_starts=prompt_starts - prompt_starts[0],
        prompt_token_ids=numbers(prompts.flatten()),
        starts=starts - starts[0],
        token_ids=numbers(completion.flatten()),
        logprobs=logprobs,
        nulls=nulls,
        top_token_ids=_rectangle(column("top_token_ids"), np.diff(starts), np.int32, -1),
        top_logprobs=_rectangle(column("top_logprobs"), np.diff(starts), np.float32, np.nan),
        wrong_lengths=int(np.count_nonzero(~fits)),
        voided=int(np.diff(starts)[~fits].sum()),
        rollout_ids=rollouts,
        turns=turns,
        labels=None if label is None else [_text(each) for each in column(label).to_pylist()],
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _logprobs(
    column: Any, lengths: NDArray[np.int64]
) -> tuple[NDArray[np.float32], int, NDArray[np.bool_]]:
    """The logprobs of samples of these lengths, the number of nulls, and which samples fit."""
    flat = column.flatten()
    ends: NDArray[np.int64] = numbers(column.offsets).astype(np.int64)
    own = np.diff(ends)
    values = numbers(flat, missing=math.nan).astype(np.float32, copy=False)
    fits = own == lengths
    if fits.all():
        return values, flat.null_count, fits
    kept = np.repeat(fits, own)
    filled = np.full(int(lengths.sum()), np.nan, np.float32)
    filled[np.repeat(fits, lengths)] = values[kept]
    return filled, int(numbers(flat.is_null())[kept].sum()), fits


def _rectangle(
    column: Any, lengths: NDArray[np.int64], dtype: type[np.generic], nothing: float
) -> NDArray[Any] | None:
    """[tokens, k] from a list<list<…>> column of samples of these lengths; None if all are empty.

    A token with fewer than k entries is padded with `nothing`, and so are the tokens of a sample
    that has none, or not as many as tokens.
    """
    rows = column.flatten()
    widths = np.diff(numbers(rows.offsets))
    width = int(widths.max(initial=0))
    if width == 0:
        return None
    flat = numbers(rows.flatten(), missing=nothing).astype(dtype, copy=False)
    tokens = int(lengths.sum())
    own = np.diff(numbers(column.offsets))
    fits = own == lengths
    if not fits.all():
        kept = np.repeat(fits, own)
        flat = flat[np.repeat(kept, widths)]
        of_token = np.zeros(tokens, widths.dtype)
        of_token[np.repeat(fits, lengths)] = widths[kept]
        widths = of_token
    if (widths == width).all():
        whole: NDArray[Any] = flat.reshape(-1, width)
        return whole
    filled: NDArray[Any] = np.full((tokens, width), nothing, dtype)
    filled[np.arange(width) < widths[:, None]] = flat
    return filled
