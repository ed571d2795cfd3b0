"""Responses of an OpenAI-compatible server."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import dumps
from helpers.imported import imported, values
from parity_check.errors import InputError


def test_a_chat_response(tmp_path: Path) -> None:
    found = imported("openai", dumps.write_lines(tmp_path / "a.jsonl", [dumps.chat()]))
    [sample] = found.behaviour
    assert (sample.prompt_token_ids, sample.completion_token_ids) == ([1, 2], [52, 46])
    assert sample.logprobs == [-0.25, -9999.0]
    assert (sample.text, sample.finish_reason) == ("4.", "stop")
    assert found.texts == {52: "4", 46: "."}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([dumps.chat(token_ids=None)], "`token_ids` is missing"),
        ([dumps.chat(token_ids=[52])], "`token_logprobs` has 2 entries, but `token_ids` has 1"),
        ([dumps.chat(logprobs=None)], "`logprobs` is missing"),
        ([{**dumps.chat(), "prompt_token_ids": None}], "`prompt_token_ids` is missing"),
        (
            [dumps.chat(), {**dumps.chat(), "model": "other"}],
            "line 2: a response of model other, but earlier ones are of model tiny",
        ),
        ([{"error": {"message": "no"}}], "`choices` is missing"),
    ],
)
def test_openai_refuses(tmp_path: Path, rows: list[Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        imported("openai", dumps.write_lines(tmp_path / "a.jsonl", rows))
    assert expected in caught.value.message


def test_logprobs_survive_exactly(tmp_path: Path) -> None:
    """A float32 that was written as JSON comes back as the same float32."""
    exact = [float(np.float32(-math.pi)), float(np.float32(-1e-7))]
    line = json.loads(json.dumps(dumps.prime_rl([1], [2, 3], exact, exact)))
    found = imported("prime-rl", dumps.write_lines(tmp_path / "a.jsonl", [line]))
    assert values(found.behaviour[0].logprobs) == exact
