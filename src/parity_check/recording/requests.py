"""Sample and score on an engine: requests in, samples out."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from parity_check.config.models import Workload
from parity_check.engines.base import Engine
from parity_check.engines.replies import Scored
from parity_check.errors import InputError
from parity_check.traces.prompts import Prompt
from parity_check.traces.trace import Sample

LogprobOperation = Literal["replay", "rescore"]


def tokenize(engine: Engine, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of every prompt, by the engine's own tokenizer unless they are given."""
    texts = [
        {
            "prompt_id": prompt.prompt_id,
            "text": prompt.text,
            "messages": prompt.messages,
            "template": dict(prompt.template),
        }
        for prompt in prompts
        if prompt.token_ids is None
    ]
    encoded = iter(engine.tokenize(texts) if texts else [])
    return [prompt.token_ids or next(encoded) for prompt in prompts]


def check_same_ids(
    prompts: Sequence[Prompt], ids: Mapping[str, Sequence[list[int]]], one: str, other: str
) -> None:
    """Check that two tokenizers agree. Raises InputError with the first difference."""
    for prompt, left, right in zip(prompts, ids[one], ids[other], strict=True):
        if left == right:
            continue
        place = next(
            (i for i, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]),
            min(len(left), len(right)),
        )
        found = [str(ids[place]) if place < len(ids) else "no token" for ids in (left, right)]
        raise InputError(
            f"prompt {prompt.prompt_id}: the engines' tokenizers differ at token {place}: "
            f"{found[0]} in the {one}, {found[1]} in the {other}",
            hint="use `prompt_token_ids` in the prompts file, or align the tokenizers",
        )


class Turn(NamedTuple):
    """One sample that is to be drawn: of which prompt, and its number among those of the prompt."""

    prompt: Prompt
    token_ids: list[int]
    number: int

    @property
    def sample_id(self) -> str:
        return f"{self.prompt.prompt_id}/{self.number}"


def turns(
    prompts: Sequence[Prompt],
    token_ids: Sequence[list[int]],
    samples_per_prompt: int,
    earlier: Iterable[Prompt] = (),
) -> list[Turn]:
    """Every prompt `samples_per_prompt` times.

    A prompt that is there again, or that was sampled `earlier`, gets further samples.
    """
    seen = Counter(prompt.prompt_id for prompt in earlier)
    planned = []
    for prompt, ids in zip(prompts, token_ids, strict=True):
        first = seen[prompt.prompt_id] * samples_per_prompt
        planned += [Turn(prompt, ids, first + more) for more in range(samples_per_prompt)]
        seen[prompt.prompt_id] += 1
    return planned


def generate(
    engine: Engine, prompts: Sequence[Prompt], token_ids: Sequence[list[int]], workload: Workload
) -> list[Sample]:
    """Sample every prompt `samples_per_prompt` times, in one batch."""
    return draw(engine, turns(prompts, token_ids, workload.samples_per_prompt), workload)


def draw(engine: Engine, planned: Sequence[Turn], workload: Workload) -> list[Sample]:
    """Draw samples, in one batch."""
    rows = engine.generate(
        [{"sample_id": turn.sample_id, "prompt_token_ids": turn.token_ids} for turn in planned],
        sampling=workload.sampling(),
        max_tokens=workload.max_tokens,
        ignore_eos=workload.ignore_eos,
        top_logprobs=workload.top_logprobs,
    )
    return [
        Sample(
            sample_id=row.sample_id,
            prompt_id=turn.prompt.prompt_id,
            sample_index=turn.number,
            prompt_group=turn.prompt.group,
            prompt_token_ids=turn.token_ids,
            completion_token_ids=row.token_ids,
            finish_reason=row.finish_reason,
            seed=None,
            policy_version=None,
            text=row.text,
            labels=turn.prompt.labels,
            **_logprob_columns(row),
        )
        for turn, row in zip(planned, rows, strict=True)
    ]


def score(
    engine: Engine,
    operation: LogprobOperation,
    samples: Iterable[Sample],
    sampling: Mapping[str, float | int],
    top_logprobs: int,
    shuffle: int | None = None,
    **parameters: Any,
) -> list[Sample]:
    """The same samples with this engine's logprobs, through decode or prefill.

    `parameters` are those of the operation, e.g. a trainer's `samples_per_batch`. All samples are
    sent as one batch, in order. With `shuffle` (a seed), the order is random and they are sent as
    two batches of one and two thirds, so that every token is computed in a different batch.
    """
    originals = list(samples)
    requests = evaluated(originals)
    batches = [requests]
    if shuffle is not None:
        random.Random(shuffle).shuffle(requests)
        cut = len(requests) // 3
        batches = [batch for batch in (requests[:cut], requests[cut:]) if batch]
    rows = {
        row.sample_id: row
        for batch in batches
        for row in engine.score(
            operation, batch, sampling=dict(sampling), top_logprobs=top_logprobs, **parameters
        )
    }
    return [
        replace(original, **_logprob_columns(rows[original.sample_id])) for original in originals
    ]


def evaluated(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """A request for each sample whose tokens are to be evaluated."""
    return [
        {
            "sample_id": sample.sample_id,
            "prompt_token_ids": list(sample.prompt_token_ids),
            "completion_token_ids": list(sample.completion_token_ids),
        }
        for sample in samples
    ]


def vocabulary(engine: Engine, samples: Iterable[Sample]) -> dict[int, str]:
    """The text of every token id in the samples."""
    ids = sorted(
        {
            token
            for sample in samples
            for token in (*sample.prompt_token_ids, *sample.completion_token_ids)
        }
    )
    return dict(zip(ids, engine.decode(ids), strict=True))


def _logprob_columns(row: Scored) -> dict[str, Any]:
    recorded = bool(row.top_token_ids) and bool(row.top_token_ids[0])
    return {
        "logprobs": row.logprobs,
        "top_token_ids": row.top_token_ids if recorded else None,
        "top_logprobs": row.top_logprobs if recorded else None,
        "entropy": row.entropy,
    }
