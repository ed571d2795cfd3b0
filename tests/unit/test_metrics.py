"""The per-token metrics: closed forms, invariances, and what is kept out of them."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers.chunks import chunk, cut
from parity_check.errors import TraceMismatchError
from parity_check.measure.accumulator import binary_kl
from parity_check.measure.alternatives import Weights
from parity_check.measure.gates import judge_all
from parity_check.measure.limits import choose_limits
from parity_check.measure.measure import measure
from parity_check.measure.metrics import COLUMNS, METRICS, PairedChunk, token_columns
from parity_check.measure.objectives import choose_objective

LOGPROBS = st.floats(min_value=-27.0, max_value=-(2.0**-20), width=32)


def random_chunk(
    seed: int, samples: int = 40, noise: float = 0.05, per_prompt: int = 2
) -> PairedChunk:
    """Samples of 0 to 400 tokens, `per_prompt` to a prompt, with heavy-tailed noise."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 400, samples)
    n = int(lengths.sum())
    behaviour = -rng.exponential(1.0, n)
    evaluating = -np.abs(behaviour + noise * rng.standard_t(4, n))
    cluster = (np.arange(samples) // per_prompt).astype(np.int32)
    return PairedChunk(
        behaviour_logprob=behaviour.astype(np.float32),
        evaluating_logprob=evaluating.astype(np.float32),
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        cluster=cluster,
        group=cluster % 3,
    )


def swap(whole: PairedChunk) -> PairedChunk:
    """The other engine as the behaviour engine."""
    return dataclasses.replace(
        whole,
        behaviour_logprob=whole.evaluating_logprob,
        evaluating_logprob=whole.behaviour_logprob,
    )


def plain(whole: PairedChunk) -> dict[str, float]:
    """Every token mean by its definition, one numpy line each."""
    behaviour = whole.behaviour_logprob.astype(np.float64)
    evaluating = whole.evaluating_logprob.astype(np.float64)
    delta = evaluating - behaviour
    ratio = np.exp(delta)
    return {
        "mean_log_ratio": delta.mean(),
        "rms_log_ratio": math.sqrt((delta**2).mean()),
        "mean_abs_log_ratio": np.abs(delta).mean(),
        "mean_importance_ratio": ratio.mean(),
        "geometric_mean_ratio": math.exp(delta.mean()),
        "k1_kl": -delta.mean(),
        "k2_kl": (delta**2 / 2).mean(),
        "k3_kl": (ratio - 1 - delta).mean(),
        "reverse_k3_kl": (1 / ratio - 1 + delta).mean(),
        "multiplicative_error": np.exp(np.abs(delta)).mean(),
        "tail_fraction": (np.abs(delta) > 1.0).mean(),
        "ess": ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum()),
        "chi2_token": (ratio**2).mean() - 1,
        "probability_difference": np.abs(np.exp(evaluating) - np.exp(behaviour)).mean(),
        "identical_fraction": (delta == 0).mean(),
    }


def test_every_mean_equals_its_definition() -> None:
    whole = random_chunk(0, samples=120, noise=0.3)
    measured = measure([whole], sampled_by="reference")
    for name, value in plain(whole).items():
        assert measured[name].value == pytest.approx(value, rel=1e-6), name
        assert measured[name].n == len(whole.behaviour_logprob)


def test_the_estimates_are_the_rows_of_the_table_in_order() -> None:
    measured = measure([random_chunk(1)], sampled_by="reference")
    recorded = [name for name in METRICS if name not in ("top1_agreement", "entropy_difference")]
    assert [estimate.name for estimate in measured.estimates] == recorded
    assert all(METRICS[e.name].unit == e.unit for e in measured.estimates)
    assert all(e.sampled_by == "reference" for e in measured.estimates)


