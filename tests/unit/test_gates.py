"""Verdicts: the rules, their monotony, and what they say."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.errors import ConfigError, TraceMismatchError
from parity_check.measure.gates import GateResult, family_wise_rate, judge, judge_all, overall
from parity_check.measure.limits import PROFILES, Limit, choose_limits
from parity_check.measure.measure import measure
from parity_check.measure.metrics import METRICS, PairedChunk
from parity_check.measure.objectives import OBJECTIVES
from parity_check.measure.results import Measurement
from parity_check.measure.stats import Estimate

GRPO = OBJECTIVES["grpo"]
RANK = {"drift": 0, "inconclusive": 1, "parity": 2}


def estimate(
    value: float, low: float | None, high: float | None, clusters: int = 64, unit: str = "nats"
) -> Estimate:
    note = "" if low is not None else f"no interval: {clusters} clusters, at least 8 needed"
    unseen = high if unit == "share" and value == 0.0 and high else 0.0
    return Estimate(
        "m", "reference", value, low, high, 0.95, 1000, clusters, unit, note, clusters, unseen
    )


def two_sided(value: float) -> Limit:
    return Limit("mean_log_ratio", value, "two_sided", "test")


def upper(value: float) -> Limit:
    return Limit("k3_kl", value, "upper", "test")


ESTIMATES = st.lists(
    st.floats(min_value=-1, max_value=1).filter(lambda x: abs(x) > 1e-6), min_size=3, max_size=3
).map(lambda xs: estimate(sorted(xs)[1], min(xs), max(xs)))
LIMITS = st.floats(min_value=1e-6, max_value=2)
KINDS = st.sampled_from(["two_sided", "upper"])


@pytest.mark.parametrize(
    ("low", "high", "limit", "verdict"),
    [
        (-1e-4, 2e-4, two_sided(1e-3), "parity"),
        (-1e-3, 1e-3, two_sided(1e-3), "parity"),
        (2e-3, 3e-3, two_sided(1e-3), "drift"),
        (-3e-3, -2e-3, two_sided(1e-3), "drift"),
        (5e-4, 2e-3, two_sided(1e-3), "inconclusive"),
        (-2e-3, 2e-3, two_sided(1e-3), "inconclusive"),
        (0.0, 9e-4, upper(1e-3), "parity"),
        (2e-3, 3e-3, upper(1e-3), "drift"),
        (0.995, 1.0, Limit("ess", 0.99, "lower", "test", 1.0), "parity"),
        (0.9, 0.95, Limit("ess", 0.99, "lower", "test", 1.0), "drift"),
        (0.98, 1.0, Limit("ess", 0.99, "lower", "test", 1.0), "inconclusive"),
        (0.9995, 1.0002, Limit("r", 1e-3, "two_sided", "test", 1.0), "parity"),
    ],
)
def test_verdict_by_the_interval(low: float, high: float, limit: Limit, verdict: str) -> None:
    assert judge(estimate((low + high) / 2, low, high), limit).verdict == verdict


@given(ESTIMATES, LIMITS, LIMITS, KINDS)
def test_a_wider_limit_is_never_worse(seen: Estimate, one: float, other: float, kind: str) -> None:
    narrow, wide = (judge(seen, Limit("m", value, kind, "test")) for value in sorted((one, other)))
    assert RANK[narrow.verdict] <= RANK[wide.verdict]


@given(ESTIMATES, ESTIMATES, LIMITS, LIMITS)
def test_with_a_floor_parity_stays_parity(
    seen: Estimate, floor: Estimate, one: float, other: float
) -> None:
    narrow, wide = (judge(seen, two_sided(value), floor) for value in sorted((one, other)))
    assert narrow.verdict != "parity" or wide.verdict == "parity"


@given(ESTIMATES, LIMITS, KINDS)
def test_parity_and_drift_exclude_each_other(seen: Estimate, value: float, kind: str) -> None:
    """Parity needs the value inside, drift needs it outside: both can never hold."""
    limit = Limit("m", value, kind, "test")
    low, high = limit.edges()
    verdict = judge(seen, limit).verdict
    assert verdict != "parity" or low <= seen.value <= high
    assert verdict != "drift" or not low <= seen.value <= high


@given(ESTIMATES, ESTIMATES, LIMITS)
def test_the_required_limit_passes_and_less_does_not(
    seen: Estimate, floor: Estimate, value: float
) -> None:
    required = judge(seen, two_sided(value), floor).required_limit
    assert judge(seen, two_sided(required), floor).verdict == "parity"
    assert judge(seen, two_sided(required * 0.999), floor).verdict != "parity"


def test_required_limits_of_one_sided_metrics() -> None:
    assert judge(estimate(1e-3, 5e-4, 2e-3), upper(1e-3)).required_limit == 2e-3
    ess = Limit("ess", 0.99, "lower", "test", 1.0)
    assert judge(estimate(0.98, 0.97, 0.985), ess).required_limit == 0.97


def test_a_floor_outside_the_limit_decides_nothing_and_advises() -> None:
    result = judge(estimate(5e-3, 4e-3, 6e-3), upper(1e-3), estimate(2e-3, 1e-3, 3e-3))
    assert result.verdict == "inconclusive"
    assert "its noise floor is 0.002" in result.reason
    assert "enable batch invariance, or choose a limit wider than 0.002" in result.reason


def test_inside_the_floor_is_called_indistinguishable() -> None:
    result = judge(estimate(4e-4, 3e-4, 5e-4), upper(1e-3), estimate(4e-4, 2e-4, 6e-4))
    assert result.verdict == "parity"
    assert result.reason.endswith("within the engine's own noise")


def test_without_an_interval_nothing_is_decided() -> None:
    result = judge(estimate(0.0, None, None, clusters=5), upper(1e-3))
    assert (result.verdict, result.prompts_needed) == ("inconclusive", 8)
    assert "5 clusters, at least 8 needed" in result.reason
    assert result.required_limit is None


def test_straddling_says_how_many_prompts_would_settle_it() -> None:
    result = judge(estimate(0.0, -2e-3, 2e-3, clusters=100), two_sided(1e-3))
    # s = 2e-3 sqrt(100) / 1.984; (4.4 s / 1e-3)^2 = 1967
    assert result.prompts_needed == result.prompts_if_clean == 1967
    assert "about 1,967 or far more prompts would resolve it (now 100)" in result.reason


def test_half_way_to_the_limit_a_clean_pair_needs_a_quarter() -> None:
    result = judge(estimate(5e-4, -1e-3, 2e-3, clusters=100), two_sided(1e-3))
    assert (result.prompts_needed, result.prompts_if_clean) == (4426, 1107)
    assert (
        "about 4,426 or far more prompts would resolve it (if nothing drifts: 1,107; now"
        in result.reason
    )


def test_prompts_that_share_a_cluster_are_needed_in_proportion() -> None:
    one = judge(estimate(0.0, -2e-3, 2e-3, clusters=100), two_sided(1e-3), prompts=250)
    assert one.prompts_needed == math.ceil(1967 * 2.5)
    assert "(now 250)" in one.reason
    few = judge(estimate(0.0, None, None, clusters=5), two_sided(1e-3), prompts=20)
    assert few.prompts_needed == 32


def test_sitting_on_the_limit_cannot_be_settled() -> None:
    result = judge(estimate(1e-3, 0.0, 2e-3), upper(1e-3))
    assert result.prompts_needed is None
    assert "more prompts will not resolve it" in result.reason


def test_zero_events_need_prompts_in_proportion() -> None:
    result = judge(estimate(0.0, 0.0, 3e-4, unit="share"), upper(1e-4))
    assert result.prompts_needed == 193  # a little slower than in proportion to 1 / n


@given(ESTIMATES, LIMITS)
def test_settling_always_needs_more_prompts_than_there_are(seen: Estimate, value: float) -> None:
    result = judge(seen, two_sided(value))
    assert result.prompts_needed is None or result.prompts_needed > seen.clusters


EXACT = choose_limits("exact", GRPO)


def test_exact_is_parity_only_when_nothing_differs() -> None:
    (limit,) = EXACT
    same, other = estimate(1.0, 0.99, 1.0), estimate(0.999, 0.99, 1.0)
    assert judge(same, limit).verdict == "parity"
    assert judge(other, limit).verdict == "drift"
    assert judge(same, limit, other).verdict == "inconclusive"


def test_exact_needs_as_many_prompts_as_any_verdict() -> None:
    (limit,) = EXACT
    few = dataclasses.replace(estimate(1.0, None, None, clusters=7), note="no interval: 7 clusters")
    assert judge(few, limit).verdict == "inconclusive"
    assert judge(dataclasses.replace(few, value=0.999), limit).verdict == "drift"


def chunk(prompts: int, tokens: int, noise: float, seed: int = 0) -> PairedChunk:
    rng = np.random.default_rng(seed)
    behaviour = -rng.exponential(1.0, prompts * tokens) - 1.0
    evaluating = behaviour + noise * rng.normal(size=prompts * tokens)
    numbers = np.arange(prompts, dtype=np.int32)
    return PairedChunk(
        behaviour.astype(np.float32),
        evaluating.astype(np.float32),
        np.arange(prompts + 1) * tokens,
        numbers,
        numbers,
    )


def run(prompts: int, tokens: int, noise: float, seed: int = 0) -> Measurement:
    return measure([chunk(prompts, tokens, noise, seed)], sampled_by="reference")


def test_bit_identical_tokens_are_parity_only_where_there_are_enough() -> None:
    """Engines that are identical but for rare events look just like this in a small sample."""
    few, many = run(16, 50, 0.0), run(2560, 64, 0.0)
    verdicts = {
        profile: tuple(overall(judge_all(seen, limits)) for seen in (few, many))
        for profile, limits in ((each, choose_limits(each, GRPO)) for each in PROFILES)
    }
    assert verdicts == {
        "strict": ("inconclusive", "inconclusive"),
        "standard": ("inconclusive", "parity"),
        "relaxed": ("inconclusive", "parity"),
        "exact": ("parity", "parity"),
    }


def test_small_noise_is_parity_and_large_noise_is_drift() -> None:
    limits = choose_limits("standard", GRPO)
    quiet = judge_all(run(2560, 64, 0.01), limits)
    assert overall(quiet) == "parity", [r.reason for r in quiet if r.verdict != "parity"]
    assert overall(judge_all(run(256, 200, 0.3), limits)) == "drift"
    assert overall(judge_all(run(12, 20, 0.01), limits)) == "inconclusive"


def test_the_worst_of_the_floors_counts() -> None:
    limits = choose_limits("standard", GRPO)
    floors = [run(256, 200, 0.001), run(256, 200, 0.3)]
    results = judge_all(run(256, 200, 0.01), limits, floors)
    by_metric = {result.metric: result for result in results}
    assert by_metric["k3_kl"].verdict == "inconclusive"
    assert by_metric["k3_kl"].floor == floors[1]["k3_kl"]


def test_one_unusable_logprob_is_drift_and_says_what_it_is() -> None:
    broken = chunk(2560, 64, 0.0)
    broken.evaluating_logprob[7] = -9999.0
    measured = measure([broken], sampled_by="reference")
    first, *rest = judge_all(measured, choose_limits("standard", GRPO))
    assert (first.metric, first.verdict) == ("invalid.floor", "drift")
    assert first.reason.startswith("1 in the evaluating engine's trace: -9999, a placeholder")
    assert {result.verdict for result in rest} == {"parity"}


def test_a_side_without_logprobs_is_drift_with_the_counts() -> None:
    broken = chunk(16, 50, 0.0)
    broken.evaluating_logprob[:] = np.nan
    results = judge_all(measure([broken], sampled_by="reference"), choose_limits("standard", GRPO))
    assert overall(results) == "drift"
    assert results[0].metric == "invalid.nan"
    assert results[0].reason.startswith("800 in the evaluating engine's trace")
    assert {result.verdict for result in results[1:]} == {"inconclusive"}
    assert results[1].reason == "none of 800 tokens has a usable logprob on both sides"


def test_a_random_token_is_drift_where_the_profile_says_so() -> None:
    broken = chunk(256, 50, 0.0)
    broken.behaviour_logprob[::1000] = broken.evaluating_logprob[::1000] = -700.0
    measured = measure([broken], sampled_by="reference")
    verdicts = {
        profile: {
            each.metric: each.verdict for each in judge_all(measured, choose_limits(profile, GRPO))
        }
        for profile in ("strict", "exact")
    }
    assert verdicts["strict"]["impossible_fraction"] == "drift"
    assert verdicts["exact"] == {"identical_fraction": "parity"}


def test_the_family_wise_rate_is_bonferronis_bound() -> None:
    results = judge_all(run(16, 50, 0.01), choose_limits("standard", GRPO))
    assert family_wise_rate(results) == pytest.approx(0.025 * len(results))
    assert family_wise_rate(judge_all(run(16, 50, 0.0), EXACT)) == 0.0


def test_a_limit_on_what_was_not_recorded_is_inconclusive() -> None:
    limits = choose_limits("exact", GRPO, {"top1_agreement": 0.99})
    results = judge_all(run(16, 50, 0.0), limits)
    assert [result.verdict for result in results] == ["parity", "inconclusive"]
    assert "workload.top_logprobs" in results[1].reason


def result(verdict: str) -> GateResult:
    return GateResult("m", "reference", verdict, "", upper(1.0))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["parity", "parity"], "parity"),
        (["parity", "inconclusive"], "inconclusive"),
        (["inconclusive", "drift", "parity"], "drift"),
    ],
)
def test_drift_wins_over_inconclusive_over_parity(verdicts: list[str], expected: str) -> None:
    assert overall(map(result, verdicts)) == expected


def test_nothing_judged_is_an_error() -> None:
    with pytest.raises(TraceMismatchError, match="nothing was compared"):
        overall([])


def test_every_number_of_every_profile_has_a_source_and_a_metric() -> None:
    for profile, numbers in PROFILES.items():
        for name, (value, source) in numbers.items():
            assert name.removeprefix("sequence_") in METRICS, (profile, name)
            assert value > 0
            assert source


def test_profiles_are_ordered() -> None:
    for name in PROFILES["strict"]:
        strict, standard, relaxed = (
            PROFILES[p][name][0] for p in ("strict", "standard", "relaxed")
        )
        ordered = (strict, standard, relaxed) if name != "ess" else (relaxed, standard, strict)
        assert list(ordered) == sorted(ordered), name


def test_sequence_objectives_take_the_sequence_limit() -> None:
    def clip_limit(name: str) -> float:
        limits = choose_limits("standard", OBJECTIVES[name])
        (found,) = [limit.value for limit in limits if limit.metric == "clip_fraction"]
        return found

    assert clip_limit("grpo") == PROFILES["standard"]["clip_fraction"][0]
    assert clip_limit("gspo") == PROFILES["standard"]["sequence_clip_fraction"][0]


def test_overrides_replace_and_add() -> None:
    limits = {
        limit.metric: limit
        for limit in choose_limits(
            "standard", GRPO, {"k3_kl": 1e-9, "multiplicative_error": 1.05, "mean_abs_log_ratio": 1}
        )
    }
    assert limits["k3_kl"] == Limit("k3_kl", 1e-9, "upper", "config")
    assert limits["multiplicative_error"].kind == "upper"
    assert limits["mean_importance_ratio"].target == 1.0


@pytest.mark.parametrize(
    ("profile", "overrides", "message", "hint"),
    [
        ("standart", {}, "unknown profile 'standart'", "did you mean standard?"),
        ("standard", {"k3_lk": 1.0}, "gates.k3_lk: unknown metric", "did you mean k3_kl?"),
        ("standard", {"k3_kl": 0.0}, r"gates.k3_kl: must be > 0 \(got 0\)", None),
        ("standard", {"k3_kl": -1.0}, r"gates.k3_kl: must be > 0 \(got -1\)", None),
        ("standard", {"k3_kl": float("inf")}, "must be > 0", None),
    ],
)
def test_bad_gates_are_refused(
    profile: str, overrides: dict[str, float], message: str, hint: str | None
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        choose_limits(profile, GRPO, overrides)
    assert hint is None or str(caught.value.hint).startswith(hint)


def test_results_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        result("parity").verdict = "drift"


@pytest.mark.parametrize("profile", ["standard", "relaxed"])
@pytest.mark.parametrize("length", [16, 128])
def test_the_prompts_that_ess_asks_for_decide_it(profile: str, length: int) -> None:
    limits = [each for each in choose_limits(profile, GRPO) if each.metric == "ess"]
    [gate] = judge_all(run(40, length, 0.0), limits)
    assert gate.prompts_needed is not None
    [enough] = judge_all(run(gate.prompts_needed, length, 0.0), limits)
    [few] = judge_all(run(gate.prompts_needed * 9 // 10, length, 0.0), limits)
    assert (enough.verdict, few.verdict) == ("parity", "inconclusive")


def test_a_noisy_number_of_prompts_is_a_range() -> None:
    result = judge(estimate(6e-4, 1e-4, 1.1e-3, clusters=100), upper(1e-3))
    assert "about 290 to 5,612 prompts would resolve it" in result.reason
