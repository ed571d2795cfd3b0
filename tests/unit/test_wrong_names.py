"""Faults that look like others: they get their own name, or none above low confidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.synthetic import Engine, Pair, Rows, Text, case_of, causes, diagnosis_of
from parity_check.diagnosis import gaps
from parity_check.diagnosis.diagnose import diagnose
from parity_check.diagnosis.findings import Finding
from parity_check.measure.invalid import padding
from parity_check.traces.batch import SampleBatch
from unit.test_trace_faults import FAULTS, Edit, faulty, isolated_zeros

Values = NDArray[np.float64]
Batches = tuple[SampleBatch, SampleBatch]
SEEDS = (501, 502, 503)
NOISE = 0.005
CLEAN = Engine(noise=NOISE)


def confident(findings: tuple[Finding, ...]) -> set[str]:
    return {each.cause for each in findings if each.confidence != "low"}


def dumped(edit: Callable[[SampleBatch, SampleBatch], Batches], **workload: object) -> Pair:
    """Sampled by the reference, without alternatives; `edit` changes rollout and trainer."""
    return Pair(candidate=CLEAN, samplers=("reference",), top=0, edit=edit, **workload)  # type: ignore[arg-type]


def trainer(function: Callable[[Values], Values]) -> Callable[[SampleBatch, SampleBatch], Batches]:
    def edit(own: SampleBatch, other: SampleBatch) -> Batches:
        values = function(other.logprobs.astype(np.float64))
        return own, replace(other, logprobs=values.astype(np.float32))

    return edit


def ends(batch: SampleBatch) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in zip(batch.starts[:-1], batch.starts[1:], strict=True)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tokens", [(5, 9), (20, 30), (30, 60)])
@pytest.mark.parametrize("spread", [1.5, 6.0, 9.0])
def test_first_tokens_of_few_samples_are_not_the_largest_logprobs(
    tokens: tuple[int, int], spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)

    def first(own: SampleBatch, other: SampleBatch) -> Batches:
        values = other.logprobs.copy()
        values[other.starts[:-1]] -= 1.0 + rng.exponential(3.0, len(other.starts) - 1)
        return own, replace(other, logprobs=values.astype(np.float32))

    pair = dumped(first, prompts=16, samples=1, length=tokens, spread=spread)
    assert causes(pair, seed) == ["first_token"]


@pytest.mark.parametrize("value", [0.0, -1.0, -2.5])
@pytest.mark.parametrize("top", [5, 0])
@pytest.mark.parametrize("spread", [1.5, 5.0])
def test_a_column_that_was_never_filled(value: float, top: int, spread: float) -> None:
    pair = dumped(trainer(lambda values: np.full(len(values), value)), spread=spread)
    [finding] = diagnosis_of(replace(pair, top=top), 501).findings
    assert (finding.cause, finding.engine) == ("constant", "candidate")
    assert finding.confidence == "high"
    assert f"logprobs are {value:g}: the column was never filled" in finding.claim


def test_few_likely_tokens_that_are_all_0_have_two_explanations() -> None:
    def greedy(own: SampleBatch, other: SampleBatch) -> Batches:
        sure = np.maximum(other.logprobs, -0.5)
        return replace(own, logprobs=np.zeros_like(own.logprobs)), replace(other, logprobs=sure)

    pair = dumped(greedy, prompts=4, samples=1)
    [finding] = diagnosis_of(pair, 501).findings
    assert (finding.cause, finding.confidence) == ("constant", "low")
    assert "never filled, or a single token was kept per position" in finding.claim


@pytest.mark.parametrize("spread", [5.0, 10.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_zeros_among_likely_tokens_are_replaced_values(spread: float, seed: int) -> None:
    """At a spread of 10, most tokens are certain."""
    rng = np.random.default_rng(seed)
    pair = dumped(trainer(lambda v: np.where(rng.random(len(v)) < 0.03, 0.0, v)), spread=spread)
    assert causes(pair, seed) == ["isolated_zeros"]


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_certain_tokens_do_not_say_which_side_is_negated(side: str) -> None:
    """A logprob of almost 0 is one on either side."""

    def negate(own: SampleBatch, other: SampleBatch) -> Batches:
        rng = np.random.default_rng(1)
        certain = rng.random(len(own.logprobs)) < 0.3
        near_0 = np.float32(-1e-5) * rng.random(len(own.logprobs)).astype(np.float32)
        ours, theirs = (np.where(certain, near_0, each.logprobs) for each in (own, other))
        if side == "reference":
            return replace(own, logprobs=-ours), replace(other, logprobs=theirs)
        return replace(own, logprobs=ours), replace(other, logprobs=-theirs)

    [finding] = diagnosis_of(dumped(negate), 501).findings
    assert (finding.cause, finding.engine) == ("negated", side)


def inserted(length: int, calls: int) -> Callable[[SampleBatch, SampleBatch], Batches]:
    """A tool's output within completions: 0 in the rollout, unlikely in the trainer."""

    def edit(own: SampleBatch, other: SampleBatch) -> Batches:
        rng = np.random.default_rng(1)
        ours, theirs = own.logprobs.copy(), other.logprobs.copy()
        for first, last in ends(own):
            for call in range(calls):
                start = first + 5 + call * (length + 5)
                tool = slice(start, min(start + length, last - 1))
                ours[tool] = 0.0
                theirs[tool] = -0.5 - rng.exponential(5.0, len(theirs[tool]))
        return replace(own, logprobs=ours), replace(other, logprobs=theirs)

    return edit