def test_both_sequence_definitions_of_chi_squared() -> None:
    whole = random_chunk(2, samples=60)
    delta = whole.evaluating_logprob.astype(float) - whole.behaviour_logprob
    parts = [part for part in np.split(delta, whole.starts[1:-1]) if len(part)]
    measured = measure([whole], sampled_by="reference")
    product = np.mean([math.exp(2 * part.sum()) for part in parts]) - 1
    geometric = np.mean([math.exp(2 * part.mean()) for part in parts]) - 1
    assert measured["chi2_sequence_product"].value == pytest.approx(product)
    assert measured["chi2_sequence_geometric"].value == pytest.approx(geometric)
    assert measured["chi2_sequence_product"].n == len(parts) == measured.samples


@given(hnp.arrays(np.float32, 20, elements=LOGPROBS), hnp.arrays(np.float32, 20, elements=LOGPROBS))
@settings(deadline=None)
def test_k3_is_not_negative_and_keeps_its_identity(
    behaviour: np.ndarray, evaluating: np.ndarray
) -> None:
    _, delta, _, _, ratio, _, k3, reverse, *_ = token_columns(behaviour, evaluating)
    assert (k3 >= 0).all()
    assert (reverse >= 0).all()
    assert k3 == pytest.approx(ratio - 1 - delta, rel=1e-9, abs=1e-13)
    measured = measure([chunk([behaviour], [evaluating])], sampled_by="reference")
    mean_ratio, mean_delta = measured["mean_importance_ratio"], measured["mean_log_ratio"]
    assert measured["k3_kl"].value == pytest.approx(
        mean_ratio.value - 1 - mean_delta.value, rel=1e-9, abs=1e-13
    )


def test_k3_of_tiny_differences_is_not_drowned_by_rounding() -> None:
    behaviour = np.full(1, -1.0, np.float32)
    evaluating = np.nextafter(behaviour, np.float32(0))
    delta = float(evaluating[0]) - float(behaviour[0])
    columns = token_columns(behaviour, evaluating)
    assert columns[6, 0] == pytest.approx(delta**2 / 2, rel=1e-3)


def test_absurd_differences_stay_finite() -> None:
    measured = measure([chunk([[-8000.0, -1.0]], [[-1.0, -8000.0]])], sampled_by="reference")
    assert all(math.isfinite(estimate.value) for estimate in measured.estimates)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_swapping_the_engines_negates_the_log_ratio(seed: int) -> None:
    whole = random_chunk(seed, samples=20)
    there = measure([whole], sampled_by="reference")
    back = measure([swap(whole)], sampled_by="candidate")
    assert back["mean_log_ratio"].value == -there["mean_log_ratio"].value
    assert back["k3_kl"].value == pytest.approx(there["reverse_k3_kl"].value)
    assert back["rms_log_ratio"].value == there["rms_log_ratio"].value
    for one, other in zip(there.clips, back.clips, strict=True):
        if one.objective.name == "gmpo":  # symmetric in logs
            assert (one.low.value, one.high.value) == (other.high.value, other.low.value)


@given(st.integers(0, 1000), st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=20, deadline=None)
def test_chunks_merge_to_the_same_as_one(seed: int, cuts: list[int]) -> None:
    whole = random_chunk(seed, samples=30, noise=0.3)
    edges = sorted({0, 30, *cuts})
    pieces = [cut(whole, a, b) for a, b in pairwise(edges)]
    one, many = (measure(chunks, sampled_by="reference") for chunks in ([whole], pieces))
    assert_equal(one, many)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_order_of_clusters_does_not_matter(seed: int) -> None:
    whole = random_chunk(seed, samples=30, noise=0.3)
    order = np.random.default_rng(seed).permutation(15)
    pieces = [cut(whole, 2 * prompt, 2 * prompt + 2) for prompt in order]
    one, many = (measure(chunks, sampled_by="reference") for chunks in ([whole], pieces))
    assert_equal(one, many)


