"""slime's train data and rollout data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import dumps
from helpers.imported import DUMPS, imported, tokens
from parity_check.errors import InputError


def test_slime_train_data_has_both_sides(tmp_path: Path) -> None:
    sample = dumps.slime_train(
        [1, 2], [3, 4, 5], loss_masks=np.array([1, 0, 1], np.int32), truncated=1
    )
    found = imported("slime", dumps.slime_dump(tmp_path / "3.pt", [sample]))
    assert [each.completion_token_ids for each in found.behaviour] == [[3], [5]]
    assert found.evaluating is not None
    assert [each.logprobs for each in found.evaluating] == [[-0.25], [-0.25]]
    assert [each.finish_reason for each in found.behaviour] == [None, "length"]


def test_slime_rollout_data_has_one(tmp_path: Path) -> None:
    dump = dumps.slime_dump(tmp_path / "3.pt", [dumps.slime_rollout([1], [2, 3])], trained=False)
    [sample] = (found := imported("slime", dump)).behaviour
    assert found.evaluating is None
    assert (sample.prompt_id, sample.policy_version) == ("rollout-3/group-4", 7)
    assert (sample.finish_reason, sample.text) == ("length", " 4")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"rollout_log_probs": None}, "sample 0: `rollout_log_probs` is missing"),
        ({"log_probs": np.zeros(1, np.float32)}, "`log_probs` has 1 entries"),
        ({"response_lengths": 9}, "a response length of 9 in a sequence of 4"),
        ({"tokens": np.zeros((2, 2), np.int64)}, "which is not a token id"),
    ],
)
def test_slime_refuses(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    sample = dumps.slime_train([1, 2], [3, 4], **change)
    with pytest.raises(InputError) as caught:
        imported("slime", dumps.slime_dump(tmp_path / "3.pt", [sample]))
    assert expected in caught.value.message


@pytest.mark.parametrize("name", ["slime-compact-train.pt", "slime-compact-rollout.pt"])
def test_a_compacted_rollout_is_one_rollout(name: str) -> None:
    """36 samples, which are 12 rollouts of 3 prompts, whichever of the two files says so."""
    found = imported("slime", DUMPS / name)
    assert (len(found.behaviour), tokens(found)) == (36, 617)
    assert len({each.rollout_id for each in found.behaviour}) == found.rollouts == 12
    assert len({each.prompt_id for each in found.behaviour}) == 3
    assert [each.turn for each in found.behaviour[:6]] == [0, 1, 2, 0, 1, 2]


def test_a_sample_that_ended_before_its_first_token_is_counted(tmp_path: Path) -> None:
    empty = dumps.slime_rollout([5, 6, 7], [], rollout_log_probs=None, group_index=None)
    path = dumps.slime_dump(
        tmp_path / "4.pt", [dumps.slime_rollout([1], [2]), empty], trained=False
    )
    found = imported("slime", path)
    assert (len(found.behaviour), found.unsampled, found.sequences) == (1, 1, 2)
    lost = dumps.slime_rollout([1], [2], rollout_log_probs=None)
    path = dumps.slime_dump(tmp_path / "5.pt", [lost], trained=False)
    with pytest.raises(InputError, match="sample 0: `rollout_log_probs` is missing"):
        imported("slime", path)


def test_evaluation_and_training_of_a_number_are_taken_apart(tmp_path: Path) -> None:
    train, evaluation = (
        dumps.slime_dump(tmp_path / name, [dumps.slime_rollout(prompt, [3])], trained=False)
        for name, prompt in (("3.pt", [1]), ("eval_3.pt", [2]))
    )
    found = imported("slime", train, evaluation)
    assert [each.sample_id for each in found.behaviour] == ["rollout-3/0", "rollout-3-eval_3/0"]
    assert len({each.prompt_id for each in found.behaviour}) == 2
    with pytest.raises(InputError, match="the same file twice"):
        imported("slime", train, train)
    (tmp_path / "other").mkdir()
    sample = dumps.slime_rollout([4], [3])
    other = dumps.slime_dump(tmp_path / "other" / "3.pt", [sample], trained=False)
    with pytest.raises(
        InputError, match="rollout-3 occurred already, with different samples: files of two runs"
    ):
        imported("slime", train, other)


def test_each_turn_has_the_version_of_its_call(tmp_path: Path) -> None:
    sample = dumps.slime_rollout([1], [2, 3, 4], loss_mask=[1, 0, 1], weight_versions=["7", "8"])
    path = dumps.slime_dump(tmp_path / "3.pt", [sample], trained=False)
    assert [each.policy_version for each in imported("slime", path).behaviour] == [7, 8]


def test_a_newer_dump_is_refused(tmp_path: Path) -> None:
    tree = {"format_version": 3, "rollout_id": 1, "samples": [dumps.slime_train([1], [2])]}
    with pytest.raises(InputError, match="slime train dump version 3"):
        imported("slime", dumps.torch_save(tree, tmp_path / "1.pt"))
