"""The evidence of a diagnosis: a bounded sample of paired tokens, as reference and candidate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity_check.config.models import ROLES, Role
from parity_check.measure import invalid
from parity_check.traces.batch import SampleBatch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

BLOCK = 16
"""Tokens of the smallest prefix-cache block. Shorter shared prefixes are never reused."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Tokens of both sampling directions, in one orientation, flat over whole samples.

    `reference` and `candidate` [n, 1 + k] are logprobs in nats of the same ids: column 0 is the
    sampled token, the others are the ids that both engines returned as alternatives; NaN where an
    engine has no usable logprob. D = candidate - reference, whoever sampled. `own` has each
    engine's complete rows: the sampled token and its own alternatives, whose ids are `own_ids`.
    `returned` [n] has what each engine returned for the sampled token, usable or not. Sample s owns
    tokens `starts[s]:starts[s + 1]`, and `sample_ids[s]` and `prompt_ids[s]` name it; `seen_prompt`
    and `seen_output` [n, 1 + k] count the id's occurrences in the prompt and in the completion so
    far.
    """

    reference: Floats
    candidate: Floats
    own: dict[Role, Floats]
    own_ids: dict[Role, Ints]
    returned: dict[Role, Floats]
    ids: Ints
    seen_prompt: Ints
    seen_output: Ints
    starts: Ints
    position: Ints
    prompt_length: Ints
    prompt: Ints
    shared_prefix: Ints
    first_ids: NDArray[np.int32]
    sampled_by_candidate: Flags
    total_tokens: int
    sample_ids: tuple[str, ...]
    prompt_ids: tuple[str, ...]

    @property
    def delta(self) -> Floats:
        """D [n] of the sampled tokens; NaN if a side is unusable."""
        difference: Floats = self.candidate[:, 0] - self.reference[:, 0]
        return difference

    @property
    def sample(self) -> Ints:
        """The sample [n] that each token belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @property
    def has_alternatives(self) -> bool:
        return bool(np.isfinite(self.reference[:, 1:] + self.candidate[:, 1:]).any())

    def last(self) -> Flags:
        """The last token [n] of each sample."""
        last = np.zeros(len(self.position), np.bool_)
        last[self.starts[1:][np.diff(self.starts) > 0] - 1] = True
        return last

    def from_start(self) -> Floats:
        """Where in its sample each token [n] is: 0 at the first, 1 at the last."""
        length = np.diff(self.starts)[self.sample]
        share: Floats = self.position / np.maximum(1, length - 1)
        return share

    def size(self) -> float:
        """E|D| in nats over the usable tokens; 0 if there are none."""
        usable = self.delta[np.isfinite(self.delta)]
        return float(np.abs(usable).mean()) if len(usable) else 0.0

    def with_candidate(self, candidate: Floats) -> Evidence:
        """The same evidence after a cause has been subtracted from the candidate's logprobs."""
        return replace(self, candidate=candidate)