def assert_equal(one: object, other: object) -> None:
    """Equal to rounding, through every nested dataclass, tuple and dict."""
    if isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-13)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_equal(value, other[key])
    elif isinstance(one, tuple):
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    else:
        assert one == other


def test_duplicating_every_cluster_keeps_estimates_and_shrinks_errors() -> None:
    whole = random_chunk(3, samples=200, noise=0.3)
    twin = dataclasses.replace(whole, cluster=whole.cluster + np.int32(100))
    once = measure([whole], sampled_by="reference")
    twice = measure([whole, twin], sampled_by="reference")
    for one, two in zip(once.estimates, twice.estimates, strict=True):
        assert two.value == pytest.approx(one.value), one.name
        assert (two.n, two.clusters) == (2 * one.n, 2 * one.clusters)
        assert two.effective_clusters == pytest.approx(2 * one.effective_clusters), one.name
        if (
            not one.name.startswith("ess")
            and one.unseen == 0.0
            and one.ci_low > 0
            and (one.unit != "share" or one.value < 0.9)
        ):
            shrunk = (two.ci_high - two.ci_low) / (one.ci_high - one.ci_low)
            # The error shrinks by the root of a half, the corrections for few clusters faster.
            assert 0.25 < shrunk < 1.02 * math.sqrt(0.5), one.name


@given(hnp.arrays(np.float32, 30, elements=LOGPROBS), hnp.arrays(np.float32, 30, elements=LOGPROBS))
@settings(deadline=None)
def test_ess_is_a_share(behaviour: np.ndarray, evaluating: np.ndarray) -> None:
    measured = measure([chunk([behaviour], [evaluating])], sampled_by="reference")
    assert 0.0 < measured["ess"].value <= 1.0


def test_an_engine_against_itself_shows_nothing() -> None:
    whole = random_chunk(4)
    same = dataclasses.replace(whole, evaluating_logprob=whole.behaviour_logprob)
    measured = measure([same], sampled_by="reference")
    assert measured["mean_log_ratio"].value == measured["k3_kl"].value == 0.0
    assert (measured["mean_log_ratio"].ci_low, measured["mean_log_ratio"].ci_high) == (0.0, 0.0)
    assert measured["ess"].value == measured["ess"].ci_high == 1.0
    assert measured["identical_fraction"].value == 1.0
    assert measured.first_divergence.diverged == 0
    assert measured.first_divergence.earliest is None
    assert measured.quantiles["0.999"].value == measured.largest == 0.0


def test_unusable_tokens_are_counted_and_change_no_mean() -> None:
    clean = random_chunk(5, samples=20)
    dirty = dataclasses.replace(
        clean,
        behaviour_logprob=clean.behaviour_logprob.copy(),
        evaluating_logprob=clean.evaluating_logprob.copy(),
        behaviour_nulls=1,
    )
    at = clean.starts[3]
    dirty.behaviour_logprob[at : at + 3] = np.nan, np.nan, -9999.0
    dirty.evaluating_logprob[at + 2 : at + 5] = np.inf, -np.inf, 1.0
    kept = np.delete(np.arange(len(clean.behaviour_logprob)), np.arange(at, at + 5))
    starts = clean.starts - 5 * (clean.starts > at)
    without = dataclasses.replace(
        clean,
        behaviour_logprob=clean.behaviour_logprob[kept],
        evaluating_logprob=clean.evaluating_logprob[kept],
        starts=starts,
    )
    measured = measure([dirty], sampled_by="reference")
    expected = measure([without], sampled_by="reference")
    assert measured.excluded == 5
    assert measured.tokens == len(kept)
    assert_equal(measured.estimates, expected.estimates)
    assert_equal(measured.clips, expected.clips)
    assert {(entry.engine, entry.kind): entry.count for entry in measured.invalid} == {
        ("behaviour", "missing"): 1,
        ("behaviour", "nan"): 1,
        ("behaviour", "floor"): 1,
        ("evaluating", "positive_infinity"): 1,
        ("evaluating", "negative_infinity"): 1,
        ("evaluating", "positive"): 1,
    }