@pytest.mark.parametrize("seed", SEEDS)
def test_long_runs_of_zeros_are_a_tools_output(seed: int) -> None:
    [finding] = diagnosis_of(dumped(inserted(24, 1), length=(50, 60)), seed).findings
    assert (finding.cause, finding.engine) == ("tool_output", "reference")


@pytest.mark.parametrize("seed", SEEDS)
def test_short_runs_of_zeros_have_two_explanations(seed: int) -> None:
    [finding] = diagnosis_of(dumped(inserted(9, 2), length=(50, 60)), seed).findings
    assert (finding.cause, finding.confidence) == ("constrained_decoding", "low")
    assert "a tool's output" in finding.claim


@pytest.mark.parametrize("samplers", [("reference",), ("reference", "candidate")])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_appended_eos_can_be_one_of_two_ids(samplers: tuple[str, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)

    def append(own: SampleBatch, other: SampleBatch) -> Batches:
        last = own.starts[1:] - 1
        ids, values = own.token_ids.copy(), own.logprobs.copy()
        ids[last] = rng.choice([0, 1], len(last))
        values[last] = 0.0
        return replace(own, token_ids=ids, logprobs=values), replace(other, token_ids=ids)

    pair = replace(dumped(append), samplers=samplers)  # type: ignore[arg-type]
    [finding] = diagnosis_of(pair, seed).findings
    assert finding.cause == "appended_eos"
    assert "(id 0, 1)" in finding.claim
    assert finding.engine == ("reference" if len(samplers) == 1 else None)


def test_samples_that_are_off_from_their_middle_on_are_not_off_as_a_whole() -> None:
    def from_the_middle(own: SampleBatch, other: SampleBatch) -> Batches:
        rng = np.random.default_rng(1)
        values = other.logprobs.copy()
        for first, last in ends(own)[:6]:
            rest = slice(first + 2 * (last - first) // 5, last)
            values[rest] -= rng.exponential(1.0, len(values[rest])).astype(np.float32)
        return own, replace(other, logprobs=values)

    assert not confident(diagnosis_of(dumped(from_the_middle), 501).findings)


@pytest.mark.parametrize("kind", ["presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("top", [5, 0])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_penalty_is_no_onset(kind: str, top: int, seed: int) -> None:
    """It grows along the completion, and is a penalty where alternatives show it."""
    engine = Engine(noise=1e-4, sampling={kind: 2.0})
    pair = Pair(candidate=engine, samplers=("reference",), top=top, prompt_length=(4, 8))
    found = diagnosis_of(replace(pair, length=(60, 90)), seed).findings
    assert confident(found) == ({"penalty"} if top else set())


@pytest.mark.parametrize("seed", SEEDS)
def test_other_prompts_are_no_onset(seed: int) -> None:
    """All long prompts are off, from their first token on."""

    def off(own: SampleBatch, other: SampleBatch) -> Batches:
        rng = np.random.default_rng(seed)
        values = other.logprobs.copy()
        for number, (first, last) in enumerate(ends(own)):
            if np.diff(own.prompt_starts)[number] > 60:
                values[first:last] -= rng.exponential(1.0, last - first).astype(np.float32)
        return own, replace(other, logprobs=values)

    pair = dumped(off, prompts=40, samples=1, prompt_length=(4, 80), length=(8, 16))
    assert confident(diagnosis_of(pair, seed).findings) == {"outlier_samples"}


@pytest.mark.parametrize(("at", "sure"), [(49, "high"), (54, "low")])
def test_an_onset_at_no_boundary_is_uncertain(at: int, sure: str) -> None:
    def late(rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
        return logits + (text.context >= at)[:, None] * rng.normal(size=logits.shape)

    pair = Pair(candidate=Engine(compute=late), length=(40, 60))
    [finding] = diagnosis_of(pair, 501).findings
    assert (finding.cause, finding.confidence) == ("onset", sure)


@pytest.mark.parametrize("bias", [{5: 8.0}, {5: 6.0, 9: 8.0}, {5: -2.0, 9: -2.0}])
@pytest.mark.parametrize("sampler", ["reference", "candidate"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_logit_bias_is_no_penalty(bias: dict[int, float], sampler: str, seed: int) -> None:
    def shifted(_: np.random.Generator, __: Text, logits: Rows) -> Rows:
        moved = logits.copy()
        for each, value in bias.items():
            moved[:, each] += value
        return moved

    engine = Engine(noise=NOISE, compute=shifted)
    pair = Pair(candidate=engine, samplers=(sampler,), top=10)  # type: ignore[arg-type]
    found = diagnosis_of(pair, seed).findings
    assert [each.cause for each in found] == ["logit_bias"]
    assert all(f"(id {each})" in found[0].claim for each in bias)


@pytest.mark.parametrize("scale", [0.3, 2.0, 5.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_other_weights_of_another_scale_are_no_temperature(scale: float, seed: int) -> None:
    def other(_: np.random.Generator, text: Text, logits: Rows) -> Rows:
        own = np.random.default_rng(9000 + text.number).normal(size=logits.shape)
        return scale * (logits + 1.5 * own)

    assert not confident(diagnosis_of(Pair(candidate=Engine(compute=other)), seed).findings)


def test_alternatives_without_mass() -> None:
    """A row whose common ids have logprobs below what a float can exponentiate."""
    evidence = case_of(Pair(), 501).evidence
    evidence.candidate[3] = np.where(np.isfinite(evidence.candidate[3]), -800.0, np.nan)
    with np.errstate(all="raise", under="ignore"):
        assert np.isnan(gaps.row_constant(evidence)[3])


def test_zeros_at_the_end_of_a_few_samples_are_of_the_kind_of_the_others() -> None:
    ours = np.array([0, -1, 0, -1, 0, -1, 0, 0, -1, -1, 0, 0, 0, 0], np.float32)
    theirs = np.full(14, -2.0, np.float32)
    starts = np.array([0, 10, 14])
    assert padding(ours, theirs, starts) is None
    assert padding(np.where(np.arange(14) < 10, -1, ours), theirs, starts) is not None


def test_tokens_outside_the_support_are_no_sure_sign_of_bad_rows() -> None:
    counts = {"defects": {"negative_infinity": 3}}
    found = diagnosis_of(Pair(candidate=Engine(noise=NOISE, facts=counts)), 501).findings
    assert [(each.cause, each.confidence) for each in found] == [("bad_rows", "low")]


def test_rounded_zeros_are_logprobs() -> None:
    """Rows of another token, rounded: 0 is a likely token there."""

    def late(own: SampleBatch, other: SampleBatch) -> Batches:
        values = np.round(np.roll(other.logprobs, 1), 1)
        return own, replace(other, logprobs=values)

    found = diagnosis_of(dumped(late), 501).findings
    assert {each.cause for each in found} <= {"off_by_one", "rounded"}


@pytest.mark.parametrize("seed", SEEDS)
def test_long_samples_without_a_shared_prefix_are_off_too(seed: int) -> None:
    """An onset at 33 tokens: long prompts, and so those that share a prefix, are off."""

    def late(rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
        return logits + 0.3 * (text.context >= 17)[:, None] * rng.normal(size=logits.shape)

    pair = Pair(
        candidate=Engine(noise=NOISE, compute=late), prompts=50, samples=4, length=(4, 6)
    )  # fmt: skip
    assert "shared_prefix" not in confident(diagnosis_of(pair, seed).findings)


SIZES = {
    "12 samples": (12, 1, (20, 40)),
    "200 short ones": (50, 4, (5, 9)),
    "long": (16, 1, (150, 200)),
}
ALIKE = {"clamped": {"rounded"}}
"""Names of a fault that are right too."""


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_no_fault_of_traces_has_a_wrong_name(size: str) -> None:
    """Every fault of traces by one side, with and without alternatives, in few and many samples."""
    prompts, samples, length = SIZES[size]
    edits: dict[str, tuple[str, Edit]] = {**FAULTS, "zeros": ("isolated_zeros", isolated_zeros)}
    wrong, right, of = [], 0, 0
    for fault, (cause, edit) in edits.items():
        for side in (0, 1):
            for top in (5, 0):
                case = faulty(edit, side, top, 601, prompts=prompts, samples=samples, length=length)
                found = diagnose(case, "drift").findings
                names = confident(tuple(each for each in found if not each.remark))
                of, right = of + 1, right + (cause in names)
                if names - {cause} - ALIKE.get(fault, set()):
                    wrong.append((fault, side, top, names))
    assert wrong == []
    assert right >= 0.9 * of
