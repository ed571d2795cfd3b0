"""Ids that one engine never allows, and logprobs read a prompt too late: each is named, no other.

Thresholds were chosen on other seeds than these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.synthetic import WORDS, Engine, Pair, Rows, Text, diagnosis_of
from parity_check.diagnosis.findings import Diagnosis
from parity_check.traces.batch import SampleBatch

SEEDS = (401, 402, 403)
NOISE = 0.005
END = 1
Flags = NDArray[np.bool_]


def masking(ids: Callable[[Text], Flags]) -> Engine:
    """An engine that gives some ids [tokens, WORDS] no probability."""

    def compute(_: np.random.Generator, text: Text, logits: Rows) -> Rows:
        return np.where(ids(text), -np.inf, logits)

    return Engine(noise=NOISE, compute=compute)


def these(*ids: int) -> Callable[[Text], Flags]:
    return lambda text: (
        np.isin(np.arange(WORDS), ids)[None, :] & np.ones((len(text.tokens), 1), bool)
    )


def ends_before(least: int) -> Callable[[Text], Flags]:
    def ids(text: Text) -> Flags:
        early = np.arange(len(text.tokens)) < least
        return early[:, None] & (np.arange(WORDS) == END)[None, :]

    return ids


MASKS = {
    "two bad words": ("forbidden_ids", these(5, 17)),
    "ten bad words": ("forbidden_ids", these(*range(4, 14))),
    "allowed ids": ("allowed_ids", these(*range(12, WORDS))),
    "min tokens": ("min_tokens", ends_before(20)),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("samplers", [("reference",), ("candidate",), ("reference", "candidate")])
@pytest.mark.parametrize("role", ["reference", "candidate"])
@pytest.mark.parametrize("mask", MASKS)
def test_a_mask_is_named_first(mask: str, role: str, samplers: tuple[str, ...], seed: int) -> None:
    cause, ids = MASKS[mask]
    sides = {"reference": Engine(), "candidate": Engine(noise=NOISE), role: masking(ids)}
    found = diagnosis_of(Pair(**sides, samplers=samplers), seed).findings  # type: ignore[arg-type]
    assert found[0].cause == cause
    assert found[0].engine == role


def test_the_forbidden_ids_are_listed() -> None:
    [finding] = diagnosis_of(Pair(candidate=masking(these(5, 17))), 401).findings
    assert "the ids 5, 17" in finding.claim


@pytest.mark.parametrize("asked", [{"top_p": 0.7}, {"top_k": 4}, {"min_p": 0.1}])
@pytest.mark.parametrize("prompts", [3, 24])
def test_truncation_is_no_mask(asked: dict[str, float], prompts: int) -> None:
    truncated = Engine(noise=NOISE, sampling=asked)
    pair = Pair(candidate=truncated, prompts=prompts, samplers=("reference",))
    assert not masks_in(diagnosis_of(pair, 401))


def masks_in(found: Diagnosis) -> set[str]:
    return {each.cause for each in found.findings} & {cause for cause, _ in MASKS.values()}


def late(own: SampleBatch, other: SampleBatch) -> tuple[SampleBatch, SampleBatch]:
    """The evaluating side's list begins with the logprobs of the prompt."""
    values = other.logprobs.copy()
    rng = np.random.default_rng(0)
    for number, (first, last) in enumerate(zip(own.starts[:-1], own.starts[1:], strict=True)):
        prompt = int(np.diff(own.prompt_starts)[number])
        whole = np.concatenate([-rng.exponential(2.0, prompt), other.logprobs[first:last]])
        values[first:last] = whole[: last - first]
    return own, replace(other, logprobs=values)


def early(own: SampleBatch, other: SampleBatch) -> tuple[SampleBatch, SampleBatch]:
    """The evaluating side leaves out the length of the prompt twice."""
    values = np.full_like(other.logprobs, np.nan)
    for number, (first, last) in enumerate(zip(own.starts[:-1], own.starts[1:], strict=True)):
        prompt = int(np.diff(own.prompt_starts)[number])
        rest = other.logprobs[first + prompt : last]
        values[first : first + len(rest)] = rest
    return own, replace(other, logprobs=values)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("top", [5, 0])
@pytest.mark.parametrize(("edit", "side"), [(late, "candidate"), (early, "reference")])
def test_logprobs_read_at_the_wrong_place(
    edit: Callable[[SampleBatch, SampleBatch], tuple[SampleBatch, SampleBatch]],
    side: str,
    top: int,
    seed: int,
) -> None:
    pair = Pair(
        candidate=Engine(noise=NOISE), samplers=("reference",), top=top, prompt_length=(4, 20),
        edit=edit,
    )  # fmt: skip
    found = diagnosis_of(pair, seed).findings[0]
    assert found.cause == "shifted_by_prompt"
    assert found.claim.startswith(f"The {side}'s logprobs are later")


def with_tokenizer(size: int) -> Engine:
    return Engine(noise=NOISE, facts={"model": {"tokenizer_size": size, "vocab_size": WORDS}})


def test_ids_beyond_the_tokenizer_are_a_remark() -> None:
    padded = with_tokenizer(WORDS - 4)
    [finding] = diagnosis_of(Pair(reference=padded, candidate=padded), 401, "parity").findings
    assert (finding.cause, finding.remark) == ("beyond_tokenizer", True)
    assert f"{WORDS - 4} of {WORDS} rows" in finding.claim


def test_a_vocabulary_without_padding_is_no_remark() -> None:
    whole = with_tokenizer(WORDS)
    assert not diagnosis_of(Pair(reference=whole, candidate=whole), 401, "parity").findings
