"""Faults between the engine and the trace: edits of the rows of a sample."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from parity_check.traces.trace import Sample

T = TypeVar("T")

Edit = Callable[[Sample, random.Random], Sample]

BAD = (None, math.nan, -9999.0)
BAD_SHARE = 0.02
PADDED_SHARE = 0.25
DUPLICATED_SHARE = 0.3


def shift_by_one(sample: Sample, _: random.Random) -> Sample:
    """Each token gets the row of the previous one; the first row occurs twice."""
    return replace(
        sample,
        logprobs=_later(sample.logprobs),
        top_token_ids=_later(sample.top_token_ids or ()),
        top_logprobs=_later(sample.top_logprobs or ()),
    )


def _later(rows: Sequence[T]) -> list[T]:
    return [*rows[:1], *rows[:-1]]


def pad_with_zeros(sample: Sample, _: random.Random) -> Sample:
    """The last quarter of the logprobs is replaced by zeros."""
    kept = math.ceil(len(sample.logprobs) * (1 - PADDED_SHARE))
    zeros = [0.0] * (len(sample.logprobs) - kept)
    return replace(sample, logprobs=[*sample.logprobs[:kept], *zeros])


def lose_rows(sample: Sample, draw: random.Random) -> Sample:
    """Some logprobs are None, NaN or the server's −9999."""
    return replace(
        sample,
        logprobs=[
            draw.choice(BAD) if draw.random() < BAD_SHARE else value for value in sample.logprobs
        ],
    )


def duplicate_sampled(sample: Sample, draw: random.Random) -> Sample:
    """The sampled token occurs twice among the alternatives, and replaces the last one."""
    assert sample.top_token_ids is not None
    assert sample.top_logprobs is not None
    ids, values = [], []
    for token, logprob, row_ids, row in zip(
        sample.completion_token_ids,
        sample.logprobs,
        sample.top_token_ids,
        sample.top_logprobs,
        strict=True,
    ):
        if token in row_ids and draw.random() < DUPLICATED_SHARE:
            row_ids, row = [token, *row_ids[:-1]], [logprob, *row[:-1]]
        ids.append(row_ids)
        values.append(row)
    return replace(sample, top_token_ids=ids, top_logprobs=values)
