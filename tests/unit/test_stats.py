"""Closed-form expectations of the estimators."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binomtest
from scipy.stats import t as student

from parity_check.measure import stats

LABELS = {"sampled_by": "reference", "level": 0.95}


def test_spread_is_the_sandwich_of_its_docstring() -> None:
    sums, weights = np.array([1.0, 4.0, 3.0]), np.array([2.0, 3.0, 5.0])
    seen = stats.spread(sums, weights)
    squares = sum((s - 0.8 * w) ** 2 / (1 - w / 10) for s, w in zip(sums, weights, strict=True))
    assert seen.mean == pytest.approx(0.8)
    assert seen.error == pytest.approx(math.sqrt(squares) / 10)


def test_equal_clusters_give_the_error_of_the_mean_of_means_and_g_minus_one_degrees() -> None:
    means = np.random.default_rng(0).normal(size=12)
    seen = stats.spread(50 * means, np.full(12, 50.0))
    assert seen.error == pytest.approx(means.std(ddof=1) / math.sqrt(12))
    assert seen.degrees == pytest.approx(11.0)


@given(hnp.arrays(np.float64, st.integers(3, 12), elements=st.floats(0.5, 200.0)))
def test_degrees_of_freedom_are_those_of_the_quadratic_form(weights: np.ndarray) -> None:
    """Satterthwaite's, from the matrix of the form written out."""
    share = weights / weights.sum()
    centre = np.eye(len(share)) - np.outer(share, np.ones(len(share)))
    form = centre.T @ np.diag(1 / (1 - share)) @ centre @ np.diag(share**2)
    expected = np.trace(form) ** 2 / np.trace(form @ form)
    assert stats.spread(weights, weights).degrees == pytest.approx(max(1.0, expected))


def test_runs_along_the_first_axis_are_measured_as_one_by_one() -> None:
    rng = np.random.default_rng(7)
    sums, weights = rng.normal(size=(5, 20)), rng.uniform(1, 9, (5, 20))
    low, high = stats.long_tailed_interval(sums, weights, 0.95)
    for run in range(5):
        one = stats.long_tailed_interval(sums[run], weights[run], 0.95)
        assert one == pytest.approx((low[run], high[run]))


def test_the_interval_of_symmetric_sums_is_that_of_t() -> None:
    sums = np.arange(10.0)
    estimate = stats.mean_estimate("m", "nats", sums, np.ones(10), **LABELS)
    half = student.ppf(0.975, 9) * sums.std(ddof=1) / math.sqrt(10)
    assert estimate.ci_high == pytest.approx(4.5 + half)
    assert estimate.ci_low == pytest.approx(4.5 - half)
    assert (estimate.n, estimate.clusters, estimate.note) == (10, 10, "")
    assert estimate.effective_clusters == 10.0


def test_a_long_tail_widens_its_own_end_alone() -> None:
    sums = np.r_[np.arange(10.0), 60.0]
    seen, half = stats.spread(sums, np.ones(11)), student.ppf(0.975, 10)
    low, high = stats.skewed_interval(sums, np.ones(11), 0.95)
    assert low == pytest.approx(seen.mean - half * seen.error)
    assert high > seen.mean + 1.2 * half * seen.error
    assert stats.long_tailed_interval(sums, np.ones(11), 0.95)[1] > high


def test_too_few_clusters_give_no_interval_and_say_how_many_are_needed() -> None:
    estimate = stats.mean_estimate("m", "nats", np.arange(7.0), np.ones(7), **LABELS)
    assert estimate.value == 3.0
    assert (estimate.ci_low, estimate.ci_high) == (None, None)
    assert estimate.note == "no interval: 7 clusters, at least 8 needed"


def test_clusters_of_unequal_size_count_by_their_effective_number() -> None:
    weights = np.r_[100.0, np.ones(19)]
    estimate = stats.mean_estimate("m", "nats", weights, weights, **LABELS)
    assert estimate.effective_clusters == pytest.approx(119**2 / (100**2 + 19))
    assert estimate.ci_low is None
    assert estimate.note == (
        "no interval: 20 clusters of unequal size, worth 1.4, at least 8 needed"
    )


def test_clusters_without_tokens_do_not_count() -> None:
    sums, weights = np.r_[np.arange(8.0), 0.0, 0.0], np.r_[np.ones(8), 0.0, 0.0]
    assert stats.mean_estimate("m", "", sums, weights, **LABELS) == stats.mean_estimate(
        "m", "", sums[:8], weights[:8], **LABELS
    )


def test_a_mean_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="mean of no tokens"):
        stats.mean_estimate("m", "", np.zeros(3), np.zeros(3), **LABELS)


