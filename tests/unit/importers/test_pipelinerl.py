"""PipelineRL's actor stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers import dumps
from helpers.imported import DUMPS, imported, tokens
from parity_check.errors import InputError


def stream(path: Path, *texts: dict[str, Any]) -> Path:
    return dumps.write_lines(path, [list(texts)])


def test_the_stream_of_a_run() -> None:
    found = imported("pipelinerl", DUMPS / "pipelinerl-streams-actor.jsonl")
    assert (tokens(found), found.rollouts, found.evaluating) == (361, 24, None)
    assert len({each.prompt_id for each in found.behaviour}) == 6
    assert {each.policy_version for each in found.behaviour} == {3}
    first = found.behaviour[0]
    assert (len(first.prompt_token_ids), first.logprobs[0]) == (7, -0.7640665173530579)


def test_labels_say_what_was_sampled_and_logprobs_skip_the_rest(tmp_path: Path) -> None:
    text = dumps.pipelinerl(
        [1], [2, 3, 4], labels=[-100, 2, -100, 4], logprobs=[-1.0, -2.0],
        metadata={"model_version": [5, 4], "rollout_index": 0, "step_index": 0},
    )  # fmt: skip
    found = imported("pipelinerl", stream(tmp_path / "0.jsonl", text))
    assert [(s.completion_token_ids, s.logprobs) for s in found.behaviour] == [
        ([2], [-1.0]), ([4], [-2.0])
    ]  # fmt: skip
    assert [each.policy_version for each in found.behaviour] == [5, 4]


def test_texts_of_a_rollout_are_its_turns(tmp_path: Path) -> None:
    texts = [
        dumps.pipelinerl(prompt, [9], metadata={"rollout_index": rollout, "step_index": step})
        for rollout, step, prompt in ((0, 0, [1]), (0, 1, [1, 9, 2]), (1, 0, [1]))
    ]
    found = imported("pipelinerl", stream(tmp_path / "0.jsonl", *texts))
    assert [(each.rollout_id, each.turn) for each in found.behaviour] == [
        ("g0/0", 0), ("g0/0", 1), ("g0/1", 0)
    ]  # fmt: skip
    assert {each.prompt_id for each in found.behaviour} == {"g0"}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"labels": [-100, 2]}, "`labels` has 2 entries, but `input_ids` has 3"),
        ({"logprobs": []}, "`logprobs` is empty"),
        ({"logprobs": [-1.0] * 3}, "`logprobs` has 3 entries, but `labels` has 2 sampled tokens"),
        ({"labels": [-100, 2, 7]}, "a label of 7 at token 3"),
        ({"metadata": {"model_version": [1]}}, "`model_version` is not one number per sampled"),
    ],
)
def test_pipelinerl_refuses(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    text = dumps.pipelinerl([1], [2, 3], **changed)
    with pytest.raises(InputError, match=expected):
        imported("pipelinerl", stream(tmp_path / "0.jsonl", text))
