"""SkyRL's training batches."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import dumps
from helpers.imported import DUMPS, imported, log_ratios, tokens
from parity_check.errors import InputError

DUMP = DUMPS / "skyrl-training_input.pkl"


def batch(**changed: Any) -> dict[str, Any]:
    """Two rows, filled up on the left; the first has a tool's token in its response."""
    tensors = {
        "sequences": np.array([[1, 2, 5, 6, 7], [0, 0, 3, 8, 9]]),
        "attention_mask": np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]),
        "response_mask": np.array([[1, 1, 1], [0, 1, 1]]),
        "loss_mask": np.array([[1, 0, 1], [0, 1, 1]], np.float32),
        "rollout_logprobs": np.array([[-1, 0, -2], [0, -3, -4]], np.float32),
        "action_log_probs": np.array([[-1, -9, -2], [0, -3, -4]], np.float32),
        **changed,
    }
    return {name: each for name, each in tensors.items() if each is not None}


def test_the_batch_of_a_run() -> None:
    found = imported("skyrl", DUMP)
    assert (tokens(found), found.rollouts) == (361, 24)
    assert len({each.prompt_id for each in found.behaviour}) == 6
    # The same rollouts as in the NeMo-RL dump.
    other = imported("nemo-rl", DUMPS / "nemo-rl-train_data_step1.jsonl")
    assert [each.completion_token_ids for each in found.behaviour] == [
        each.completion_token_ids for each in other.behaviour
    ]
    assert np.allclose(log_ratios(found), log_ratios(other), atol=1e-6)


def test_padding_and_masks(tmp_path: Path) -> None:
    found = imported("skyrl", dumps.skyrl_dump(tmp_path / "a.pkl", batch()))
    assert [(s.prompt_token_ids, s.completion_token_ids) for s in found.behaviour] == [
        ([1, 2], [5]), ([1, 2, 5, 6], [7]), ([3], [8, 9])
    ]  # fmt: skip
    assert [each.logprobs for each in found.behaviour] == [[-1.0], [-2.0], [-3.0, -4.0]]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"rollout_logprobs": None}, "`rollout_logprobs` is missing"),
        ({"attention_mask": None}, "`attention_mask` is missing"),
        (
            {"attention_mask": np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])},
            "counts tokens that `attention_mask` excludes",
        ),
        ({"action_log_probs": np.zeros((2, 2), np.float32)}, "`action_log_probs` is 2×2, not 2×3"),
        ({"tool_mask": np.ones((2, 3))}, "`tool_mask` looks like a mask"),
    ],
)
def test_skyrl_refuses(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    tensors = batch(**changed)
    with pytest.raises(InputError, match=expected):
        imported("skyrl", dumps.skyrl_dump(tmp_path / "a.pkl", tensors))


@pytest.mark.parametrize("stored", [{"dtype": "O"}, {"shape": (9, 9)}, {"data": b"12"}])
def test_a_tensor_that_is_not_what_it_says(tmp_path: Path, stored: dict[str, Any]) -> None:
    path = dumps.skyrl_dump(tmp_path / "a.pkl", batch(), stored)
    with pytest.raises(InputError, match="is damaged"):
        imported("skyrl", path)


def test_another_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"batch_dict": {}}))
    with pytest.raises(InputError, match="not a SkyRL TrainingInputBatch"):
        imported("skyrl", tmp_path / "x.pkl")