def share(sums: stats.Floats, weights: stats.Floats, **trials: float) -> stats.Estimate:
    [estimate] = stats.share_estimates(["s"], sums[None], weights, **LABELS, **trials)
    return estimate


def test_no_instance_is_bounded_by_the_rule_of_three() -> None:
    estimate = share(np.zeros(10), np.full(10, 100.0), trials=500.0)
    assert (estimate.value, estimate.ci_low) == (0.0, 0.0)
    assert estimate.ci_high == pytest.approx(-math.log(0.025) / 500, rel=5e-3)
    assert estimate.note == (
        "no instance in 1,000, worth 500: rule of three, if they are independent"
    )
    assert estimate.unseen == estimate.ci_high


def test_no_exception_is_bounded_from_below() -> None:
    estimate = share(np.full(10, 100.0), np.full(10, 100.0))
    assert (estimate.value, estimate.ci_high) == (1.0, 1.0)
    assert estimate.ci_low == pytest.approx(1 + math.log(0.025) / 1000, rel=1e-4)


def test_exact_intervals_are_clopper_and_pearsons() -> None:
    expected = binomtest(3, 50).proportion_ci(0.95, method="exact")
    assert stats.exact_interval(3, 50, 0.95) == pytest.approx((expected.low, expected.high))
    assert stats.exact_interval(50, 50, 0.95)[1] == 1.0


def test_a_single_instance_is_not_taken_for_certain() -> None:
    sums = np.r_[1.0, np.zeros(99)]
    estimate = share(sums, np.full(100, 10.0))
    assert estimate.ci_high >= 5.559e-3  # Clopper and Pearson's


def test_shares_of_one_total_are_estimated_together() -> None:
    rng = np.random.default_rng(0)
    sums, weights = rng.poisson(3.0, (2, 30)).astype(float), rng.uniform(5, 50, 30)
    for one, alone in zip(
        stats.share_estimates(["a", "b"], sums, weights, **LABELS), sums, strict=True
    ):
        assert one == replace(share(alone, weights), name=one.name)


def test_the_interval_of_a_share_stays_within_what_a_share_can_be() -> None:
    sums = np.r_[1.0, np.zeros(9)]
    estimate = share(sums, np.full(10, 10.0))
    assert estimate.ci_low == 0.0
    assert 0.01 < estimate.ci_high < 1.0


def test_ess_of_equal_ratios_is_one_but_for_unseen_tokens() -> None:
    counts = np.full(20, 8.0)
    estimate = stats.effective_sample_size("ess", counts, 1.5 * counts, 2.25 * counts, **LABELS)
    assert (estimate.value, estimate.ci_high) == (1.0, 1.0)
    unseen = stats.unseen_share(160, 0.95) * math.expm1(3.0) ** 2
    assert estimate.ci_low == pytest.approx(1 / (1 + unseen))
    assert estimate.unseen == pytest.approx(1 - estimate.ci_low)


def test_ess_is_that_of_its_tokens_and_within_its_interval() -> None:
    ratios = np.exp(np.random.default_rng(3).normal(0, 0.3, (40, 25)))
    sums = np.full(40, 25.0), ratios.sum(axis=1), np.square(ratios).sum(axis=1)
    estimate = stats.effective_sample_size("ess", *sums, **LABELS)
    assert estimate.value == pytest.approx(ratios.sum() ** 2 / (1000 * np.square(ratios).sum()))
    assert estimate.ci_low < estimate.value < estimate.ci_high <= 1.0


def test_the_sums_behind_ess_are_its_influence() -> None:
    """Leaving one cluster out moves 1 / ESS - 1 as its sum says, to first order."""
    ratios = np.exp(np.random.default_rng(4).normal(0, 0.3, (4000, 5)))
    n, r, rr = np.full(4000, 5.0), ratios.sum(axis=1), np.square(ratios).sum(axis=1)
    sums = stats.variation_sums(n, r, rr)
    whole = sums.sum() / n.sum()
    assert whole == pytest.approx(n.sum() * rr.sum() / r.sum() ** 2 - 1)
    for out in (0, 17, 3999):
        kept = np.delete(np.arange(4000), out)
        left = n[kept].sum() * rr[kept].sum() / r[kept].sum() ** 2 - 1
        expected = (sums[out] - whole * n[out]) / n.sum()
        assert whole - left == pytest.approx(expected, rel=2e-2, abs=1e-7)


