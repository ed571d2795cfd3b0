"""From sequences to samples: one a turn, of one rollout and one cluster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.errors import InputError
from parity_check.importers.dump import Dumped
from parity_check.importers.turns import collect


def dumped(sampled: list[bool], **fields: Any) -> Dumped:
    size = len(sampled)
    logprobs = [-float(each) for each in range(size)]
    return Dumped(
        **{
            "place": "here", "sample_id": "s", "token_ids": list(range(100, 100 + size)),
            "sampled": sampled, "behaviour": logprobs, "evaluating": logprobs, **fields,
        }
    )  # fmt: skip


def test_masked_tokens_are_context_and_never_measured() -> None:
    found = collect([dumped([False, False, True, True, False, False, True])])
    first, second = found.behaviour
    assert (first.prompt_token_ids, first.completion_token_ids) == ([100, 101], [102, 103])
    assert second.prompt_token_ids == [100, 101, 102, 103, 104, 105]
    assert (second.completion_token_ids, second.logprobs) == ([106], [-6.0])
    assert (first.sample_id, second.sample_id) == ("s/turn-0", "s/turn-1")
    assert [(each.rollout_id, each.turn) for each in (first, second)] == [("s", 0), ("s", 1)]
    assert first.prompt_id == second.prompt_id, "turns of a sequence are of one cluster"
    assert (found.masked, found.sequences) == (2, 1)


def test_samples_of_a_prompt_are_found_by_their_ids() -> None:
    same = [dumped([False, True], sample_id=name) for name in "ab"]
    other = dumped([False, True], sample_id="c", token_ids=[7, 101])
    found = collect([*same, other]).behaviour
    assert [each.sample_index for each in found] == [0, 1, 0]
    assert found[0].prompt_id == found[1].prompt_id != found[2].prompt_id


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_turns_hold_every_sampled_token_once(sampled: list[bool]) -> None:
    if not any(sampled):
        with pytest.raises(InputError, match="all tokens are masked"):
            collect([dumped(sampled)])
        return
    found = collect([dumped(sampled)])
    tokens = [token for each in found.behaviour for token in each.completion_token_ids]
    assert tokens == [100 + place for place, own in enumerate(sampled) if own]
    for each in found.behaviour:
        start = each.completion_token_ids[0] - 100
        assert list(each.prompt_token_ids) == list(range(100, 100 + start))


def test_a_sequence_without_sampled_tokens_is_counted() -> None:
    found = collect([dumped([True], sample_id="a"), dumped([False], sample_id="b")])
    assert (len(found.behaviour), found.unsampled, found.sequences) == (1, 1, 2)


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([], "the dump is empty"),
        ([dumped([True]), dumped([True])], "sample s already occurred at here: the same file"),
        (
            [dumped([True]), dumped([True], token_ids=[7])],
            "with different tokens: files of two runs",
        ),
        ([dumped([True]), dumped([True], sample_id="t", evaluating=None)], "no trainer logprobs"),
    ],
)
def test_what_makes_no_trace(sequences: list[Dumped], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        collect(sequences)


def test_sequences_of_a_rollout_share_its_prompt_and_count_on() -> None:
    """A compacted rollout begins anew with another prompt, and is still one rollout."""
    first = dumped([False, True, False, True], sample_id="a", rollout_id="r")
    second = dumped([False, True], sample_id="b", rollout_id="r", token_ids=[7, 101])
    other = dumped([False, True], sample_id="c", token_ids=[7, 101])
    found = collect([first, second, other])
    assert [(each.rollout_id, each.turn) for each in found.behaviour] == [
        ("r", 0), ("r", 1), ("r", 2), ("c", 0)
    ]  # fmt: skip
    prompts = [each.prompt_id for each in found.behaviour]
    assert prompts[0] == prompts[1] == prompts[2] != prompts[3]
    assert (found.rollouts, found.sequences) == (2, 3)


def test_a_turn_is_as_old_as_its_oldest_token() -> None:
    found = collect([dumped([True, True, False, True], policy_versions=[4, 3, None, 5])])
    assert [each.policy_version for each in found.behaviour] == [3, 5]
