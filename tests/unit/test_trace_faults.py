"""Faults between an engine and its trace, injected into synthetic pairs: the cause is named first.

Thresholds were chosen on other seeds than these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.synthetic import WORDS, Engine, Pair, case_of, diagnosis_of
from parity_check.diagnosis.case import Case
from parity_check.diagnosis.diagnose import diagnose
from parity_check.traces.batch import SampleBatch

Values = NDArray[np.float64]
Edit = Callable[[SampleBatch, SampleBatch, np.random.Generator], Values]
"""New logprobs of the edited side, from its batch and the other one."""
SEEDS = (301, 302, 303)
NOISE = 0.005


def per_token(function: Callable[[Values], Values]) -> Edit:
    return lambda own, _, __: function(own.logprobs.astype(np.float64))


def per_sample(function: Callable[[Values], Values]) -> Edit:
    def edit(own: SampleBatch, _: SampleBatch, __: np.random.Generator) -> Values:
        values = own.logprobs.astype(np.float64)
        for first, last in zip(own.starts[:-1], own.starts[1:], strict=True):
            values[first:last] = function(values[first:last])
        return values

    return edit


def argmax(own: SampleBatch, _: SampleBatch, __: np.random.Generator) -> Values:
    assert own.top_logprobs is not None
    return np.maximum(own.logprobs, own.top_logprobs.max(axis=1)).astype(np.float64)


def appended_eos(own: SampleBatch, _: SampleBatch, __: np.random.Generator) -> Values:
    values = own.logprobs.astype(np.float64)
    values[own.starts[1:] - 1] = 0.0
    return values


def first_token(own: SampleBatch, _: SampleBatch, rng: np.random.Generator) -> Values:
    values = own.logprobs.astype(np.float64)
    values[own.starts[:-1]] = -rng.exponential(3.0, len(own.starts) - 1)
    return values


def last_token(own: SampleBatch, _: SampleBatch, rng: np.random.Generator) -> Values:
    values = own.logprobs.astype(np.float64)
    values[own.starts[1:] - 1] = -rng.exponential(3.0, len(own.starts) - 1)
    return values


def burst(own: SampleBatch, _: SampleBatch, rng: np.random.Generator) -> Values:
    values = own.logprobs.astype(np.float64)
    for first, last in list(zip(own.starts[:-1], own.starts[1:], strict=True))[4:10]:
        values[first:last] -= rng.exponential(1.5, last - first)
    return values


def swapped(own: SampleBatch, _: SampleBatch, __: np.random.Generator) -> Values:
    """Pairs of samples have each other's logprobs, cut off or repeated to their length."""
    values = own.logprobs.astype(np.float64)
    rows = [values[a:b].copy() for a, b in zip(own.starts[:-1], own.starts[1:], strict=True)]
    for one in range(0, 12, 2):
        for to, source in ((one, one + 1), (one + 1, one)):
            first, last = own.starts[to], own.starts[to + 1]
            values[first:last] = np.resize(rows[source], last - first)
    return values


def isolated_zeros(own: SampleBatch, _: SampleBatch, rng: np.random.Generator) -> Values:
    return np.where(rng.random(len(own.logprobs)) < 0.02, 0.0, own.logprobs).astype(np.float64)


def to_bfloat16(values: Values) -> Values:
    bits = values.astype(np.float32).view(np.uint32) + np.uint32(0x8000)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


FAULTS: dict[str, tuple[str, Edit]] = {
    "base 2": ("other_base", per_token(lambda v: v / np.log(2.0))),
    "base 10": ("other_base", per_token(lambda v: v / np.log(10.0))),
    "negated": ("negated", per_token(np.negative)),
    "probabilities": ("negated", per_token(np.exp)),
    "cumulated": ("summed", per_sample(np.cumsum)),
    "the sum at every token": ("summed", per_sample(lambda v: np.full(len(v), v.sum()))),
    "divided by the length": ("averaged", per_sample(lambda v: v / len(v))),
    "the mean at every token": ("averaged", per_sample(lambda v: np.full(len(v), v.mean()))),
    "argmax": ("argmax", argmax),
    "clamped": ("clamped", per_token(lambda v: np.maximum(v, -4.0))),
    "1 decimal": ("rounded", per_token(lambda v: np.round(v, 1))),
    "2 decimals": ("rounded", per_token(lambda v: np.round(v, 2))),
    "bfloat16": ("rounded", per_token(to_bfloat16)),
    "isolated zeros": ("isolated_zeros", isolated_zeros),
    "first token": ("first_token", first_token),
    "last token": ("last_token", last_token),
    "burst": ("outlier_samples", burst),
    "swapped samples": ("swapped_samples", swapped),
}


