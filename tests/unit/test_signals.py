"""The signals by themselves: what each measures, on pairs with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from helpers.synthetic import Engine, Pair, case_of
from parity_check.diagnosis import alignment, gaps, grid, penalties, places, support
from parity_check.diagnosis.evidence import Evidence, evidence_of, first_samples
from unit.test_field_cases import NOISE, RAW, T07, engine, from_context, later_by_one, rounded


def evidence(pair: Pair, seed: int = 0) -> Evidence:
    return case_of(pair, seed).evidence


# --- evidence -------------------------------------------------------------------------------------


def test_alternatives_are_matched_by_id() -> None:
    """Whatever their order: rows of two exact engines agree where both returned an id."""
    found = evidence(Pair(reference=Engine(noise=0.3), candidate=Engine(noise=0.3)))
    exact = evidence(Pair(candidate=Engine()))
    both = np.isfinite(exact.reference) & np.isfinite(exact.candidate)
    assert np.array_equal(exact.reference[both], exact.candidate[both])
    common = np.isfinite(found.reference[:, 1:] + found.candidate[:, 1:])
    assert 0.5 < common.mean() < 0.9
    assert (found.ids[:, 1:][common] != found.ids[:, :1].repeat(5, axis=1)[common]).all()


def test_occurrences_are_counted_before_the_token() -> None:
    found = evidence(Pair(prompts=2, length=(20, 30)))
    for sample, (first, last) in enumerate(zip(found.starts[:-1], found.starts[1:], strict=True)):
        tokens = found.ids[first:last, 0]
        for place in range(last - first):
            before = list(tokens[:place])
            expected = [before.count(token) for token in found.ids[first + place]]
            assert found.seen_output[first + place].tolist() == expected, sample


def test_a_shared_prefix_is_counted_in_whole_blocks() -> None:
    found = evidence(Pair(samples=1, same_prefix=40, prompts=10, samplers=("reference",)))
    # 1 BOS and 40 tokens are two blocks of 16 and a rest; the first such prompt shares with none.
    assert found.shared_prefix.tolist() == [0, 0, 0, 32, 0, 32, 0, 32, 0, 32]


@given(budget=st.integers(1, 5000))
def test_first_samples_are_whole(budget: int) -> None:
    batch = _batch()
    part = first_samples(batch, budget)
    size = len(part.starts) - 1
    assert size >= 1
    assert len(part.token_ids) == part.starts[-1] == batch.starts[size]
    assert len(part.prompt_token_ids) == part.prompt_starts[-1]
    assert size == 1 or part.starts[-1] <= budget
    assert size == len(batch.sample_ids) or batch.starts[size + 1] > budget


def _batch() -> object:
    batches = []
    case_of(Pair(edit=lambda own, other: (batches.append(own) or own, other), prompts=4))
    return batches[0]


def test_parts_with_and_without_alternatives_go_together() -> None:
    kept = []
    case_of(Pair(edit=lambda own, other: (kept.append((own, other)) or own, other), prompts=3))
    own, other = kept[0]
    bare = replace(other, top_token_ids=None, top_logprobs=None)
    found = evidence_of([(own, other, "reference"), (own, bare, "reference")], 1)
    assert found.reference.shape == (2 * len(own.token_ids), 6)
    assert not np.isfinite(found.candidate[len(own.token_ids) :, 1:]).any()


# --- gaps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.0, 1.3])
def test_the_scale_is_the_temperature(temperature: float) -> None:
    raw = Pair(candidate=RAW, sampling={"temperature": temperature})
    found = gaps.scale(evidence(raw))
    assert found is not None
    assert found.slope == pytest.approx(temperature, abs=0.002)
    assert found.low <= temperature <= found.high
    assert found.high - found.low < 0.01


def test_the_scale_does_not_see_penalties() -> None:
    found = gaps.scale(evidence(Pair(candidate=engine(repetition_penalty=1.3))))
    assert found is not None
    assert found.slope == pytest.approx(1.0, abs=0.003)


def test_too_few_rows_have_no_scale() -> None:
    assert gaps.scale(evidence(Pair(prompts=1, samples=1, length=(5, 6)))) is None
    assert gaps.scale(evidence(Pair(top=0))) is None


def test_rescaling_leaves_noise() -> None:
    drifting = evidence(Pair(candidate=RAW, sampling=T07))
    left = gaps.rescaled(drifting, 0.7)
    assert left.size() < 0.03 * drifting.size()


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=20))
def test_a_weighted_median_of_equal_weights_is_a_median(values: list[float]) -> None:
    found = gaps.weighted_median(np.array(values), np.ones(len(values)))
    assert found in values
    assert sum(v < found for v in values) <= len(values) / 2
    assert sum(v > found for v in values) <= len(values) / 2


# --- alignment ------------------------------------------------------------------------------------


def test_the_lag() -> None:
    found = alignment.lag(evidence(Pair(edit=later_by_one, samplers=("reference",))))
    assert found is not None
    assert found.best == 1
    assert found.correlation > 0.99
    assert found.unshifted < 0.3
    straight = alignment.lag(evidence(Pair()))
    assert straight is not None
    assert straight.best == 0


def test_a_shift_does_not_cross_samples() -> None:
    found = evidence(Pair(prompts=3))
    for by in alignment.LAGS:
        moved = alignment.shifted(found, by)
        lost = np.flatnonzero(np.isnan(moved))
        assert len(lost) == abs(by) * (len(found.starts) - 1)


# --- support --------------------------------------------------------------------------------------


def test_the_offset_is_the_kept_mass() -> None:
    pair = Pair(candidate=engine(top_k=-1), sampling={"top_k": 3})
    found = support.offset(evidence(pair))
    assert found is not None
    assert found.positive == 0.0
    assert found.spread < 0.1
    assert found.of_variance > 0.95
    exact = support.kept_mass(evidence(pair), "candidate", {**_SAMPLING, "top_k": 3})
    assert found.mean == pytest.approx(float(np.nanmean(np.log(exact))), abs=0.005)


_SAMPLING = {"top_p": 1.0, "top_k": -1, "min_p": 0.0}


def test_a_mass_that_the_alternatives_do_not_reach_is_not_known() -> None:
    found = evidence(Pair(spread=0.5))  # flat: five of 48 ids hold little
    assert np.isnan(support.kept_mass(found, "reference", {**_SAMPLING, "top_p": 0.9})).all()
    assert np.isnan(support.kept_mass(found, "reference", {**_SAMPLING, "top_k": 20})).all()


# --- penalties ------------------------------------------------------------------------------------


def test_the_contrast_has_the_sign_of_the_penalised_side() -> None:
    for role, sign in (("candidate", -1.0), ("reference", 1.0)):
        found = penalties.contrast(evidence(Pair(**{role: engine(presence_penalty=0.5)})))
        assert found is not None
        assert np.sign(found[0].shift) == sign
        assert found[0].kind == "presence_penalty"
        assert abs(found[0].value) == pytest.approx(0.5, abs=0.01)


# --- grid -----------------------------------------------------------------------------------------


def test_the_grid_of_a_bfloat16_head() -> None:
    case = case_of(Pair(candidate=Engine(compute=rounded(8)), sampling=T07))
    found = {role: grid.grid(case.evidence.own[role], 0.7) for role in case.engines}
    assert found["candidate"] is not None
    assert found["reference"] is not None
    assert found["candidate"].share > 0.99
    assert found["candidate"].exponent == 4  # eight significant bits, logits from 8 to 16
    assert found["candidate"].step == pytest.approx(2**-4, rel=0.02)
    assert found["reference"].share < 0.1


@pytest.mark.slow
def test_the_false_positives_of_the_grid() -> None:
    """As stated: 4 % of the gaps of a float32 head, at every exponent."""
    shares = []
    for seed in range(40):
        found = grid.grid(case_of(Pair(), seed).evidence.own["reference"], 1.0)
        assert found is not None
        shares.append(found.share)
    # The best of ten exponents is a little above the chance of one.
    assert grid.FALSE_POSITIVES <= float(np.mean(shares)) < 1.15 * grid.FALSE_POSITIVES
    assert max(shares) < 0.06


def test_few_gaps_have_no_grid() -> None:
    assert grid.grid(case_of(Pair(prompts=1, top=0)).evidence.own["reference"], 1.0) is None


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [40, 64, 97])
def test_the_onset_is_where_it_begins(start: int) -> None:
    broken = Engine(noise=NOISE, compute=from_context(start, 0.5))
    found = places.onset(evidence(Pair(candidate=broken, length=(80, 140))))
    assert found is not None
    assert abs(found.context - start) <= 1
    assert found.after > 10 * found.before


def test_the_context_counts_prompt_and_completion() -> None:
    found = evidence(Pair(prompts=2))
    first = places.context_length(found)[found.starts[:-1]]
    assert first.tolist() == found.prompt_length.tolist()


def test_the_largest_hold() -> None:
    found = evidence(Pair(candidate=Engine()))
    one = found.candidate.copy()
    one[7, 0] -= 5.0
    assert places.held_by_the_largest(found.with_candidate(one), 0.01) == pytest.approx(1.0)
    assert places.held_by_the_largest(found, 0.01) == 0.0


def test_growth_with_the_position() -> None:
    found = evidence(Pair(candidate=Engine()))
    grown = found.candidate.copy()
    grown[:, 0] -= 1e-3 * places.context_length(found)
    assert places.growth(found.with_candidate(grown)) == pytest.approx(1.0, abs=0.01)
    assert places.growth(found) is None


def test_growth_is_spearmans_rank_correlation() -> None:
    found = evidence(Pair(candidate=Engine(noise=0.01)))
    size = np.abs(found.delta).round(2)  # with ties
    tied = replace(found, candidate=found.reference + size[:, None])
    expected = spearmanr(places.context_length(tied), np.abs(tied.delta)).statistic
    assert places.growth(tied) == pytest.approx(expected, abs=1e-12)


def test_the_first_token_and_the_unlikely_ones() -> None:
    found = evidence(Pair(candidate=Engine()))
    moved = found.candidate.copy()
    moved[:, 0] -= 0.01
    moved[found.position == 0, 0] -= 0.02
    apart = found.with_candidate(moved)
    assert places.first_token(apart) == pytest.approx(3.0)
    assert places.first_token(found) is None
    rare = np.where(found.reference[:, 0] < np.log(0.5), 1.0, 0.0)
    only = found.candidate - np.outer(rare, [1.0] + [0.0] * 5)
    assert places.unlikely(found.with_candidate(only)) == 1.0
    assert places.unlikely(found) is None