def test_positions_count_from_the_start_of_the_sample_even_past_unusable_tokens() -> None:
    behaviour = [[-1.0] * 30, [-1.0] * 30, [np.nan] * 2 + [-1.0] * 28]
    evaluating = [[-1.0] * 30, [-1.0] * 20 + [-2.0] * 10, [-1.0] * 5 + [-2.0] * 25]
    measured = measure([chunk(behaviour, evaluating)], sampled_by="reference")
    divergence = measured.first_divergence
    assert (divergence.samples, divergence.diverged) == (3, 2)
    assert (divergence.earliest, divergence.median) == (5, 12.5)
    early, late = measured.breakdowns["position"]
    assert (early.low, early.high, late.low) == (0, 16, 16)
    assert (early.estimates[0].n, late.estimates[0].n) == (16 + 16 + 14, 3 * 14)
    assert early.estimates[0].value == pytest.approx(-11 / 46)


def test_breakdowns_split_the_same_tokens() -> None:
    whole = random_chunk(6, samples=80)
    measured = measure([whole], sampled_by="reference")
    for name, bins in measured.breakdowns.items():
        counts = [entry.estimates[0].n for entry in bins]
        assert sum(counts) == measured.tokens, name
        for place, metric in enumerate(("mean_log_ratio", "mean_abs_log_ratio", "k3_kl")):
            total = sum(
                entry.estimates[place].value * count
                for entry, count in zip(bins, counts, strict=True)
            )
            assert total / measured.tokens == pytest.approx(measured[metric].value), name


def test_the_probability_breakdown_bins_by_the_behaviour_engine() -> None:
    whole = random_chunk(7, samples=80)
    probability = np.exp(whole.behaviour_logprob.astype(float))
    for entry in measure([whole], sampled_by="reference").breakdowns["behaviour_probability"]:
        inside = (probability > entry.low) & (probability <= entry.high)
        assert entry.estimates[0].n == inside.sum()


def test_tail_thresholds() -> None:
    whole = random_chunk(8, noise=0.5)
    measured = measure([whole], sampled_by="reference", tail_threshold=0.7)
    size = np.abs(whole.evaluating_logprob.astype(float) - whole.behaviour_logprob)
    assert [threshold for threshold, _ in measured.tails] == [0.1, 0.5, 0.7, 1.0, 2.0, 5.0]
    for threshold, estimate in measured.tails:
        assert estimate.value == pytest.approx((size > threshold).mean())
    assert measured["tail_fraction"].value == pytest.approx((size > 0.7).mean())


def test_clip_fraction_is_the_chosen_objective() -> None:
    whole = random_chunk(9, noise=0.5)
    gspo = choose_objective("gspo", 0.01, 0.02)
    measured = measure([whole], sampled_by="reference", objective=gspo)
    (chosen,) = [clip for clip in measured.clips if clip.objective.name == "gspo"]
    assert chosen.objective == gspo
    assert measured["clip_fraction"].value == chosen.counted.value > 0
    lengths = [clip.band.n for _, clip in measured.clips_by_length]
    assert sum(lengths) == measured.samples
    assert all(clip.objective == gspo for _, clip in measured.clips_by_length)


def with_alternatives(ids: list[list[int]], top: list[list[float]]) -> PairedChunk:
    """One token a prompt, the same on both sides but for the alternatives of the second."""
    base = chunk([[-1.0]] * len(ids), [[-1.0]] * len(ids))
    return dataclasses.replace(
        base,
        behaviour_top_ids=np.tile(np.array([1, 2, 3], np.int32), (len(ids), 1)),
        behaviour_top_logprobs=np.tile(np.log([0.5, 0.25, 0.25], dtype=np.float32), (len(ids), 1)),
        evaluating_top_ids=np.array(ids, np.int32),
        evaluating_top_logprobs=np.array(top, np.float32),
    )


