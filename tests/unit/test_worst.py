"""The worst tokens, against a brute-force reading of the same data."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.support import chunk_of
from parity_check.measure.worst import Outlier, Outliers

LOGPROB = st.sampled_from([-4.0, -2.0, -1.0, -0.5, float("nan"), float("-inf")])
CHUNKS = st.lists(
    st.lists(st.lists(st.tuples(LOGPROB, LOGPROB), max_size=4), max_size=3), max_size=3
)


def by_hand(chunks: list[list[list[tuple[float, float]]]], keep: int) -> list[Outlier]:
    samples = [sample for chunk in chunks for sample in chunk]
    everything = [
        Outlier(number, position, behaviour, evaluating)
        for number, sample in enumerate(samples)
        for position, (behaviour, evaluating) in enumerate(sample)
        if np.isfinite(behaviour) and np.isfinite(evaluating) and behaviour != evaluating
    ]
    return sorted(everything, key=lambda outlier: -abs(outlier.log_ratio))[:keep]


@given(CHUNKS, st.integers(1, 5))
def test_the_largest_differences_with_ties_in_order(
    chunks: list[list[list[tuple[float, float]]]], keep: int
) -> None:
    outliers = Outliers(keep)
    watched = list(outliers.watch(chunk_of(chunk) for chunk in chunks))
    assert len(watched) == len(chunks)
    assert list(outliers.largest()) == by_hand(chunks, keep)


def test_the_log_ratio_is_evaluating_minus_behaviour() -> None:
    assert Outlier(0, 0, -2.0, -0.5).log_ratio == 1.5
