"""prime-rl's token exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers import dumps
from helpers.imported import imported
from parity_check.errors import InputError


def test_prime_rl_keeps_what_is_wrong_for_the_counts(tmp_path: Path) -> None:
    line = dumps.prime_rl([1], [2, 3, 4], [None, -9999.0, -0.5], [-0.1, -0.2, None])
    found = imported("prime-rl", dumps.write_lines(tmp_path / "rank_0.jsonl", [line]))
    [sample] = found.behaviour
    assert sample.logprobs == [None, -9999.0, -0.5]
    assert sample.sample_id == "step-12/rank-0/0"
    assert sample.prompt_group == "math"


def test_prime_rl_leaves_out_tokens_of_other_components(tmp_path: Path) -> None:
    """As its own mismatch KL does: a token counts where rl or ref_kl weigh it."""
    streams = {"rl_weights": [1, 1, 0, 0], "ref_kl_weights": [0, 0, 0, 1]}
    line = dumps.prime_rl([1], [2, 3, 4], [-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], **streams)
    found = imported("prime-rl", dumps.write_lines(tmp_path / "a.jsonl", [line]))
    assert [each.completion_token_ids for each in found.behaviour] == [[2], [4]]
    line["rl_weights"] = [None] * 4
    found = imported("prime-rl", dumps.write_lines(tmp_path / "b.jsonl", [line]))
    assert [each.completion_token_ids for each in found.behaviour] == [[2, 3, 4]]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"token_ids": None}, "line 1: `token_ids` is missing"),
        ({"trainer_logprobs": None}, "line 1: `trainer_logprobs` is missing"),
        ({"trainer_logprobs": [0.0]}, "`trainer_logprobs` has 1 entries, but `token_ids` has 3"),
        ({"inference_logprobs": "low"}, "`inference_logprobs` is not a list of logprobs"),
        ({"inference_logprobs": [0, 0, "x"]}, "contains 'x', which is not a logprob"),
        ({"token_ids": [1, 2, -1]}, "contains -1, which is not a token id"),
        ({"token_ids": [1, 2, 2**31]}, "which is not a token id"),
        ({"token_ids": [1, 2, 2.5]}, "which is not a token id"),
        ({"loss_mask": [0, 1, 2]}, "`loss_mask` is not a list of 0 and 1"),
        ({"schema_version": 2}, "token export schema 2, but this version of parity-check reads 1"),
    ],
)
def test_prime_rl_refuses(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    line = dumps.prime_rl([1], [2, 3], [-1.0, -2.0], [-1.0, -2.0]) | change
    with pytest.raises(InputError) as caught:
        imported("prime-rl", dumps.write_lines(tmp_path / "rank_0.jsonl", [line]))
    assert expected in caught.value.message


def test_branches_of_a_rollout_are_one_cluster(tmp_path: Path) -> None:
    """A branch begins with the prompt of its rollout; another prompt is another cluster."""
    lines = [
        dumps.prime_rl(prompt, [9], [-1.0], [-1.0], export_sequence_idx=number)
        for number, prompt in enumerate(([1, 2], [1, 2, 5, 6], [1, 3], [1, 2, 7]))
    ]
    found = imported("prime-rl", dumps.write_lines(tmp_path / "a.jsonl", lines)).behaviour
    first, branch, other, second = (each.prompt_id for each in found)
    assert first == branch == second != other
    assert [each.sample_index for each in found] == [0, 1, 0, 2]
