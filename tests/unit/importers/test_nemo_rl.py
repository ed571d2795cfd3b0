"""NeMo-RL's training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import dumps
from helpers.imported import DUMPS, imported, log_ratios, tokens
from parity_check.errors import InputError


def test_the_training_data_of_a_run() -> None:
    found = imported("nemo-rl", DUMPS / "nemo-rl-train_data_step1.jsonl")
    assert (tokens(found), found.rollouts) == (361, 24)
    assert len({each.prompt_id for each in found.behaviour}) == 6
    assert np.abs(log_ratios(found)).mean() == pytest.approx(0.06096270905860142)


def test_padding_ends_where_the_input_does(tmp_path: Path) -> None:
    line = dumps.nemo_rl([1, 2], [3, 4], width=9)
    [sample] = imported("nemo-rl", dumps.write_lines(tmp_path / "a.jsonl", [line])).behaviour
    assert (sample.prompt_token_ids, sample.completion_token_ids) == ([1, 2], [3, 4])


def test_a_sample_that_the_loss_drops_is_left_out(tmp_path: Path) -> None:
    lines = [
        dumps.nemo_rl([1], [2], width=4),
        dumps.nemo_rl([1], [3], width=4, idx=1, sample_loss_mask=[0.0]),
    ]
    found = imported("nemo-rl", dumps.write_lines(tmp_path / "a.jsonl", lines))
    assert (tokens(found), found.unsampled) == (1, 1)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"prev_logprobs": None}, "`prev_logprobs` is missing"),
        ({"input_lengths": [9]}, "an input length of 9, but only 5 tokens"),
        ({"input_lengths": [2]}, "counts tokens beyond `input_lengths`"),
        ({"prev_logprobs": [[0.0]]}, "`prev_logprobs` has 1 entries, but `token_ids` has 5"),
        ({"token_loss_mask": [[0, 2, 1, 0, 0]]}, "`token_loss_mask` is not a list of 0 and 1"),
    ],
)
def test_nemo_rl_refuses(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    line = dumps.nemo_rl([1], [2, 3], width=5) | changed
    with pytest.raises(InputError, match=expected):
        imported("nemo-rl", dumps.write_lines(tmp_path / "a.jsonl", [line]))
