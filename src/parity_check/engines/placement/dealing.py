"""Which replica gets which requests: by tokens, and for a repeated request another replica."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Request = Mapping[str, Any]


def tokens(request: Request, new_tokens: int) -> int:
    """The tokens that an engine computes for a request: given ones, else at most `new_tokens`."""
    return len(request["prompt_token_ids"]) + (
        len(request.get("completion_token_ids") or ()) or new_tokens
    )


def deal(
    requests: Sequence[Request],
    replicas: Sequence[int],
    new_tokens: int,
    before: Mapping[str, int],
) -> dict[int, list[Request]]:
    """Give each request to the replica with the fewest tokens so far; the first of equal ones.

    `before` has the replica that ran a sample first: another one gets it now, if there is one, so
    that an A/A run also holds the noise between replicas. The order of requests is kept.
    """
    hands: dict[int, list[Request]] = {replica: [] for replica in replicas}
    load = dict.fromkeys(replicas, 0)
    for request in requests:
        others = [each for each in replicas if each != before.get(request["sample_id"])]
        chosen = min(others or replicas, key=load.__getitem__)
        hands[chosen].append(request)
        load[chosen] += tokens(request, new_tokens)
    return {replica: hand for replica, hand in hands.items() if hand}