def evidence_of(
    pairs: Iterable[tuple[SampleBatch, SampleBatch, Role]], total_tokens: int
) -> Evidence:
    """Evidence from paired batches (behaviour, evaluating, who sampled); at least one pair."""
    parts = [_part(*pair) for pair in pairs]
    offsets = np.cumsum([0, *(len(part.reference) for part in parts)])
    prompts = np.cumsum([0, *(int(part.prompt.max(initial=-1)) + 1 for part in parts)])

    def stacked(name: str) -> Any:
        return _stacked([np.asarray(getattr(part, name)) for part in parts])

    starts = [part.starts[:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    return Evidence(
        **{
            name: stacked(name)
            for name in (
                *("reference", "candidate", "ids", "seen_prompt", "seen_output", "position"),
                *("prompt_length", "shared_prefix", "sampled_by_candidate"),
            )
        },
        own={role: _stacked([part.own[role] for part in parts]) for role in ROLES},
        own_ids={role: _stacked([part.own_ids[role] for part in parts]) for role in ROLES},
        returned={role: np.concatenate([part.returned[role] for part in parts]) for role in ROLES},
        starts=np.concatenate([*starts, offsets[-1:]]),
        prompt=np.concatenate(
            [part.prompt + offset for part, offset in zip(parts, prompts, strict=False)]
        ),
        first_ids=np.concatenate([part.first_ids for part in parts]),
        total_tokens=total_tokens,
        sample_ids=tuple(name for part in parts for name in part.sample_ids),
        prompt_ids=tuple(name for part in parts for name in part.prompt_ids),
    )


def first_samples(batch: SampleBatch, budget: int) -> SampleBatch:
    """The first whole samples of a batch that fit into a token budget; at least one."""
    samples = max(1, int(np.searchsorted(batch.starts, budget, side="right")) - 1)
    if samples >= len(batch.starts) - 1:
        return batch
    tokens, prompts = int(batch.starts[samples]), int(batch.prompt_starts[samples])
    return replace(
        batch,
        sample_ids=batch.sample_ids[:samples],
        prompt_ids=batch.prompt_ids[:samples],
        prompt_groups=batch.prompt_groups[:samples],
        rollout_ids=None if batch.rollout_ids is None else batch.rollout_ids[:samples],
        turns=None if batch.turns is None else batch.turns[:samples],
        prompt_starts=batch.prompt_starts[: samples + 1],
        prompt_token_ids=batch.prompt_token_ids[:prompts],
        starts=batch.starts[: samples + 1],
        token_ids=batch.token_ids[:tokens],
        logprobs=batch.logprobs[:tokens],
        top_token_ids=None if batch.top_token_ids is None else batch.top_token_ids[:tokens],
        top_logprobs=None if batch.top_logprobs is None else batch.top_logprobs[:tokens],
    )


def _part(behaviour: SampleBatch, evaluating: SampleBatch, sampled_by: Role) -> Evidence:
    """One pair of batches of the same samples."""
    sides: dict[Role, SampleBatch] = (
        {"reference": behaviour, "candidate": evaluating}
        if sampled_by == "reference"
        else {"reference": evaluating, "candidate": behaviour}
    )
    left, right = sides["reference"], sides["candidate"]
    ids, reference, candidate = _matched(left, right)
    reference[:, 0] = _clean(left.logprobs, right.logprobs, left.starts)
    candidate[:, 0] = _clean(right.logprobs, left.logprobs, left.starts)
    lengths = np.diff(behaviour.starts)
    position = np.arange(len(behaviour.token_ids)) - np.repeat(behaviour.starts[:-1], lengths)
    sample = np.repeat(np.arange(len(lengths)), lengths)
    prompts = _prompts(behaviour)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(behaviour.prompt_ids))}
    return Evidence(
        reference=reference,
        candidate=candidate,
        own={role: _own(side) for role, side in sides.items()},
        own_ids={role: _own_ids(side) for role, side in sides.items()},
        returned={role: side.logprobs.astype(np.float64) for role, side in sides.items()},
        ids=ids,
        seen_prompt=_occurrences(
            np.repeat(np.arange(len(lengths)), np.diff(behaviour.prompt_starts)),
            behaviour.prompt_token_ids, None, sample, ids, None,
        ),
        seen_output=_occurrences(sample, behaviour.token_ids, position, sample, ids, position),
        starts=behaviour.starts,
        position=position,
        prompt_length=np.diff(behaviour.prompt_starts),
        prompt=np.array([numbers[name] for name in behaviour.prompt_ids], dtype=np.int64),
        shared_prefix=_shared_prefixes(prompts),
        first_ids=np.array([[*map(int, p[:2]), -1, -1][:2] for p in prompts], dtype=np.int32),
        sampled_by_candidate=np.full(len(position), sampled_by == "candidate"),
        total_tokens=len(position),
        sample_ids=tuple(behaviour.sample_ids),
        prompt_ids=tuple(behaviour.prompt_ids),
    )  # fmt: skip


def _clean(logprobs: NDArray[np.float32], other: NDArray[np.float32], starts: Ints) -> Floats:
    """Logprobs of a side; NaN if they are invalid, or padding in view of the other side."""
    values = logprobs.astype(np.float64)
    padded = invalid.padding(logprobs, other, starts)
    with np.errstate(invalid="ignore"):
        values[~invalid.usable_values(logprobs)] = np.nan
    if padded is not None:
        # If there are long runs of zeros, shorter ones are padding too.
        values[(logprobs == 0.0) & (other < invalid.ZERO_DISAGREES)] = np.nan
    return values


