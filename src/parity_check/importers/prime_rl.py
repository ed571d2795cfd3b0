"""prime-rl's token exports: `<run>/token_exports/step_<n>/rank_<m>.jsonl`, one sequence per line.

Written with `trainer.enable_token_export = true` by src/prime_rl/trainer/rl/token_export.py
(PrimeIntellect-ai/prime-rl, schema_version 1). A line, with only the fields read here:

    {"schema_version": 1, "step": 12, "rank": 0, "export_sequence_idx": 3, "env_name": "math",
     "token_ids": [1, 17, 92, 5], "loss_mask": [false, false, true, true],
     "inference_logprobs": [0.0, 0.0, -0.31, -1.2], "trainer_logprobs": [-8.3, -2.0, -0.30, -1.22]}

All columns are aligned with `token_ids`: the trainer's logprobs are shifted right before they are
written (trainer/rl/train.py), and those outside `loss_mask` are meaningless. The trainer divides
its logits by the temperature. JSON has no NaN, so a non-finite logprob is null. Tokens of a
component without sampled logprobs (`rl_weights` and `ref_kl_weights` 0) are excluded, as in
prime-rl's own mismatch KL.

A branched rollout has several lines that are not marked. Branches start with the prompt of their
rollout, so a prompt that starts with another prompt of the export is in the same cluster. Which
lines belong to one rollout is unknown: each counts as its own sequence, as in prime-rl's loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from parity_check.errors import InputError
from parity_check.importers.dump import (
    Dumped,
    check_lengths,
    check_masks,
    json_rows,
    logprob_list,
    mask_list,
    prompt_name,
    text_or_none,
    token_list,
    wanted,
)

SCHEMA_VERSION = 1
MASKS = ("loss_mask", "is_masked", "is_masked_high", "is_masked_low")
"""`loss_mask` marks sampled tokens; the others mark what the trainer's loss clips."""
NO_EXPORT = "is this a token export (trainer.enable_token_export = true)?"


def recognise(row: Any) -> bool:
    """Whether the first line of a file is one of these."""
    return isinstance(row, dict) and "inference_logprobs" in row and "token_ids" in row


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The sequences of all files, in order. Raises InputError."""
    found = [_sequence(row, place) for path in paths for place, row in json_rows(path)]
    prompts = [each.token_ids[: _first(each.sampled)] for each in found]
    roots = _roots(prompts)
    for each, prompt in zip(found, prompts, strict=True):
        yield replace(each, prompt_id=prompt_name(roots[tuple(prompt)]))


def _first(sampled: Sequence[bool]) -> int:
    return sampled.index(True) if True in sampled else len(sampled)


def _roots(prompts: Sequence[Sequence[int]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """For each prompt, the shortest prompt that it starts with."""
    roots: dict[tuple[int, ...], tuple[int, ...]] = {}
    root: tuple[int, ...] | None = None
    for prompt in sorted({tuple(each) for each in prompts if each}):
        if root is None or prompt[: len(root)] != root:
            root = prompt
        roots[prompt] = root
    return {(): (), **roots}


def _sequence(row: dict[str, Any], place: str) -> Dumped:
    check_masks(row, MASKS, place)
    version = wanted(row, "schema_version", place, NO_EXPORT)
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{place}: token export schema {version}, but this version of parity-check reads "
            f"{SCHEMA_VERSION}"
        )
    ids = token_list(wanted(row, "token_ids", place, NO_EXPORT), "token_ids", place)
    mask = mask_list(wanted(row, "loss_mask", place), "loss_mask", place)
    sides = {
        name: logprob_list(wanted(row, name, place), name, place)
        for name in ("inference_logprobs", "trainer_logprobs")
    }
    check_lengths({"token_ids": ids, "loss_mask": mask, **sides}, place)
    streams = {name: row.get(name) for name in ("rl_weights", "ref_kl_weights")}
    stated: dict[str, Any] = {name: each for name, each in streams.items() if _stated(each)}
    if "rl_weights" in stated:
        check_lengths({"token_ids": ids, **stated}, place)
        drawn = [any(weights) for weights in zip(*stated.values(), strict=True)]
        mask = [counts and own for counts, own in zip(mask, drawn, strict=True)]
    numbers = [wanted(row, name, place) for name in ("step", "rank", "export_sequence_idx")]
    return Dumped(
        place=place,
        sample_id="step-{}/rank-{}/{}".format(*numbers),
        token_ids=ids,
        sampled=mask,
        behaviour=sides["inference_logprobs"],
        evaluating=sides["trainer_logprobs"],
        group=text_or_none(row.get("env_name")) or "",
    )


def _stated(column: Any) -> bool:
    """Whether a weight stream has values; a column of nulls means the loss mask applies."""
    return isinstance(column, list) and any(each is not None for each in column)
