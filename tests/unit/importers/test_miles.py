"""miles' train data, a file a rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import dumps
from helpers.imported import SAMPLES, imported
from parity_check.errors import InputError


def shard(path: Path, indices: list[int], **changed: Any) -> Path:
    """Two tokens of a response each, after a prompt of one."""
    size = len(indices)
    columns: dict[str, Any] = {
        "tokens": [np.array([1, 10 + index, 20 + index]) for index in indices],
        "response_lengths": [2] * size, "loss_masks": [np.ones(2, np.int32)] * size,
        "rollout_log_probs": [np.full(2, -0.5, np.float32)] * size,
        "log_probs": [np.full(2, -0.25, np.float32)] * size,
        "sample_indices": indices, "rollout_ids": indices,
        "raw_reward": [1.0] * 8,
    }  # fmt: skip
    layout = {"rollout_id": 3, "rank": 0, "cp_rank": 0, "cp_size": 1, "qkv_format": "thd"}
    layout |= {name: value for name, value in changed.items() if name in layout}
    columns |= {name: value for name, value in changed.items() if name not in layout}
    return dumps.torch_save({**layout, "rollout_data": columns}, path)


def test_ranks_that_hold_the_same_samples(tmp_path: Path) -> None:
    held = ([0, 1], [0, 1], [2])
    paths = [shard(tmp_path / f"3_{rank}.pt", own) for rank, own in enumerate(held)]
    found = imported("miles", *paths)
    assert [each.completion_token_ids for each in found.behaviour] == [[10, 20], [11, 21], [12, 22]]
    assert found.evaluating is not None
    assert found.evaluating[0].logprobs == [-0.25, -0.25]


def test_rollout_data_is_read_as_slimes(tmp_path: Path) -> None:
    path = dumps.slime_dump(tmp_path / "3.pt", [dumps.slime_rollout([1], [2, 3])], trained=False)
    assert imported("miles", path).behaviour == imported("slime", path).behaviour
    assert imported("miles", SAMPLES / "slime.pt").rollouts == 24


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"cp_size": 2}, "slices of sequences .context parallelism over 2 ranks"),
        ({"log_probs": None}, "`log_probs` is missing"),
        ({"tokens": None}, "`tokens` is missing"),
        ({"loss_masks": [np.ones(2, np.int32)]}, "`loss_masks` has 1 rows, `tokens` has 2"),
        ({"router_masks": [1, 1]}, "`router_masks` looks like a mask"),
    ],
)
def test_miles_refuses(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        imported("miles", shard(tmp_path / "3_0.pt", [0, 1], **changed))
