"""Match two traces token by token; refuse, naming the first mismatch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any, Literal

import numpy as np

from parity_check.errors import TraceMismatchError
from parity_check.measure.metrics import PairedChunk
from parity_check.traces.batch import SampleBatch
from parity_check.traces.engine import UNKNOWN
from parity_check.traces.trace import TraceHeader


class Index:
    """Numbers for names, in the order of their first appearance."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def number(self, names: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        table = self.names
        return np.fromiter((table.setdefault(name, len(table)) for name in names), dtype=np.int32)


def check_headers(
    behaviour: TraceHeader, evaluating: TraceHeader, *, same_distribution: bool = True
) -> None:
    """Refuse two traces whose logprobs cannot be compared. Raises TraceMismatchError.

    Raw against processed is refused too, unless that is what a run was asked to compare. The paths
    may differ where an engine evaluates by prefill, as a server or a trainer does.
    """
    if evaluating.replayed_from != behaviour.token_digest:
        replayed = evaluating.replayed_from
        raise TraceMismatchError(
            "the evaluating trace was not replayed from this behaviour trace: it names token "
            f"digest {replayed[:12] if replayed else 'none'}, expected "
            f"{behaviour.token_digest[:12]}",
            hint="replay it with `parity-check replay --trace`",
        )
    check_siblings(behaviour, evaluating, same_distribution=same_distribution)


def check_siblings(one: TraceHeader, other: TraceHeader, *, same_distribution: bool = True) -> None:
    """The same for two traces of which neither need be a replay of the other."""
    imported = UNKNOWN in (one.logprob_path, other.logprob_path)
    for key in _stated(one.model, other.model, both=imported):
        left, right = one.model.get(key), other.model.get(key)
        if left != right:
            raise TraceMismatchError(f"the traces are of different models: {key}: {left} ≠ {right}")
    same_path = {one.engine.evaluates_by, other.engine.evaluates_by} == {"decode"}
    fields = ["logprob_path"] * same_path + ["logprob_distribution"] * same_distribution
    for field in fields:
        left, right = getattr(one, field), getattr(other, field)
        if left != right and UNKNOWN not in (left, right):
            name = field.replace("_", " ")
            raise TraceMismatchError(f"the traces differ in {name}: {left} ≠ {right}")
    for key in _stated(one.sampling, other.sampling, both=imported):
        left, right = one.sampling.get(key), other.sampling.get(key)
        if left != right:
            raise TraceMismatchError(f"the traces differ in {key}: {left} ≠ {right}")


def _stated(left: Mapping[str, Any], right: Mapping[str, Any], *, both: bool) -> list[str]:
    """The keys to compare: those that `both` state, where an imported trace may not know them."""
    return sorted(left.keys() & right.keys() if both else left.keys() | right.keys())


def pair(
    behaviour: Iterable[SampleBatch],
    evaluating: Iterable[SampleBatch],
    cluster_by: Literal["prompt", "sample"],
    clusters: Index,
    groups: Index,
) -> Iterator[PairedChunk]:
    """Pair batch by batch; `clusters` and `groups` collect the names behind the numbers.

    Raises TraceMismatchError at the first sample or token that differs.
    """
    for left, right in zip_longest(behaviour, evaluating):
        if left is None or right is None:
            raise TraceMismatchError("one trace has more samples than the other")
        check_same_tokens(left, right)
        topk = left.top_token_ids is not None and right.top_token_ids is not None
        yield PairedChunk(
            behaviour_logprob=left.logprobs,
            evaluating_logprob=right.logprobs,
            starts=left.starts,
            cluster=clusters.number(left.prompt_ids if cluster_by == "prompt" else left.sample_ids),
            group=groups.number(left.prompt_groups),
            behaviour_top_ids=left.top_token_ids if topk else None,
            behaviour_top_logprobs=left.top_logprobs if topk else None,
            evaluating_top_ids=right.top_token_ids if topk else None,
            evaluating_top_logprobs=right.top_logprobs if topk else None,
            token_ids=left.token_ids,
            behaviour_nulls=left.nulls,
            evaluating_nulls=right.nulls,
            behaviour_wrong_lengths=left.wrong_lengths,
            evaluating_wrong_lengths=right.wrong_lengths,
            behaviour_voided=left.voided,
            evaluating_voided=right.voided,
        )


def check_same_tokens(left: SampleBatch, right: SampleBatch) -> None:
    """Raises TraceMismatchError at the first sample or token that differs."""
    for ours, theirs in zip_longest(left.sample_ids, right.sample_ids):
        if ours != theirs:
            raise TraceMismatchError(f"sample {ours} meets sample {theirs}: other samples or order")
    if not np.array_equal(left.starts, right.starts):
        sample = int(np.argmax(left.starts[1:] != right.starts[1:]))
        raise TraceMismatchError(
            f"sample {left.sample_ids[sample]}: {np.diff(left.starts)[sample]} tokens meet "
            f"{np.diff(right.starts)[sample]}"
        )
    unequal = left.token_ids != right.token_ids
    if unequal.any():
        token = int(np.argmax(unequal))
        sample = int(np.searchsorted(left.starts, token, side="right")) - 1
        raise TraceMismatchError(
            f"sample {left.sample_ids[sample]}, token {token - int(left.starts[sample])}: "
            f"id {left.token_ids[token]} meets id {right.token_ids[token]}"
        )
    if not (
        np.array_equal(left.prompt_starts, right.prompt_starts)
        and np.array_equal(left.prompt_token_ids, right.prompt_token_ids)
    ):
        raise TraceMismatchError("the prompts' token ids differ between the traces")
