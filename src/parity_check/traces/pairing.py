"""Match two traces token by token, or raise an error with the first mismatch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity_check.errors import TraceMismatchError
from parity_check.measure.metrics import PairedChunk
from parity_check.traces.batch import SampleBatch
from parity_check.traces.engine import UNKNOWN
from parity_check.traces.prefixes import Prefixes
from parity_check.traces.provenance import model_difference
from parity_check.traces.trace import TraceHeader


class Index:
    """Assigns numbers to names, in the order of their first appearance."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def number(self, names: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        table = self.names
        return np.fromiter((table.setdefault(name, len(table)) for name in names), dtype=np.int32)


class Clusters:
    """Numbers the clusters of samples.

    Where a prompt is its own cluster, prompts of the same tokens are one, whatever their ids. The
    values of a column are taken as they are.
    """

    def __init__(self, cluster_by: str) -> None:
        self.cluster_by = cluster_by
        self._index = Index()
        self._found: set[int] = set()
        self._prompts: dict[str, int] = {}
        self._tokens: dict[tuple[int, int], int] = {}

    def number(self, batch: SampleBatch) -> NDArray[np.int32]:
        """The cluster of each sample [S]."""
        numbers = self._index.number(cluster_names(batch, self.cluster_by))
        if self.cluster_by in ("sample", "group"):
            self._found.update(numbers.tolist())
            return numbers
        starts = batch.prompt_starts
        for sample, prompt in enumerate(batch.prompt_ids):
            if batch.labels is not None and batch.labels[sample] is not None:
                continue
            known = self._prompts.get(prompt)
            if known is None:
                ids = batch.prompt_token_ids[starts[sample] : starts[sample + 1]]
                known = int(numbers[sample])
                if len(ids):  # a dump need not have its prompts
                    known = self._tokens.setdefault((len(ids), hash(ids.tobytes())), known)
                self._prompts[prompt] = known
            numbers[sample] = known
        self._found.update(numbers.tolist())
        return numbers

    def count(self) -> int:
        """How many there are."""
        return len(self._found)


def check_headers(
    behaviour: TraceHeader, evaluating: TraceHeader, *, same_distribution: bool = True
) -> None:
    """Check that the logprobs of two traces can be compared. Raises TraceMismatchError.

    With `same_distribution`, raw against processed is an error too. The paths may differ if an
    engine evaluates by prefill, as a server or a trainer does.
    """
    if evaluating.replayed_from != behaviour.token_digest:
        replayed = evaluating.replayed_from
        raise TraceMismatchError(
            "the evaluating trace was not replayed from this behaviour trace: its token digest is "
            f"{replayed[:12] if replayed else 'none'}, expected {behaviour.token_digest[:12]}",
            hint="replay it with `parity-check replay --trace`",
        )
    check_siblings(behaviour, evaluating, same_distribution=same_distribution)


def check_siblings(one: TraceHeader, other: TraceHeader, *, same_distribution: bool = True) -> None:
    """The same for two traces that need not be replays of each other."""
    imported = UNKNOWN in (one.logprob_path, other.logprob_path)
    stated = _stated(one.model, other.model, both=imported)
    found = model_difference(one.model, other.model, stated)
    if found is not None:
        raise TraceMismatchError(f"the traces are of different models: {found}")
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
    """The keys to compare: all, or with `both` only those that both traces state."""
    return sorted(left.keys() & right.keys() if both else left.keys() | right.keys())


def pair(
    behaviour: Iterable[SampleBatch],
    evaluating: Iterable[SampleBatch],
    cluster_by: str,
    groups: Index,
    prefixes: Prefixes | None = None,
) -> Iterator[PairedChunk]:
    """Pair batch by batch; `groups` collects the names of the numbers.

    `cluster_by` is `prompt`, `group`, `sample`, or the column with which the behaviour batches were
    read. Clustered by sample, the turns of a rollout are one cluster all the same. Raises
    TraceMismatchError at the first sample or token that differs.
    """
    clusters, rollouts, prompts = Clusters(cluster_by), Index(), Index()
    seen: set[str] = set()
    for left, right in zip_longest(behaviour, evaluating):
        if left is None or right is None:
            raise TraceMismatchError("one trace has more samples than the other")
        check_same_tokens(left, right)
        _check_once(left.sample_ids, seen)
        topk = left.top_token_ids is not None and right.top_token_ids is not None
        cluster = clusters.number(left)
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
            prompt=None if cluster_by == "prompt" else prompts.number(left.prompt_ids),
            behaviour_nulls=left.nulls,
            evaluating_nulls=right.nulls,
            behaviour_wrong_lengths=left.wrong_lengths,
            evaluating_wrong_lengths=right.wrong_lengths,
            behaviour_voided=left.voided,
            evaluating_voided=right.voided,
            rollout=None if left.rollout_ids is None else rollouts.number(left.rollout_ids),
            turn=left.turns,
        )


def _check_once(sample_ids: Sequence[str], seen: set[str]) -> None:
    """A sample that is there twice is one sample. Raises TraceMismatchError."""
    before = len(seen)
    for number, sample in enumerate(sample_ids):
        seen.add(sample)
        if len(seen) != before + number + 1:
            raise TraceMismatchError(f"sample {sample} is in the trace twice")


def label_column(cluster_by: str) -> str | None:
    """The column that has to be read for `cluster_by`, if it is not one that every batch has."""
    return None if cluster_by in ("prompt", "group", "sample") else cluster_by


def cluster_names(batch: SampleBatch, cluster_by: str) -> list[str]:
    """The cluster of each sample; without a value in its column, a prompt is its own cluster."""
    if cluster_by == "group":
        return batch.prompt_groups
    if cluster_by == "sample":
        return batch.sample_ids if batch.rollout_ids is None else batch.rollout_ids
    if batch.labels is None:
        return batch.prompt_ids
    return [
        f"prompt {prompt}" if label is None else label
        for label, prompt in zip(batch.labels, batch.prompt_ids, strict=True)
    ]


def check_same_tokens(left: SampleBatch, right: SampleBatch) -> None:
    """Raises TraceMismatchError at the first sample or token that differs."""
    for ours, theirs in zip_longest(left.sample_ids, right.sample_ids):
        if ours != theirs:
            raise TraceMismatchError(
                f"sample {ours} is paired with sample {theirs}: different samples or order"
            )
    if not np.array_equal(left.starts, right.starts):
        sample = int(np.argmax(left.starts[1:] != right.starts[1:]))
        raise TraceMismatchError(
            f"sample {left.sample_ids[sample]}: {np.diff(left.starts)[sample]} tokens against "
            f"{np.diff(right.starts)[sample]}"
        )
    unequal = left.token_ids != right.token_ids
    if unequal.any():
        token = int(np.argmax(unequal))
        sample = int(np.searchsorted(left.starts, token, side="right")) - 1
        raise TraceMismatchError(
            f"sample {left.sample_ids[sample]}, token {token - int(left.starts[sample])}: id "
            f"{left.token_ids[token]} against id {right.token_ids[token]}"
        )
    if not (
        np.array_equal(left.prompt_starts, right.prompt_starts)
        and np.array_equal(left.prompt_token_ids, right.prompt_token_ids)
    ):
        raise TraceMismatchError("the prompts' token ids differ between the traces")