def _matched(left: SampleBatch, right: SampleBatch) -> tuple[Ints, Floats, Floats]:
    """Ids [n, 1 + k] and both sides' logprobs of the alternatives that both returned.

    Column 0, the sampled token, is filled by the caller.
    """
    n = len(left.token_ids)
    left_ids, left_values = left.top_token_ids, left.top_logprobs
    right_ids, right_values = right.top_token_ids, right.top_logprobs
    if left_ids is None or left_values is None or right_ids is None or right_values is None:
        alone = left.token_ids[:, None].astype(np.int64)
        return alone, np.full((n, 1), np.nan), np.full((n, 1), np.nan)
    k = left_ids.shape[1]
    ids = np.concatenate([left.token_ids[:, None], left_ids], axis=1).astype(np.int64)
    reference, candidate = np.full((n, 1 + k), np.nan), np.full((n, 1 + k), np.nan)
    for column in range(k):
        own = left_ids[:, column]
        first = (left_ids[:, :column] != own[:, None]).all(axis=1)
        same = right_ids == own[:, None]
        place = same.argmax(axis=1)
        values = right_values[np.arange(n), place]
        with np.errstate(invalid="ignore"):
            good = (
                same.any(axis=1) & first & (own >= 0) & (own != left.token_ids)
                & invalid.usable_values(left_values[:, column]) & invalid.usable_values(values)
            )  # fmt: skip
        reference[good, column + 1] = left_values[good, column]
        candidate[good, column + 1] = values[good]
    return ids, reference, candidate


def _own(side: SampleBatch) -> Floats:
    """One engine's rows: the sampled token's logprob, then its alternatives; NaN if missing."""
    columns = [side.logprobs[:, None]]
    if side.top_logprobs is not None and side.top_token_ids is not None:
        again = side.top_token_ids == side.token_ids[:, None]
        columns.append(np.where(again, np.float32(np.nan), side.top_logprobs))
    values = np.concatenate(columns, axis=1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        values[~((values > invalid.FLOOR) & (values <= invalid.ROUNDING))] = np.nan
    return values


def _own_ids(side: SampleBatch) -> Ints:
    """The ids of one engine's rows."""
    columns = [side.token_ids[:, None]]
    if side.top_logprobs is not None and side.top_token_ids is not None:
        columns.append(side.top_token_ids)
    return np.concatenate(columns, axis=1).astype(np.int64)


def _occurrences(
    owner: Ints,
    tokens: NDArray[np.int32],
    at: Ints | None,
    sample: Ints,
    ids: Ints,
    before: Ints | None,
) -> Ints:
    """How often each of `ids` [n, m] occurs in its sample's `tokens` before a position."""
    width = int(max(tokens.max(initial=0), ids.max(initial=0))) + 1
    length = 1 if at is None else int(at.max(initial=0)) + 2
    there = (owner * width + tokens) * length + (0 if at is None else at)
    there.sort()
    key = (sample[:, None] * width + np.maximum(ids, 0)) * length
    until = key + (length if before is None else before[:, None])
    count: Ints = np.searchsorted(there, until) - np.searchsorted(there, key)
    return np.where(ids < 0, 0, count)


def _prompts(batch: SampleBatch) -> list[NDArray[np.int32]]:
    return [
        batch.prompt_token_ids[first:last]
        for first, last in zip(batch.prompt_starts[:-1], batch.prompt_starts[1:], strict=True)
    ]


def _shared_prefixes(prompts: Sequence[NDArray[np.int32]]) -> Ints:
    """Tokens of the longest prefix, in whole blocks, that a prompt shares with an earlier one."""
    met: set[int] = set()
    found = np.zeros(len(prompts), np.int64)
    for number, prompt in enumerate(prompts):
        chain, chains = 0, []
        for end in range(BLOCK, len(prompt) + 1, BLOCK):
            chain = hash((chain, prompt[end - BLOCK : end].tobytes()))
            chains.append(chain)
        found[number] = BLOCK * sum(chain in met for chain in chains)
        met.update(chains)
    return found


def _stacked(columns: list[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate columns, padding the narrower ones."""
    if columns[0].ndim == 1:
        return np.concatenate(columns)
    # An engine's own rows are wider than the common ones if the other has no alternatives.
    width = max(column.shape[1] for column in columns)
    return np.concatenate([_widened(column, width) for column in columns])


def _widened(column: NDArray[np.generic], width: int) -> NDArray[np.generic]:
    missing = width - column.shape[1]
    if not missing:
        return column
    nothing = np.nan if column.dtype.kind == "f" else -1
    return np.concatenate([column, np.full((len(column), missing), nothing, column.dtype)], axis=1)
