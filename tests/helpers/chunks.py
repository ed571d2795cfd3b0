"""Paired chunks from lists of logprobs, and parts of them."""

from __future__ import annotations

import numpy as np

from parity_check.measure.metrics import PairedChunk


def chunk(
    behaviour: list[list[float]], evaluating: list[list[float]], cluster: list[int] | None = None
) -> PairedChunk:
    """One chunk from one list of logprobs a sample."""
    lengths = [len(sample) for sample in behaviour]
    cluster = list(range(len(lengths))) if cluster is None else cluster
    return PairedChunk(
        behaviour_logprob=np.concatenate(behaviour).astype(np.float32),
        evaluating_logprob=np.concatenate(evaluating).astype(np.float32),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        cluster=np.array(cluster, np.int32),
        group=np.array(cluster, np.int32) % 2,
    )


def cut(whole: PairedChunk, first: int, last: int) -> PairedChunk:
    """Samples `first` to `last` of a chunk."""
    tokens = slice(whole.starts[first], whole.starts[last])
    return PairedChunk(
        behaviour_logprob=whole.behaviour_logprob[tokens],
        evaluating_logprob=whole.evaluating_logprob[tokens],
        starts=whole.starts[first : last + 1] - whole.starts[first],
        cluster=whole.cluster[first:last],
        group=whole.group[first:last],
        token_ids=None if whole.token_ids is None else whole.token_ids[tokens],
    )
