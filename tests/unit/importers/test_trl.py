"""TRL's rollouts and its trainer's own output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import dumps
from helpers.imported import DUMPS, imported, log_ratios, tokens
from parity_check.errors import InputError


def test_trl_takes_a_batch_of_the_server(tmp_path: Path) -> None:
    """Two prompts, two completions each, and the sampled token is not the likeliest."""
    batch = {
        "prompt_ids": [[1, 2], [3]],
        "completion_ids": [[10, 11], [12], [13], [14]],
        "logprobs": [[[-0.1, -3.0], [-0.2, -0.9]], [[-0.3, -1.0]], [[None, -1.0]], [[-0.5, -0.7]]],
        "logprob_token_ids": [[[10, 99], [98, 11]], [[12, 97]], [[13, 96]], [[95, 14]]],
    }
    found = imported("trl", dumps.write_lines(tmp_path / "a.jsonl", [batch]))
    assert [each.prompt_token_ids for each in found.behaviour] == [[1, 2], [1, 2], [3], [3]]
    assert [each.logprobs for each in found.behaviour] == [[-0.1, -0.9], [-0.3], [None], [-0.7]]
    assert found.behaviour[0].top_token_ids == [[10, 99], [98, 11]]
    assert found.behaviour[2].top_token_ids == [[96]], "an entry that vLLM lost is left out"


def test_trl_masks(tmp_path: Path) -> None:
    row = {
        "prompt_ids": [1], "completion_ids": [2, 3, 4, 0], "completion_mask": [1, 1, 1, 0],
        "sampling_per_token_logps": [-1.0, -2.0, -3.0, 0.0],
        "old_per_token_logps": [-1.0, -2.0, -3.5, 0.0],
    }  # fmt: skip
    found = imported("trl", dumps.write_lines(tmp_path / "a.jsonl", [row]))
    [sample] = found.behaviour
    assert sample.completion_token_ids == [2, 3, 4], "padding is gone"
    found = imported(
        "trl", dumps.write_lines(tmp_path / "b.jsonl", [{**row, "env_mask": [1, 0, 1, 0]}])
    )
    assert [each.completion_token_ids for each in found.behaviour] == [[2], [4]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt_ids": [1], "logprobs": [-1.0]}, "`completion_ids` is missing"),
        ({"completion_ids": [1], "logprobs": [-1.0]}, "`prompt_ids` is missing"),
        ({"prompt_ids": [1], "completion_ids": [1]}, "`logprobs` is missing"),
        (
            {"prompt_ids": [1], "completion_ids": [1, 2], "logprobs": [-1.0]},
            "`logprobs` has 1 entries, but `completion` has 2",
        ),
        (
            {"prompt_ids": [1], "completion_ids": [1], "logprobs": [[-1.0, -2.0]]},
            "several `logprobs` per token, but no `logprob_token_ids`",
        ),
    ],
)
def test_trl_refuses(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        imported("trl", dumps.write_lines(tmp_path / "a.jsonl", [row]))
    assert expected in caught.value.message


TOOL_MASK = DUMPS / "trl-1.16-trainer-output-tool_mask.jsonl"
PADDED = DUMPS / "trl-1.16-trainer-output-padded-prompts.jsonl"
LOGS = json.loads((DUMPS / "trl-1.16-env-logs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [TOOL_MASK.name, "trl-1.16-rollout_func-both-sides.jsonl"])
def test_every_mask_of_the_trainer_is_applied(name: str) -> None:
    """TRL logged its own mean |Δ| of these tokens."""
    found = imported("trl", DUMPS / name)
    assert (len(found.behaviour), tokens(found), found.rollouts) == (16, 72, 8)
    mean = np.abs(log_ratios(found)).mean()
    assert mean == pytest.approx(LOGS["sampling/sampling_logp_difference/mean"], abs=2e-6)
    assert np.abs(log_ratios(found)).max() == pytest.approx(
        LOGS["sampling/sampling_logp_difference/max"], abs=1e-5
    )


def test_padding_of_prompts_goes_by_mask() -> None:
    [row] = [json.loads(line) for line in PADDED.read_text(encoding="utf-8").splitlines()]
    found = imported("trl", PADDED)
    assert tokens(found) == 62 == row["num_items_in_batch"]
    expected = [
        [token for token, own in zip(ids, mask, strict=True) if own]
        for ids, mask in zip(row["prompt_ids"], row["prompt_mask"], strict=True)
    ]
    assert [list(each.prompt_token_ids) for each in found.behaviour] == expected
    assert len({each.prompt_id for each in found.behaviour}) == 2


@pytest.mark.parametrize(
    ("path", "mask"),
    [(PADDED, "prompt_mask"), (PADDED, "completion_mask"), (TOOL_MASK, "completion_mask")],
)
def test_padding_without_its_mask_is_refused(tmp_path: Path, path: Path, mask: str) -> None:
    [row] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    del row[mask]
    with pytest.raises(InputError, match=f"there is no `{mask}`"):
        imported("trl", dumps.write_lines(tmp_path / "a.jsonl", [row]))
    columns = [key for key, column in row.items() if isinstance(column, list)]
    lines = [{key: row[key][number] for key in columns} for number in range(8)]
    with pytest.raises(InputError, match=f"there is no `{mask}`"):
        imported("trl", dumps.write_lines(tmp_path / "b.jsonl", lines))


def test_ragged_rows_need_no_mask(tmp_path: Path) -> None:
    row = {
        "prompt_ids": [[1, 1, 2], [3]], "completion_ids": [[4, 4], [5, 4]],
        "logprobs": [[-0.5, -0.25], [-1.0, -0.75]],
    }  # fmt: skip
    found = imported("trl", dumps.write_lines(tmp_path / "a.jsonl", [row]))
    assert [each.prompt_token_ids for each in found.behaviour] == [[1, 1, 2], [3]]


def test_a_completion_that_the_trainer_dropped_is_left_out(tmp_path: Path) -> None:
    """mask_truncated_completions empties the whole mask of a row."""
    row = {
        "prompt_ids": [[1], [1]], "prompt_mask": [[1], [1]],
        "completion_ids": [[2, 3], [4, 5]], "completion_mask": [[1, 1], [0, 0]],
        "sampling_per_token_logps": [[-1.0, -2.0], [-3.0, -4.0]],
    }  # fmt: skip
    found = imported("trl", dumps.write_lines(tmp_path / "a.jsonl", [row]))
    assert (tokens(found), found.unsampled) == (2, 1)