def test_top1_agreement_and_entropy_difference() -> None:
    uniform = np.log([1 / 3] * 3).tolist()
    peaked = np.log([0.25, 0.5, 0.25]).tolist()
    measured = measure(
        [with_alternatives([[1, 2, 3], [1, 2, 3]], [uniform, peaked])], sampled_by="reference"
    )
    assert measured["top1_agreement"].value == 0.5
    own = 1.5 * math.log(2)
    assert measured["entropy_difference"].value == pytest.approx((math.log(3) - own) / 2)


def test_tokens_without_alternatives_do_not_count_for_agreement() -> None:
    missing = [math.nan] * 3
    uniform = np.log([1 / 3] * 3).tolist()
    measured = measure(
        [with_alternatives([[1, 2, 3], [-1, -1, -1]], [uniform, missing])], sampled_by="reference"
    )
    assert measured["top1_agreement"].n == 1
    assert measured.tokens == 2
    assert [(entry.kind, entry.count) for entry in measured.invalid] == [("top_missing", 1)]


def test_entropy_renormalises_and_ignores_masked_alternatives() -> None:
    logprobs = np.log(np.array([[0.2], [0.2], [1e-30]], np.float32))
    logprobs[2] = -np.inf
    assert Weights.of(logprobs).entropy() == pytest.approx(math.log(2))


def test_nothing_compared_is_an_error() -> None:
    with pytest.raises(TraceMismatchError, match="nothing was compared"):
        measure([], sampled_by="reference")


def test_a_side_without_one_usable_logprob_is_measured_by_its_defects() -> None:
    broken = chunk([[np.nan, -1.0]], [[-1.0, np.nan]])
    measured = measure([broken], sampled_by="reference")
    assert (measured.tokens, measured.excluded) == (0, 2)
    assert [estimate.name for estimate in measured.estimates] == list(METRICS)
    assert all(math.isnan(estimate.value) for estimate in measured.estimates)
    assert measured["k3_kl"].note == "none of 2 tokens has a usable logprob on both sides"
    assert [(entry.kind, entry.engine, entry.count) for entry in measured.invalid] == [
        ("nan", "behaviour", 1),
        ("nan", "evaluating", 1),
    ]


