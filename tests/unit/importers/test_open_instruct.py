"""open-instruct's rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers import dumps
from helpers.imported import imported
from parity_check.errors import InputError


def test_a_rollout(tmp_path: Path) -> None:
    line = dumps.open_instruct([1, 2], [3, 4], logprobs=[-0.5, float("nan")])
    found = imported("open-instruct", dumps.write_lines(tmp_path / "a.jsonl", [line]))
    [sample] = found.behaviour
    assert found.evaluating is None
    assert (sample.sample_id, sample.prompt_id) == ("step-3/5", "step-3/prompt-1")
    assert (sample.prompt_token_ids, sample.completion_token_ids) == ([1, 2], [3, 4])
    assert str(sample.logprobs) == "[-0.5, nan]", "to be counted, not dropped"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"logprobs": None}, "`logprobs` is missing"),
        ({"logprobs": [-1.0]}, "`logprobs` has 1 entries, but `response_tokens` has 2"),
        ({"request_info": {"num_calls": 1}}, "with tool calls, and the format has no tool mask"),
        ({"request_info": {"tool_calleds": True}}, "with tool calls"),
    ],
)
def test_open_instruct_refuses(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    line = dumps.open_instruct([1], [2, 3], **changed)
    with pytest.raises(InputError, match=expected):
        imported("open-instruct", dumps.write_lines(tmp_path / "a.jsonl", [line]))
