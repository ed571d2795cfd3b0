"""How a trainer puts samples together; the model's part of it is tested on real ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.test_proofs import worker_module

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def shape() -> Any:
    return worker_module("batch_shape")


def requests(lengths: list[tuple[int, int]]) -> list[dict[str, Any]]:
    return [
        {"sample_id": n, "prompt_token_ids": [1] * p, "completion_token_ids": [2] * c}
        for n, (p, c) in enumerate(lengths)
    ]


@given(LENGTHS, st.sampled_from(["padded", "packed"]), st.integers(1, 6), st.integers(1, 200))
def test_batches_keep_order_and_limits(
    lengths: list[tuple[int, int]], layout: str, samples: int, tokens: int
) -> None:
    found = list(worker_module("batch_shape").batches(requests(lengths), layout, samples, tokens))
    assert [r["sample_id"] for batch in found for r in batch] == list(range(len(lengths)))
    for batch in found:
        sizes = [len(r["prompt_token_ids"]) + len(r["completion_token_ids"]) for r in batch]
        held = sum(sizes) if layout == "packed" else max(sizes) * len(sizes)
        assert len(batch) <= samples
        assert held <= tokens or len(batch) == 1


def test_places_predict_the_completions(shape: Any) -> None:
    samples = [([1, 2, 3], [4, 5]), ([6], [7])]
    assert shape.places(samples, "padded") == ([0, 0, 1], [2, 3, 0])
    # In one row the second sample begins behind the five tokens of the first.
    assert shape.places(samples, "packed") == ([0, 0, 0], [2, 3, 5])
