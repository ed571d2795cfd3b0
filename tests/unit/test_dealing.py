"""Requests dealt to replicas: all, once, in order, even by tokens, and elsewhere when repeated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parity_check.engines.placement.dealing import deal, tokens

LENGTHS = st.lists(st.tuples(st.integers(1, 200), st.integers(0, 200)), max_size=60)
REPLICAS = st.lists(st.integers(1, 8), min_size=1, max_size=8, unique=True)


def requests_of(lengths: list[tuple[int, int]]) -> list[dict[str, object]]:
    return [
        {"sample_id": str(n), "prompt_token_ids": [1] * prompt, "completion_token_ids": [2] * rest}
        for n, (prompt, rest) in enumerate(lengths)
    ]


@given(LENGTHS, REPLICAS)
def test_each_request_once_in_order_and_even(
    lengths: list[tuple[int, int]], replicas: list[int]
) -> None:
    requests = requests_of(lengths)
    hands = deal(requests, replicas, 7, {})
    numbers = [[int(each["sample_id"]) for each in hand] for hand in hands.values()]
    assert sorted(n for hand in numbers for n in hand) == list(range(len(requests)))
    assert all(hand == sorted(hand) for hand in numbers)
    loads = [sum(tokens(each, 7) for each in hands.get(r, [])) for r in replicas]
    largest = max((tokens(each, 7) for each in requests), default=0)
    assert max(loads) - min(loads) <= largest


@given(LENGTHS, st.integers(2, 5))
def test_what_is_repeated_goes_to_another_replica(
    lengths: list[tuple[int, int]], count: int
) -> None:
    requests, replicas = requests_of(lengths), list(range(count))
    first = {
        each["sample_id"]: replica
        for replica, hand in deal(requests, replicas, 7, {}).items()
        for each in hand
    }
    again = deal(requests, replicas, 7, first)
    for replica, hand in again.items():
        assert all(first[each["sample_id"]] != replica for each in hand)


def test_one_replica_repeats_its_own() -> None:
    requests = requests_of([(3, 4), (5, 6)])
    assert deal(requests, [4], 0, {"0": 4, "1": 4}) == {4: requests}


def test_tokens_that_are_not_sampled_yet_count_as_the_most() -> None:
    assert tokens({"prompt_token_ids": [1, 2]}, 64) == 66
    assert tokens({"prompt_token_ids": [1], "completion_token_ids": [1, 2]}, 64) == 3