@pytest.mark.parametrize(
    ("length", "unseen"),
    [
        (50, 0.6487 * (1 - 0.025 ** (1 / 20))),  # a cluster of N(0, 1)
        (1, 16.0855 * (1 - 0.025 ** (1 / 20))),  # a token 3 nats up
    ],
)
def test_what_is_unseen_adds_what_the_bound_on_its_share_allows(length: int, unseen: float) -> None:
    sizes = np.full(20, float(length))
    plain = stats.mean_estimate("k3_kl", "nats", np.arange(20.0), sizes, **LABELS)
    allowed = stats.allow_unseen(plain, 20.0)
    assert allowed.ci_high - plain.ci_high == pytest.approx(unseen, rel=1e-4)
    assert allowed.unseen == pytest.approx(allowed.ci_high - plain.ci_high)
    assert allowed.ci_low == plain.ci_low
    other = stats.mean_estimate("k2_kl", "nats", np.arange(20.0), sizes, **LABELS)
    assert stats.allow_unseen(other, 20.0) == other


def test_an_unseen_cluster_adds_what_its_noise_adds() -> None:
    delta = np.random.default_rng(5).normal(size=2_000_000)
    ratio = np.exp(delta)
    sizes = stats.UNSEEN_CLUSTER
    assert sizes["k3_kl"] == pytest.approx((ratio - 1 - delta).mean(), rel=0.01)
    assert sizes["mean_importance_ratio"] == pytest.approx(ratio.mean() - 1, rel=0.01)


@given(st.floats(min_value=2.0**-32, max_value=16000.0, width=32))
def test_a_bin_stands_for_its_members_within_half_a_percent(magnitude: float) -> None:
    index = int(stats.magnitude_bins(np.array([magnitude], np.float32))[0])
    assert abs(stats.bin_middle(index) - magnitude) <= 0.005 * magnitude


def test_bins_are_ordered_and_zero_is_the_lowest() -> None:
    magnitudes = np.r_[0.0, np.logspace(-9, 4, 500)].astype(np.float32)
    bins = stats.magnitude_bins(magnitudes)
    assert (np.diff(bins) >= 0).all()
    assert (bins[0], stats.bin_middle(0)) == (0, 0.0)


def histogram(magnitudes: np.ndarray) -> np.ndarray:
    """[folds, BINS] of magnitudes [clusters, tokens]."""
    counts = np.zeros((stats.FOLDS, stats.BINS), np.int64)
    for cluster, row in enumerate(magnitudes):
        bins = stats.magnitude_bins(row.astype(np.float32))
        counts[cluster % stats.FOLDS] += np.bincount(bins, minlength=stats.BINS)
    return counts


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.99, 0.999])
def test_quantiles_are_within_half_a_percent_of_the_sorted_ones(probability: float) -> None:
    magnitudes = np.abs(np.random.default_rng(4).standard_t(4, (300, 100)))
    estimate = stats.quantile_estimate(
        probability, histogram(magnitudes), magnitudes.max(), 300, **LABELS
    )
    exact = np.quantile(magnitudes, probability, method="inverted_cdf")
    assert estimate.value == pytest.approx(exact, rel=0.005)
    assert estimate.ci_low <= estimate.value <= estimate.ci_high
    assert estimate.n == 30_000


def test_a_quantile_beyond_what_the_sample_shows_says_so() -> None:
    magnitudes = np.abs(np.random.default_rng(5).normal(size=(20, 30)))
    estimate = stats.quantile_estimate(0.999, histogram(magnitudes), magnitudes.max(), 20, **LABELS)
    assert estimate.ci_high == magnitudes.max()
    assert "too few tokens" in estimate.note


def test_quantile_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(6)
    truth, covered = student.ppf(0.95, 4), 0
    for _ in range(300):
        magnitudes = np.abs(rng.standard_t(4, (60, 40)))
        estimate = stats.quantile_estimate(
            0.9, histogram(magnitudes), magnitudes.max(), 60, **LABELS
        )
        covered += estimate.ci_low <= truth <= estimate.ci_high
    assert covered >= 0.92 * 300


def test_clusters_needed_follows_its_formula() -> None:
    assert stats.clusters_needed(0.01, 1e-3) == math.ceil(44.0**2)
    assert stats.clusters_needed(0.01, 0.0) is None
    assert stats.clusters_needed(1.0, 1e-9) is None


@given(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0), st.floats(0.0, 10.0))
def test_so_many_clusters_bring_the_interval_within_the_distance(
    spread: float, distance: float, unseen: float
) -> None:
    clusters = stats.clusters_needed(spread, distance, unseen)
    if clusters is None:
        assert (stats.SETTLING_ERRORS * spread / distance) ** 2 > 1e8
        return
    assert stats.SETTLING_ERRORS * spread / math.sqrt(clusters) + unseen / clusters <= distance * (
        1 + 1e-9
    )
