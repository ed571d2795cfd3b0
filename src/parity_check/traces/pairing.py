"""Match two traces token by token; refuse, naming the first mismatch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    cluster_by: str,
    clusters: Index,
    groups: Index,
    prefixes: Prefixes | None = None,
) -> Iterator[PairedChunk]:
    """Pair batch by batch; `clusters` and `groups` collect the names behind the numbers.

    `cluster_by` is `prompt`, `group`, `sample`, or the column that the behaviour trace's batches
    were read with.
    Raises TraceMismatchError at the first sample or token that differs.
    """
    for left, right in zip_longest(behaviour, evaluating):
        if left is None or right is None:
            raise TraceMismatchError("one trace has more samples than the other")
        check_same_tokens(left, right)
        topk = left.top_token_ids is not None and right.top_token_ids is not None
        cluster = clusters.number(cluster_names(left, cluster_by))
        if prefixes is not None:
            prefixes.add(left, cluster)
        yield PairedChunk(
            behaviour_logprob=left.logprobs,
            evaluating_logprob=right.logprobs,
            starts=left.starts,
            cluster=cluster,
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


def label_column(cluster_by: str) -> str | None:
    """The column of a trace that clusters are named by, where it is not one of its own."""
    return None if cluster_by in ("prompt", "group", "sample") else cluster_by


def cluster_names(batch: SampleBatch, cluster_by: str) -> list[str]:
    """The cluster of each sample; where its column holds nothing, the prompt is one of its own."""
    if cluster_by == "group":
        return batch.prompt_groups
    if cluster_by == "sample":
        return batch.sample_ids
    if batch.labels is None:
        return batch.prompt_ids
    return [
        f"prompt {prompt}" if label is None else label
        for label, prompt in zip(batch.labels, batch.prompt_ids, strict=True)
    ]


SHORTEST_PREFIX = 16
"""Tokens: a beginning shorter than this, such as a template's, is not looked at."""


class Prefixes:
    """Finds prompts that begin with the same tokens, for half of their length or more.

    What all prompts have in common does not count: it tells no prompt from another. Memory grows
    with the number of prompts: a few hashes each.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}
        self._prompts: Counter[tuple[int, int]] = Counter()
        self._cluster: dict[tuple[int, int], int | None] = {}

    def add(self, batch: SampleBatch, clusters: NDArray[np.int32]) -> None:
        starts = batch.prompt_starts
        for number, prompt in enumerate(batch.prompt_ids):
            if prompt in self._seen:
                continue
            ids = batch.prompt_token_ids[starts[number] : starts[number + 1]]
            length = SHORTEST_PREFIX
            key = (0, 0)
            while length <= len(ids):
                key = (length, hash(ids[:length].tobytes()))
                self._prompts[key] += 1
                cluster = int(clusters[number])
                if self._cluster.setdefault(key, cluster) != cluster:
                    self._cluster[key] = None  # more than one
                length *= 2
            self._seen[prompt] = key  # the longest that is a power of two: half of it or more

    def counted_apart(self) -> tuple[int, int]:
        """How many prompts share half of themselves with one of another cluster, and of how many.

        Both are 0 where no prompt does.
        """
        everyone = len(self._seen)
        shared = sum(
            1 < self._prompts[key] < everyone and self._cluster[key] is None
            for key in self._seen.values()
        )
        return (shared, everyone) if shared else (0, 0)


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
