"""What the ranks of one engine say: merged where they agree, an error that names both where not."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.engines.client import WORKER


@pytest.fixture(scope="module")
def ranks() -> Any:
    sys.path.insert(0, str(WORKER))
    try:
        yield importlib.import_module("ranks")
    finally:
        sys.path.remove(str(WORKER))


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(Exception, match="disagree") as found:
        call(*arguments)
    assert found.value.kind == "ranks_differ"
    return str(found.value)


def test_what_a_rank_cannot_know_is_no_disagreement(ranks: Any) -> None:
    first = {"lm_head_dtype": "float32", "patched": ["v0"], "scheduler": None}
    second = {"lm_head_dtype": None, "patched": ["v0"], "scheduler": None}
    assert ranks.agreed([first, second]) == first
    assert ranks.agreed([second, first]) == first


def test_a_patch_that_one_rank_lacks(ranks: Any) -> None:
    said = refused(ranks.agreed, [{"patched": ["v0"]}, {"patched": ["v0"]}, {"patched": []}])
    assert said == (
        "the processes of the engine disagree about patched: rank 0 has ['v0'], rank 2 has []"
    )


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)), min_size=1))
def test_one_rank_is_named_as_it_is_and_several_by_number(
    ranks: Any, answers: list[dict[str, int]]
) -> None:
    found = ranks.by_rank(answers)
    assert len(found) == sum(map(len, answers))
    assert found == (answers[0] if len(answers) == 1 else found)


def test_norms_are_the_same_on_every_rank(ranks: Any) -> None:
    one = {"model.norm.weight": "a", "lm_head.weight": "b"}
    ranks.check_names([one, {**one, "lm_head.weight": "its own shard"}])
    said = refused(ranks.check_names, [one, {**one, "model.norm.weight": "old"}])
    assert "the weights of model.norm.weight: rank 0 has a, rank 1 has old" in said
    assert "not on both: extra" in refused(ranks.check_names, [one, {**one, "extra": "c"}])


def test_shards_are_left_out_and_layers_must_be_whole(ranks: Any) -> None:
    def is_layer(name: str) -> bool:
        return name.endswith(".0")

    answers = [
        {"layers.0": "x", "layers.0.qkv": "q0", "norm": "n", "logits_processor": "l"},
        {"layers.0": "x", "layers.0.qkv": "q1", "norm": "n"},
    ]
    assert ranks.whole(answers, is_layer) == ["layers.0", "norm", "logits_processor"]
    answers[1]["layers.0"] = "y"
    said = refused(ranks.whole, answers, is_layer)
    assert said.endswith("the output of layers.0: rank 0 has x, rank 1 has y")