def faulty(edit: Edit, side: int, top: int, seed: int, **workload: Any) -> Case:
    """A pair of which one side was edited; without alternatives if `top` is 0."""
    rng = np.random.default_rng(seed)

    def edited(own: SampleBatch, other: SampleBatch) -> tuple[SampleBatch, SampleBatch]:
        batches = [own, other]
        values = edit(batches[side], batches[1 - side], rng)
        batches[side] = replace(batches[side], logprobs=values.astype(np.float32))
        if not top:
            batches = [replace(each, top_token_ids=None, top_logprobs=None) for each in batches]
        return batches[0], batches[1]

    pair = Pair(candidate=Engine(noise=NOISE), samplers=("reference",), edit=edited, **workload)
    return case_of(pair, seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("top", [5, 0], ids=["top-5", "no-top"])
@pytest.mark.parametrize("side", [0, 1], ids=["reference", "candidate"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_named_first(fault: str, side: int, top: int, seed: int) -> None:
    cause, edit = FAULTS[fault]
    found = diagnose(faulty(edit, side, top, seed), "drift").findings
    assert [each.cause for each in found if not each.remark] == [cause]
    assert found[0].engine in (None, ("reference", "candidate")[side])


@pytest.mark.parametrize("seed", SEEDS)
def test_an_appended_eos_is_told_from_a_sampled_one(seed: int) -> None:
    def same_end(own: SampleBatch, other: SampleBatch) -> tuple[SampleBatch, SampleBatch]:
        ids = own.token_ids.copy()
        ids[own.starts[1:] - 1] = 1
        values = own.logprobs.copy()
        values[own.starts[1:] - 1] = 0.0
        return replace(own, token_ids=ids, logprobs=values), replace(other, token_ids=ids)

    pair = Pair(candidate=Engine(noise=NOISE), samplers=("reference",), edit=same_end, top=0)
    [finding] = diagnosis_of(pair, seed).findings
    assert (finding.cause, finding.engine, finding.confidence) == (
        "appended_eos", "reference", "high"
    )  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("top", [5, 0])
def test_one_kept_token_is_no_padding(top: int, seed: int) -> None:
    """The reference samples with a top_p near 0."""
    sampled = Engine(sampling={"top_p": 1e-4})
    pair = Pair(reference=sampled, samplers=("reference",), top=top, spread=1.5)
    assert diagnosis_of(pair, seed).findings[0].cause == "one_token_kept"


@pytest.mark.parametrize("seed", SEEDS)
def test_truncation_is_seen_without_alternatives(seed: int) -> None:
    truncated = Engine(noise=NOISE, sampling={"top_p": 0.8})
    pair = Pair(reference=truncated, samplers=("reference",), top=0)
    [finding] = diagnosis_of(pair, seed).findings
    assert finding.cause == "truncated_support"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_grammar_dictates_is_no_padding(seed: int) -> None:
    def dictated(own: SampleBatch, other: SampleBatch) -> tuple[SampleBatch, SampleBatch]:
        place = np.arange(len(own.logprobs)) % 9
        ours = np.where(place < 7, np.float32(0.0), own.logprobs)
        theirs = np.where(place < 7, other.logprobs - np.float32(8.0), other.logprobs)
        return replace(own, logprobs=ours), replace(other, logprobs=theirs)

    pair = Pair(candidate=Engine(noise=NOISE), samplers=("reference",), edit=dictated, top=0)
    [finding] = diagnosis_of(pair, seed).findings
    assert finding.cause == "constrained_decoding"


@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.4])
@pytest.mark.parametrize("role", ["reference", "candidate"])
def test_a_proof_outranks_the_pattern_of_raw_logprobs(role: str, temperature: float) -> None:
    twice = Engine(noise=NOISE, sampling={"temperature": temperature**2}, facts={"measured": True})
    once = Engine(noise=NOISE, facts={"measured": True})
    pair = Pair(**{"reference": once, "candidate": once, role: twice},
                sampling={"temperature": temperature})  # fmt: skip
    [finding] = diagnosis_of(pair, 301).findings
    assert (finding.cause, finding.engine) == ("temperature_twice", role)


@pytest.mark.parametrize(
    "asked", [{"top_p": 0.8}, {"repetition_penalty": 1.2}, {"presence_penalty": 0.6}]
)
def test_raw_logprobs_are_named_by_their_setting(asked: dict[str, float]) -> None:
    pair = Pair(candidate=Engine(noise=NOISE, raw=True), sampling=asked)
    [finding] = diagnosis_of(pair, 301).findings
    assert (finding.cause, finding.engine) == ("raw_logprobs", "candidate")
    assert finding.fix.startswith('[candidate.settings] logprobs_mode = "processed_logprobs"; ')


def test_ids_that_are_off_are_listed() -> None:
    def bias(own: SampleBatch, other: SampleBatch) -> tuple[SampleBatch, SampleBatch]:
        values = other.logprobs - np.float32(3.0) * np.isin(other.token_ids, [5, 17])
        return own, replace(other, logprobs=values.astype(np.float32))

    pair = Pair(candidate=Engine(noise=NOISE), samplers=("reference",), edit=bias, top=0)
    [finding] = diagnosis_of(pair, 301).findings
    assert finding.cause == "biased_ids"
    assert "ids 17, 5" in finding.claim or "ids 5, 17" in finding.claim


def unlike(error: float, words: slice = slice(None)) -> Engine:
    def compute(rng: np.random.Generator, _: object, logits: Values) -> Values:
        changed = logits.copy()
        changed[:, words] += error * rng.normal(size=changed[:, words].shape)
        return changed

    return Engine(compute=compute)


@pytest.mark.parametrize("error", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("top", [5, 0])
def test_an_unknown_fault_gets_no_name_with_confidence(error: float, top: int) -> None:
    found = diagnosis_of(Pair(candidate=unlike(error), top=top), 301).findings
    assert {each.cause for each in found} == {"different_computation"}
    assert {each.confidence for each in found} == {"low"}


def test_half_a_vocabulary_of_another_head_gets_no_confident_name() -> None:
    found = diagnosis_of(Pair(candidate=unlike(2.0, slice(WORDS // 2))), 301).findings
    assert all(each.confidence == "low" for each in found)
