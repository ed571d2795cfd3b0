"""Faults between the engine and the trace: edits of the rows of a sample."""

from __future__ import annotations

import itertools
import math
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from parity_check.traces.trace import Sample

T = TypeVar("T")
EOS = 1
BURST = 0.17
"""Share of the samples that are off as a whole."""
COMMON, BIASED = 18, 3.0
"""A common id, the full stop, and the nats that are taken from it."""
LIMIT = -4.0
"""Nats."""

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


def each(function: Callable[[float], float]) -> Edit:
    """An edit of every logprob by itself; alternatives are left out, as in most dumps."""

    def edit(sample: Sample, _: random.Random) -> Sample:
        return _alone(sample, [function(value or 0.0) for value in sample.logprobs])

    return edit


def _alone(sample: Sample, logprobs: Sequence[float]) -> Sample:
    return replace(sample, logprobs=list(logprobs), top_token_ids=None, top_logprobs=None)


def _values(sample: Sample) -> list[float]:
    return [value or 0.0 for value in sample.logprobs]


def to_bfloat16(value: float) -> float:
    [bits] = struct.unpack("<I", struct.pack("<f", value))
    [rounded] = struct.unpack("<f", struct.pack("<I", (bits + 0x8000) & 0xFFFF0000))
    return float(rounded)


def to_float16(value: float) -> float:
    return float(struct.unpack("<e", struct.pack("<e", value))[0])


def cumulate(sample: Sample, _: random.Random) -> Sample:
    return _alone(sample, list(itertools.accumulate(_values(sample))))


def total(sample: Sample, _: random.Random) -> Sample:
    """The sum of the sample at every token."""
    values = _values(sample)
    return _alone(sample, [sum(values)] * len(values))


def divide_by_length(sample: Sample, _: random.Random) -> Sample:
    values = _values(sample)
    return _alone(sample, [value / len(values) for value in values])


def take_likeliest(sample: Sample, _: random.Random) -> Sample:
    """The largest logprob of each position."""
    assert sample.top_logprobs is not None
    rows = zip(_values(sample), sample.top_logprobs, strict=True)
    return _alone(sample, [max(value, *row) for value, row in rows])


def zero_last(sample: Sample, _: random.Random) -> Sample:
    """An EOS that was appended, not sampled: its logprob is 0, and the token is the EOS."""
    if sample.completion_token_ids[-1] != EOS:
        return sample
    return replace(sample, logprobs=[*sample.logprobs[:-1], 0.0])


def break_first(sample: Sample, draw: random.Random) -> Sample:
    """The first token's logprob is that of another context."""
    return replace(sample, logprobs=[-draw.expovariate(0.3), *sample.logprobs[1:]])


def dictate(sample: Sample, _: random.Random) -> Sample:
    """A grammar leaves one token at six of seven positions, all but the likeliest ones."""
    return _alone(
        sample,
        [
            0.0 if place % 7 and value < -0.1 else value
            for place, value in enumerate(_values(sample))
        ],
    )


def lose_to_zero(sample: Sample, draw: random.Random) -> Sample:
    """Some logprobs are 0 in place of NaN."""
    return replace(
        sample,
        logprobs=[0.0 if draw.random() < BAD_SHARE else value for value in sample.logprobs],
    )


def burst(sample: Sample, draw: random.Random) -> Sample:
    """Some prompts are off as a whole: the same ones in every trace."""
    if random.Random(sample.prompt_id).random() > BURST:
        return sample
    return _alone(sample, [value - draw.expovariate(0.7) for value in _values(sample)])


def bias_ids(sample: Sample, _: random.Random) -> Sample:
    """A logit bias on one id, from the sampled tokens alone."""
    values = zip(sample.completion_token_ids, _values(sample), strict=True)
    return _alone(sample, [value - BIASED * (token == COMMON) for token, value in values])
