"""open-instruct's rollouts: `<rollouts_save_path>/<run>_rollouts_<shard>.jsonl`.

Written with `--save_traces` by open_instruct/rl_utils.py, RolloutRecord (allenai/open-instruct):

    {"step": 3, "sample_idx": 5, "prompt_idx": 1, "prompt_tokens": [1, 17],
     "response_tokens": [92, 5], "logprobs": [-0.31, -1.2], "finish_reason": "stop",
     "dataset": "gsm8k", "request_info": {"num_calls": 0, "tool_calleds": false}}

Only the rollout engine's side. There is no tool mask: in a rollout that called a tool it is unknown
which tokens the tool wrote, so such rollouts are rejected. NaN logprobs are kept, to be counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity_check.errors import InputError
from parity_check.importers.dump import (
    Dumped,
    check_lengths,
    check_masks,
    json_rows,
    logprob_list,
    text_or_none,
    token_list,
    wanted,
)

NO_LOGPROBS = "the engine returned none for this rollout"
NO_TOOL_MASK = "remove these lines, or dump a run without tools"


def recognise(row: Any) -> bool:
    """Whether the first line of a file is one of these."""
    return isinstance(row, dict) and "response_tokens" in row and "prompt_tokens" in row


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The rollouts of all files, in order. Raises InputError."""
    for path in paths:
        for place, row in json_rows(path):
            yield _sequence(row, place)


def _sequence(row: Mapping[str, Any], place: str) -> Dumped:
    check_masks(row, (), place)
    prompt = token_list(wanted(row, "prompt_tokens", place), "prompt_tokens", place)
    response = token_list(wanted(row, "response_tokens", place), "response_tokens", place)
    found = wanted(row, "logprobs", place, NO_LOGPROBS)
    logprobs = logprob_list(found, "logprobs", place)
    check_lengths({"response_tokens": response, "logprobs": logprobs}, place)
    before: list[float | None] = [None] * len(prompt)
    info = row.get("request_info")
    if isinstance(info, dict) and (info.get("num_calls") or info.get("tool_calleds")):
        raise InputError(
            f"{place}: a rollout with tool calls, and the format has no tool mask: it is unknown "
            "which tokens the policy sampled",
            hint=NO_TOOL_MASK,
        )
    step, sample, prompt_number = (
        wanted(row, name, place) for name in ("step", "sample_idx", "prompt_idx")
    )
    return Dumped(
        place=place,
        sample_id=f"step-{step}/{sample}",
        token_ids=[*prompt, *response],
        sampled=[False] * len(prompt) + [True] * len(response),
        behaviour=before + logprobs,
        evaluating=None,
        prompt_id=f"step-{step}/prompt-{prompt_number}",
        group=text_or_none(row.get("dataset")) or "",
        finish_reason=text_or_none(row.get("finish_reason")),
    )
