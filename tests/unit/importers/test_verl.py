"""verl's batches: the V1 trainer's cache, and DataProto."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import dumps
from helpers.imported import DUMPS, imported, tokens, values
from parity_check.errors import InputError
from parity_check.importers.torch_file import Opaque, read_torch


def test_verl_text_is_refused_with_what_to_do(tmp_path: Path) -> None:
    row = {"input": "2 + 2 =", "output": " 4", "gts": "4", "score": 1.0, "step": 3}
    with pytest.raises(InputError, match="has only text, no token ids") as caught:
        imported("verl", dumps.write_lines(tmp_path / "3.jsonl", [row]))
    assert "save_to_disk" in (caught.value.hint or "")


def test_verl_refuses_another_pickle(tmp_path: Path) -> None:
    (tmp_path / "x.dp").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="not a verl DataProto"):
        imported("verl", tmp_path / "x.dp")


def batch(**changed: Any) -> dict[str, Any]:
    """Two samples: a short prompt padded on the left; a response of two turns, and a padded one."""
    tensors = {
        "prompts": np.array([[1, 2], [0, 3]]),
        "responses": np.array([[10, 11, 12], [13, 0, 0]]),
        "attention_mask": np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]]),
        "response_mask": np.array([[1, 0, 1], [1, 0, 0]]),
        "rollout_log_probs": np.array([[-1, -9, -2], [-3, 0, 0]], np.float32),
        **changed,
    }
    return {name: each for name, each in tensors.items() if each is not None}


def test_verl_padding_and_masks(tmp_path: Path) -> None:
    columns = {"uid": np.array(["u", "v"], object), "data_source": np.array(["math"] * 2, object)}
    path = dumps.verl_dump(tmp_path / "gen_batch.dp", batch(), columns)
    found = imported("verl", path)
    assert found.evaluating is None
    first, second, third = found.behaviour
    assert (first.prompt_token_ids, first.completion_token_ids) == ([1, 2], [10])
    assert (second.prompt_token_ids, second.completion_token_ids) == ([1, 2, 10, 11], [12])
    assert (third.prompt_token_ids, third.completion_token_ids) == ([3], [13])
    assert [each.prompt_id for each in found.behaviour] == ["u", "u", "v"]
    assert third.prompt_group == "math"
    assert [each.logprobs for each in found.behaviour] == [[-1.0], [-2.0], [-3.0]]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"rollout_log_probs": None}, "`rollout_log_probs` is missing"),
        ({"attention_mask": None}, "`attention_mask` is missing"),
        (
            {"old_log_probs": np.zeros((2, 2), np.float32)},
            "`old_log_probs` is 2×2, but the responses",
        ),
        ({"prompts": np.array([[1, 2], [0, -3]])}, "contains -3, which is not a token id"),
    ],
)
def test_verl_refuses(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    path = dumps.verl_dump(tmp_path / "batch.dp", batch(**changed), {})
    with pytest.raises(InputError) as caught:
        imported("verl", path)
    assert expected in caught.value.message


TQ_BATCH = DUMPS / "verl-0.9.1-v1-tq_batch.pt"


def test_the_cache_of_the_v1_trainer() -> None:
    """Its jagged tensors, read without torch: every trajectory, and every array as it is stored."""
    found = imported("verl", TQ_BATCH)
    assert (len(found.behaviour), tokens(found), found.evaluating) == (24, 464, None)
    assert len({each.prompt_id for each in found.behaviour}) == 6
    assert {each.prompt_group for each in found.behaviour} == {"gsm8k"}
    tree = read_torch(TQ_BATCH)
    stored = tree["tensordict"].arguments[1]["_tensordict"]
    for name, column in (
        ("prompts", [each.prompt_token_ids for each in found.behaviour]),
        ("responses", [each.completion_token_ids for each in found.behaviour]),
        ("rollout_log_probs", [values(each.logprobs) for each in found.behaviour]),
    ):
        assert [row.tolist() for row in stored[name]] == column, name
    assert [each.rollout_id for each in found.behaviour] == [f"step-1/{k}" for k in tree["keys"]]


def test_masks_of_a_trajectory_are_multiplied(tmp_path: Path) -> None:
    """A made-up cache: no TensorDict is needed, its state is what counts."""
    rows = {
        "prompts": [[1], [1, 2]], "responses": [[5, 6, 7], [8]],
        "response_mask": [[1, 1, 0], [1]], "loss_mask": [[1, 0, 1], [1]],
        "rollout_log_probs": [[-1.0, -2.0, -3.0], [-4.0]],
    }  # fmt: skip
    found = imported("verl", dumps.verl_cache(tmp_path / "tq_batch.pt", rows, ["a_0_0", "b_0_0"]))
    assert [each.completion_token_ids for each in found.behaviour] == [[5], [8]]
    assert [each.prompt_id for each in found.behaviour] == ["a", "b"]
    rows["rollout_log_probs"][0].pop()
    with pytest.raises(
        InputError, match="`rollout_log_probs` has 2 entries, but `responses` has 3"
    ):
        imported("verl", dumps.verl_cache(tmp_path / "short.pt", rows, ["a_0_0", "b_0_0"]))
    rows["frame_mask"] = rows["response_mask"]
    with pytest.raises(InputError, match="`frame_mask` looks like a mask"):
        imported("verl", dumps.verl_cache(tmp_path / "mask.pt", rows, ["a_0_0", "b_0_0"]))


def test_a_subclass_that_is_not_known_stays_a_shell(tmp_path: Path) -> None:
    class Other:
        def __reduce__(self) -> Any:
            return dumps.OF_TYPE, ("rebuild", "kind", (), None)

    others = {"torch._tensor": {"_rebuild_from_type_v2": dumps.OF_TYPE}}
    found = read_torch(dumps.torch_save({"x": Other()}, tmp_path / "x.pt", others))
    assert isinstance(found["x"], Opaque)
