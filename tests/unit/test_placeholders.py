"""Logprobs that say nothing of their tokens are no parity: zeros, constants, copies."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import numpy as np
import pytest

from helpers.chunks import chunk, cut
from parity_check.comparison.warnings import certain_tokens, few_prompts
from parity_check.measure.gates import judge_all, overall
from parity_check.measure.limits import choose_limits
from parity_check.measure.measure import measure
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.objectives import choose_objective
from parity_check.measure.stats import Floats


def _constants() -> dict[str, tuple[Floats, Floats]]:
    """[samples, tokens] of both sides, whose agreement says nothing."""
    rng = np.random.default_rng(4)
    ones = np.full((2500, 64), -1.0)
    real = -rng.exponential(1, ones.shape)
    ended, slightly, half, most = ones.copy(), ones.copy(), real.copy(), ones.copy()
    ended[:, -1] = 0.0
    slightly[0, 0] = -1.001
    half[::2] = -1.0
    most[rng.random(ones.shape) < 0.04] = -2.0
    of_samples = np.repeat(real.mean(axis=1, keepdims=True), 64, axis=1)
    return {
        "one number": (ones, ones),
        "0 at the end": (ended, ended),
        "all but one": (slightly, slightly),
        "two constants": (ones, ones * 1.0005),
        "0 and nearly 0": (0 * ones, ones * 1e-6),
        "most tokens": (most, most),
        "half of the samples": (half, half),
        "the mean of each sample": (of_samples, of_samples * 1.0001),
        "one token a sample": (ones[:, :1], ones[:, :1]),
    }


@pytest.mark.parametrize("kind", _constants())
def test_constants_on_both_sides_are_nothing_to_compare(kind: str) -> None:
    behaviour, evaluating = _constants()[kind]
    measured = measure([chunk(behaviour.tolist(), evaluating.tolist())], sampled_by="reference")
    gates = judge_all(measured, choose_limits("standard", choose_objective("grpo")))
    assert {gate.verdict for gate in gates} == {"inconclusive"}
    assert "logprobs repeat those of the token before them on both sides" in gates[0].reason


def test_a_constant_is_counted_however_the_trace_is_cut() -> None:
    ones = [[-1.0] * 40 for _ in range(30)]
    whole = chunk(ones, ones)
    for ends in ([0, 30], [0, 1, 2, 17, 30]):
        parts = [cut(whole, first, last) for first, last in pairwise(ends)]
        assert measure(parts, sampled_by="reference").repeated == 1199


def test_what_may_repeat_is_not_a_constant() -> None:
    """Samples of one prompt that begin alike, tokens that both engines are sure of."""
    rng = np.random.default_rng(6)
    first = [[-1.5] for _ in range(400)]
    measured = measure([chunk(first, first, [0] * 400)], sampled_by="reference")
    assert measured.repeated == 0
    sure = [np.where(rng.random(64) < 0.8, -2e-7, -rng.exponential(1, 64)).tolist()] * 400
    measured = measure([chunk(sure, sure)], sampled_by="reference")
    assert measured.repeated == 0
    assert 0.7 < measured.certain / measured.tokens < 0.9


def test_loops_of_a_model_are_no_constants() -> None:
    """In a third of the samples the same token follows itself until its logprob is constant."""
    rng = np.random.default_rng(6)
    sure = (-np.exp(-np.arange(64) / 3.0) - 1e-4).round(4).tolist()
    samples = [sure if n % 3 == 0 else (-rng.exponential(1, 64)).tolist() for n in range(2600)]
    measured = measure([chunk(samples, samples)], sampled_by="reference")
    assert measured.repeated > 0.1 * measured.tokens
    gates = judge_all(measured, choose_limits("standard", choose_objective("grpo")))
    assert overall(gates) == "parity"


def test_many_certain_tokens_are_said_with_what_they_dilute() -> None:
    rng = np.random.default_rng(6)
    for share, said in ((0.75, []), (0.9, ["certain-tokens.reference"])):
        sure = [(-rng.exponential(1, 64) * (rng.random(64) > share)).tolist() for _ in range(500)]
        found = list(certain_tokens([measure([chunk(sure, sure)], sampled_by="reference")]))
        assert [each.id for each in found] == said
    [times] = re.findall(r"k3 of the other tokens is ([\d.]+) times", found[0].message)
    assert float(times) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("real", [1, 6])
@pytest.mark.parametrize("drift", [0.0, 1e-4, 0.5])
def test_zeros_on_both_sides_are_no_evidence_of_parity(real: int, drift: float) -> None:
    """One in 64 tokens has a logprob, or six in 64: then the others may be certain tokens."""
    rng = np.random.default_rng(3)
    behaviour = [[0.0] * (64 - real) + (-rng.exponential(1, real)).tolist() for _ in range(4000)]
    evaluating = [[each - drift * (each < 0) for each in sample] for sample in behaviour]
    measured = measure([chunk(behaviour, evaluating)], sampled_by="reference")
    gates = judge_all(measured, choose_limits("standard", choose_objective("grpo")))
    expected = "drift" if drift == 0.5 else "inconclusive" if real == 1 else "parity"
    assert overall(gates) == expected
    if expected == "inconclusive":
        assert all(gate.reason.startswith("252,000 of 256,000 logprobs") for gate in gates)


def with_tokens(whole: PairedChunk, seed: int = 0) -> PairedChunk:
    """The same with random token ids."""
    ids = np.random.default_rng(seed).integers(0, 30_000, len(whole.behaviour_logprob), np.int32)
    return dataclasses.replace(whole, token_ids=ids)


def _copies() -> dict[str, tuple[Floats, Floats]]:
    """[samples, tokens] of both sides, of which many samples have the logprobs of another one."""
    rng = np.random.default_rng(4)
    one, ten, real = -rng.exponential(1, 64), -rng.exponential(1, (10, 64)), np.empty((2500, 64))
    real[:] = -rng.exponential(1, real.shape)
    everywhere, turns = np.tile(one, (2500, 1)), np.tile(ten, (250, 1))
    alternating = np.tile([-1.0, -2.0], (2500, 32))
    some = real.copy()
    some[1250:] = some[:1250]
    noise = 0.001 * rng.standard_normal(real.shape)
    return {
        "one sample's": (everywhere, everywhere),
        "one sample's, other noise": (everywhere, np.minimum(everywhere + noise, 0.0)),
        "ten samples' by turns": (turns, turns),
        "two numbers by turns": (alternating, alternating),
        "a constant and noise": (-1 + noise / 1000, -1 + noise / 1000),
        "half of them another's": (some, some),
        "short ones": (everywhere[:, :10], everywhere[:, :10]),
    }


@pytest.mark.parametrize("kind", _copies())
def test_logprobs_of_other_samples_are_nothing_to_compare(kind: str) -> None:
    behaviour, evaluating = _copies()[kind]
    whole = with_tokens(chunk(behaviour.tolist(), evaluating.tolist()))
    parts = [cut(whole, first, last) for first, last in pairwise([0, 7, 1300, 2500])]
    measured = measure(parts, sampled_by="reference")
    assert measured.copied >= measured.tokens * 0.99
    gates = judge_all(measured, choose_limits("standard", choose_objective("grpo")))
    assert {gate.verdict for gate in gates} == {"inconclusive"}
    assert gates[0].reason.startswith(f"all {measured.tokens:,} logprobs are of samples that begin")


def test_samples_of_the_same_tokens_may_have_the_same_logprobs() -> None:
    """Greedy copies, samples of one prompt that begin alike, and short or certain ones."""
    rng = np.random.default_rng(5)
    alike = np.tile(-rng.exponential(1, 64), (500, 1)).tolist()
    copies = chunk(alike, alike)
    copies = dataclasses.replace(copies, token_ids=np.tile(np.arange(64, dtype=np.int32), 500))
    beginning = -rng.exponential(1, (100, 5, 64))
    beginning[:, :, :15] = beginning[:, :1, :15]
    sure = np.zeros((500, 64))
    sure[:, 8:15] = -0.5
    short = np.full((500, 7), -0.5)
    for rows in (beginning.reshape(500, 64), sure, short):
        found = measure([with_tokens(chunk(rows.tolist(), rows.tolist()))], sampled_by="reference")
        assert found.copied < 0.02 * found.tokens
    assert measure([copies], sampled_by="reference").copied == 0


def test_samples_of_few_prompts_are_said() -> None:
    rng = np.random.default_rng(6)
    rows = (-rng.exponential(1, (400, 16))).tolist()
    for prompts, said in ((1, "are of 1 prompt:"), (7, "are of 7 prompts:"), (8, None)):
        whole = dataclasses.replace(
            chunk(rows, rows), prompt=np.arange(400, dtype=np.int32) % prompts
        )
        found = list(few_prompts("sample", [measure([whole], sampled_by="reference")]))
        assert [said in each.message for each in found if said] == [True] * (said is not None)
        assert len(found) == (said is not None)
    assert not list(few_prompts("prompt", [measure([chunk(rows[:5], rows[:5])], sampled_by="a")]))


def test_a_template_that_the_model_is_sure_of_is_no_copy() -> None:
    """Ten tokens of p near 0.999 whose confidence hardly varies, and a label, in 3,000 answers."""
    rng = np.random.default_rng(8)
    template = -0.001 * np.exp(rng.normal(0, 0.2, (3000, 10)))
    rows = np.concatenate([template, -rng.exponential(0.3, (3000, 1))], axis=1)
    measured = measure([with_tokens(chunk(rows.tolist(), rows.tolist()))], sampled_by="reference")
    assert measured.copied == 0