def test_bursts_are_counted_by_sample_and_by_prompt() -> None:
    """Of 12 prompts with two samples, one is wholly off, one has a sample off, one a token."""
    behaviour = [[-9.0] * 40 for _ in range(24)]
    evaluating = [list(sample) for sample in behaviour]
    for sample in (3, 6, 7):
        evaluating[sample] = [-6.0] * 40
    evaluating[8][5] = -6.0
    cluster = [sample // 2 for sample in range(24)]
    measured = measure([chunk(behaviour, evaluating, cluster)], sampled_by="reference")
    assert measured["burst_fraction"].value == pytest.approx(3 / 24)
    assert measured["burst_cluster_fraction"].value == pytest.approx(1 / 12)
    assert measured["tail_sample_fraction"].value == pytest.approx(4 / 24)
    assert measured["tail_cluster_fraction"].value == pytest.approx(3 / 12)
    assert measured["tail_fraction"].value == pytest.approx(121 / 960)
    assert measured["burst_fraction"].ci_high > measured["tail_fraction"].value


def test_a_token_that_cannot_have_been_sampled_is_counted_and_kept_out() -> None:
    behaviour = [[-1.0] * 10 for _ in range(10)]
    behaviour[4][2] = -700.0
    evaluating = [list(sample) for sample in behaviour]
    evaluating[7][7] = -700.0  # unlikely to the other engine alone: that is a difference
    measured = measure([chunk(behaviour, evaluating)], sampled_by="reference")
    assert measured["impossible_fraction"].value == pytest.approx(1 / 100)
    assert measured["impossible_fraction"].n == 100
    assert measured.tokens == 99
    assert [(entry.kind, entry.engine, entry.count) for entry in measured.invalid] == [
        ("impossible", "behaviour", 1)
    ]
    assert measured["tail_fraction"].value == pytest.approx(1 / 99)


@pytest.mark.parametrize(("other", "same"), [(-30.0, 100), (-31.0, 99)])
def test_an_impossible_token_is_bit_identical_or_not(other: float, same: int) -> None:
    """It is in no mean, and still two engines that disagree on it are not the same."""
    behaviour = [[-1.0] * 10 for _ in range(10)]
    behaviour[4][2] = -30.0
    evaluating = [list(sample) for sample in behaviour]
    evaluating[4][2] = other
    measured = measure([chunk(behaviour, evaluating)], sampled_by="reference")
    assert measured["identical_fraction"].value == pytest.approx(same / 100)
    assert measured.tokens == 99


def test_an_impossible_token_counts_where_none_is_excluded() -> None:
    behaviour = [[-1.0] * 10 for _ in range(10)]
    behaviour[4][2] = -30.0
    measured = measure([chunk(behaviour, [[-1.0] * 10] * 10)], sampled_by="reference")
    assert measured["impossible_fraction"].value == pytest.approx(1 / 100)
    assert measured["impossible_fraction"].n == measured.tokens == 100


def test_zeros_on_both_sides_are_nothing_to_compare() -> None:
    zeros = [[0.0] * 10 for _ in range(3000)]
    measured = measure([chunk(zeros, zeros)], sampled_by="reference")
    gates = judge_all(measured, choose_limits("exact", choose_objective("grpo")))
    assert [gate.verdict for gate in gates] == ["inconclusive"]
    assert gates[0].reason.startswith("all 30,000 logprobs are 0 on both sides")


def test_only_impossible_tokens_are_drift_by_their_count() -> None:
    behaviour = [[-60.0] * 10 for _ in range(20)]
    measured = measure([chunk(behaviour, behaviour)], sampled_by="reference")
    assert measured["impossible_fraction"].value == 1.0
    gates = judge_all(measured, choose_limits("standard", choose_objective("grpo")))
    assert {gate.metric for gate in gates if gate.verdict == "drift"} == {"impossible_fraction"}


def test_what_is_unseen_may_be_in_the_longest_samples() -> None:
    """One sample in twenty has 4,000 of the 4,380 tokens: 400 samples are worth 22, not 24."""
    lengths = [200 if number % 20 == 0 else 1 for number in range(400)]
    rng = np.random.default_rng(8)
    behaviour = [(-rng.exponential(1, length)).tolist() for length in lengths]
    measured = measure([chunk(behaviour, behaviour)], sampled_by="reference")
    unseen = 4000 / 4380 * (1 - 0.025 ** (1 / 20))  # if all of it is in the 20 long ones
    worth = math.log(0.025) / math.log1p(-unseen)
    assert measured.worth.samples == pytest.approx(worth)
    for name in ("burst_fraction", "burst_cluster_fraction"):
        assert measured[name].ci_high == pytest.approx(unseen)
        assert measured[name].note.startswith(f"no instance in 400, worth {worth:.0f}: rule of")
    assert measured["k3_kl"].ci_high == pytest.approx(0.6487 * unseen, rel=1e-3)


def test_k3_allows_for_bursts_of_long_samples_in_clusters_that_are_not_long() -> None:
    """A cluster in forty has prompts of 300 and 10 tokens, the others have one of 155."""
    rng = np.random.default_rng(8)
    shapes = [(300, 10) if n % 40 == 0 else (155,) for n in range(400)]
    lengths = [length for shape in shapes for length in shape]
    clusters = [n for n, shape in enumerate(shapes) for _ in shape]
    behaviour = [(-rng.exponential(1, length)).tolist() for length in lengths]
    whole = dataclasses.replace(
        chunk(behaviour, behaviour, clusters), prompt=np.arange(len(lengths), dtype=np.int32)
    )
    measured = measure([whole], sampled_by="reference")
    unseen = 3_000 / sum(lengths) * (1 - 0.025 ** (1 / 10))  # in the 10 samples of 300 tokens
    assert measured.worth.samples < measured.worth.clusters < 400
    assert measured["burst_fraction"].ci_high == pytest.approx(unseen)
    assert measured["k3_kl"].ci_high == pytest.approx(0.6487 * unseen, rel=1e-3)


def test_bursts_may_be_in_the_prompts_with_many_samples() -> None:
    """8 prompts have 16 samples each, 1,200 have one; a family of 8 prompts is no such prompt."""
    rng = np.random.default_rng(8)
    prompts = [*(n for n in range(8) for _ in range(16)), *range(8, 1208)]
    behaviour = [(-rng.exponential(1, 20)).tolist() for _ in prompts]
    measured = measure([chunk(behaviour, behaviour, prompts)], sampled_by="reference")
    unseen = 128 / 1328 * (1 - 0.025 ** (1 / 8))
    assert measured["burst_cluster_fraction"].ci_high == pytest.approx(unseen)
    assert measured["k3_kl"].ci_high == pytest.approx(0.6487 * unseen, rel=1e-3)
    whole = chunk(behaviour, behaviour, prompts)
    of_families = dataclasses.replace(whole, prompt=np.arange(1328, dtype=np.int32))
    families = measure([of_families], sampled_by="reference")
    assert families.worth.clusters == pytest.approx(1328**2 / (8 * 16**2 + 1200))


def test_bursts_that_are_seen_count_in_full_where_samples_are_unequal() -> None:
    """20 of 2,000 samples, worth 50 by their tokens, are wholly off: that is over 0.15 %."""
    rng = np.random.default_rng(9)
    lengths = [400 if number % 50 == 0 else 4 for number in range(2000)]
    behaviour = [(-rng.exponential(1, length) - 4).tolist() for length in lengths]
    evaluating = [
        [each + (3.0 if number % 100 == 7 else 0.0) for each in sample]
        for number, sample in enumerate(behaviour)
    ]
    measured = measure([chunk(behaviour, evaluating)], sampled_by="reference")
    assert measured.worth.samples < 100
    assert measured["burst_fraction"].value == pytest.approx(0.01)
    assert measured["burst_fraction"].ci_low > 0.0015
    gates = judge_all(measured, choose_limits("standard", choose_objective("grpo")))
    assert {gate.metric: gate.verdict for gate in gates}["burst_fraction"] == "drift"


def test_a_probability_difference_is_not_cut() -> None:
    behaviour, evaluating = (np.array([each], np.float32) for each in (-27.0, -0.5))
    columns = dict(zip(COLUMNS, token_columns(behaviour, evaluating)[:, 0], strict=True))
    assert columns["probability_difference"] == pytest.approx(math.exp(-0.5), rel=1e-6)


def test_a_sample_longer_than_a_block_is_whole() -> None:
    rng = np.random.default_rng(10)
    behaviour = [-rng.exponential(1.0, 70_000), -rng.exponential(1.0, 10)]
    evaluating = [sample - 0.01 for sample in behaviour]
    measured = measure([chunk(behaviour, evaluating)], sampled_by="reference")
    assert measured.tokens == 70_010
    assert measured["mean_log_ratio"].value == pytest.approx(-0.01, rel=1e-5)
    assert len(measured.breakdowns["position"]) == 7


@pytest.mark.filterwarnings("error")
def test_a_logprob_that_rounding_puts_above_0_has_a_binary_kl() -> None:
    above, zero, low = (np.array([each], np.float32) for each in (1e-6, 0.0, -0.5))
    assert binary_kl(above, low) == binary_kl(zero, low)
    assert binary_kl(low, above) == binary_kl(low, zero)
