"""Which configurations an ablation tries, and what it says of each step."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.support import chunk_of
from parity_check.ablation.plan import (
    DEFAULT,
    LADDER,
    SETTINGS,
    Drift,
    Effect,
    Flip,
    Step,
    at_floor,
    differing_tokens,
    drift,
    effect,
    parse_flip,
    plan,
    removed_share,
)
from parity_check.ablation.steps import Clock, duration
from parity_check.config.engines import Settings
from parity_check.errors import ConfigError, TraceMismatchError
from parity_check.measure.measure import measure
from parity_check.measure.stats import Estimate
from parity_check.traces.batch import SampleBatch

RIGHT = {rung.setting: rung.value for rung in LADDER}
DEFAULTS = dict.fromkeys(SETTINGS, DEFAULT)


def rows(steps: tuple[Step, ...], part: str) -> list[Step]:
    return [step for step in steps if step.part == part]


def test_the_ladder_adds_one_setting_at_a_time() -> None:
    ladder = rows(plan(DEFAULTS, {}), "ladder")
    assert [step.name for step in ladder] == [
        "engine defaults",
        "+ processed_logprobs",
        "+ prefix caching off",
        "+ async scheduling off",
        "+ fp32 lm_head",
    ]
    assert dict(ladder[0].settings) == DEFAULTS
    assert dict(ladder[-1].settings) == RIGHT
    for below, step in itertools.pairwise(ladder):
        assert dict(step.settings) == {**below.settings, step.key: step.value}


def test_the_ladder_names_every_setting_of_the_configuration() -> None:
    assert set(SETTINGS) == set(Settings.model_fields)


def test_each_setting_is_flipped_from_the_candidates_own() -> None:
    own = {**RIGHT, "lm_head_dtype": "model"}
    flips = rows(plan(own, {"seed": 1}), "flip")
    assert [(step.key, step.value) for step in flips] == [
        ("logprobs_mode", "raw_logprobs"),
        ("enable_prefix_caching", True),
        ("async_scheduling", True),
        ("lm_head_dtype", "float32"),
    ]
    for step in flips:
        assert dict(step.settings) == {**own, step.key: step.value}
        assert step.engine_args == {"seed": 1}


def test_equal_configurations_share_a_directory() -> None:
    steps = plan(DEFAULTS, {})
    start, own = rows(steps, "ladder")[0], rows(steps, "own")[0]
    rung, flip = rows(steps, "ladder")[1], rows(steps, "flip")[0]
    assert start.directory == own.directory == "step-1"
    assert rung.directory == flip.directory == "step-2"
    configurations = {(str(s.settings), str(s.engine_args)): s.directory for s in steps}
    assert len(set(configurations.values())) == len(configurations) == 8


def test_a_flip_to_what_is_there_already_starts_nothing_new() -> None:
    steps = plan(RIGHT, {"a": 1}, flips=[Flip("a", (1, 2))])
    own = rows(steps, "own")[0]
    same, other = [step for step in steps if step.key == "a"]
    assert same.directory == own.directory
    assert other.directory not in {step.directory for step in steps if step is not other}


def test_only_picks() -> None:
    steps = plan(RIGHT, {}, only=["lm_head_dtype"])
    assert [step.key for step in steps] == [None, "lm_head_dtype", None, "lm_head_dtype"]
    steps = plan(RIGHT, {}, only=["x"], flips=[Flip("x", (True, False))])
    assert [(step.part, step.key, step.value) for step in steps] == [
        ("own", None, None),
        ("flip", "x", True),
        ("flip", "x", False),
    ]


def test_without_single_flips_the_named_ones_stay() -> None:
    assert {step.part for step in plan(RIGHT, {}, singly=False)} == {"ladder"}
    steps = plan(RIGHT, {}, singly=False, flips=[Flip("x", (1,))])
    assert [step.key for step in rows(steps, "flip")] == ["x"]


def test_values_of_one_key_may_come_one_by_one() -> None:
    steps = plan(RIGHT, {}, only=["x"], flips=[Flip("x", (1,)), Flip("x", (2,))])
    assert [step.value for step in rows(steps, "flip")] == [1, 2]


def test_named_values_of_a_setting_stand_in_for_its_usual_flip() -> None:
    steps = plan(RIGHT, {}, flips=[Flip("logprobs_mode", ("raw_logprobs", "default"))])
    flips = [step for step in rows(steps, "flip") if step.key == "logprobs_mode"]
    assert [step.settings["logprobs_mode"] for step in flips] == ["raw_logprobs", "default"]
    assert all(step.engine_args == {} for step in flips)


@pytest.mark.parametrize(
    ("only", "flips", "expected"),
    [
        (["lm_head"], [], "--only lm_head: neither a setting nor a --flip"),
        (["logprobs_mode"], [Flip("x", (1,))], "--only excludes --flip x"),
    ],
)
def test_picks_that_make_no_sense(only: list[str], flips: list[Flip], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        plan(RIGHT, {}, only=only, flips=flips)


def test_a_near_miss_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        plan(RIGHT, {}, only=["async_schedule"])
    assert caught.value.hint == "did you mean async_scheduling?"


def test_a_refused_setting_is_marked_and_left_out_above() -> None:
    def refuse(key: str, value: Any) -> str | None:
        return "always raw" if (key, value) == ("logprobs_mode", "processed_logprobs") else None

    ladder = rows(plan(DEFAULTS, {}, refuse=refuse), "ladder")
    assert (ladder[1].refused, ladder[1].directory) == ("always raw", None)
    assert ladder[2].settings["logprobs_mode"] == DEFAULT
    assert dict(ladder[-1].settings) == {**RIGHT, "logprobs_mode": DEFAULT}
    assert all(step.directory for step in ladder if not step.refused)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("enforce_eager=true,false", Flip("enforce_eager", (True, False))),
        ("max_num_seqs = 8, 16", Flip("max_num_seqs", (8, 16))),
        ("dtype=bfloat16,float32", Flip("dtype", ("bfloat16", "float32"))),
        ('kv_cache_dtype="fp8"', Flip("kv_cache_dtype", ("fp8",))),
        ("x=[1, 2]", Flip("x", ([1, 2],))),
    ],
)
def test_flips_as_they_are_typed(text: str, expected: Flip) -> None:
    assert parse_flip(text) == expected


@pytest.mark.parametrize("text", ["x", "x=", "=true", ""])
def test_flips_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        parse_flip(text)


@pytest.mark.parametrize(
    ("value", "before", "after", "differing", "expected"),
    [
        (False, {"k": True}, {"k": False}, 3, "changed"),
        (False, {}, {}, 3, "changed"),
        (False, {"k": False}, {"k": False}, 3, "changed unasked"),
        (False, {"k": True}, {"k": False}, 0, "no effect here"),
        (False, {"k": False}, {"k": False}, 0, "already so"),
        ("default", {"k": False}, {"k": False}, 0, "already so"),
        (True, {"k": False}, {"k": False}, 0, "not applied"),
        ("8", {"k": 8}, {"k": 8}, 0, "already so"),
        (True, {}, {}, 0, "not known"),
        (True, {}, {"k": True}, 0, "no effect here"),
    ],
)
def test_effects(
    value: Any, before: dict[str, Any], after: dict[str, Any], differing: int, expected: Effect
) -> None:
    assert effect("k", value, before, after, differing) == expected


def batch(logprobs: list[float]) -> SampleBatch:
    count = len(logprobs)
    return SampleBatch(
        sample_ids=["a"], prompt_ids=["a"], prompt_groups=["a"],
        prompt_starts=np.array([0, 0]), prompt_token_ids=np.zeros(0, np.int32),
        starts=np.array([0, count]), token_ids=np.zeros(count, np.int32),
        logprobs=np.array(logprobs, np.float32), nulls=0,
        top_token_ids=None, top_logprobs=None,
    )  # fmt: skip


LOGPROBS = st.lists(
    st.floats(width=32, max_value=0.0, allow_nan=False) | st.just(float("nan")), min_size=1
)


@given(LOGPROBS, st.data())
def test_tokens_differ_in_bits(logprobs: list[float], data: st.DataObject) -> None:
    assert differing_tokens([batch(logprobs)], [batch(logprobs)]) == 0
    place = data.draw(st.integers(0, len(logprobs) - 1))
    other = np.array(logprobs, np.float32)
    other[place] = np.nextafter(other[place], np.float32(1)) if np.isfinite(other[place]) else -1
    changed = batch(list(other.astype(float)))
    assert differing_tokens([batch(logprobs)], [changed]) == 1


def test_other_tokens_are_no_replay_of_the_same() -> None:
    with pytest.raises(TraceMismatchError, match="different tokens"):
        differing_tokens([batch([-1.0])], [batch([-1.0, -2.0])])
    with pytest.raises(TraceMismatchError, match="different tokens"):
        differing_tokens([batch([-1.0])], [])


def made(sizes: list[float], tokens: float = 4.0) -> Drift:
    return Drift(np.array(sizes), np.full(len(sizes), tokens))


SUMS = st.lists(st.floats(0, 10), min_size=9, max_size=9)


@given(st.lists(SUMS, min_size=2, max_size=6).filter(lambda steps: sum(steps[0]) > 0.01))
def test_the_shares_of_a_ladder_add_up(steps: list[list[float]]) -> None:
    drifts = [made(step) for step in steps]
    shares = [
        removed_share(drifts[0], before, after, 0.95)
        for before, after in itertools.pairwise(drifts)
    ]
    total = sum(share.value for share in shares if share is not None)
    assert total == pytest.approx(1 - drifts[-1].value() / drifts[0].value(), abs=1e-9)


@given(SUMS.filter(lambda sums: sum(sums) > 0.01), st.floats(0, 3))
def test_a_proportional_change_has_no_uncertainty(sums: list[float], left: float) -> None:
    share = removed_share(made(sums), made(sums), made([left * each for each in sums]), 0.95)
    assert share is not None
    assert share.value == pytest.approx(1 - left, abs=1e-9)
    assert share.ci_low == pytest.approx(1 - left, abs=1e-6)
    assert share.ci_high == pytest.approx(1 - left, abs=1e-6)


def test_nothing_can_be_removed_of_nothing() -> None:
    assert removed_share(made([0.0] * 9), made([0.0] * 9), made([1.0] * 9), 0.95) is None


def test_few_prompts_give_no_interval() -> None:
    share = removed_share(made([1.0, 2.0]), made([1.0, 2.0]), made([0.0, 1.0]), 0.95)
    assert share is not None
    assert (share.ci_low, share.ci_high) == (None, None)
    assert "8" in share.note


def test_the_interval_of_a_share_covers() -> None:
    rng = np.random.default_rng(20261121)
    covered = 0
    for _ in range(400):
        initial = rng.gamma(2.0, 1.0, 40)
        left = initial * rng.uniform(0.2, 0.4, 40)
        share = removed_share(made(list(initial)), made(list(initial)), made(list(left)), 0.95)
        assert share is not None
        assert share.ci_low is not None
        assert share.ci_high is not None
        covered += share.ci_low <= 0.7 <= share.ci_high
    assert 0.92 <= covered / 400 <= 0.98


def test_drift_is_the_mean_size_of_the_report() -> None:
    rng = np.random.default_rng(1)
    samples = [[(-1.0, -1.0 + 0.3 * float(rng.normal())) for _ in range(5)] for _ in range(9)]
    samples[0][0] = (-1.0, float("nan"))
    measured = measure([chunk_of(samples)], sampled_by="reference")
    found = drift([chunk_of(samples)])
    assert found.value() == pytest.approx(measured["mean_abs_log_ratio"].value, rel=1e-12)
    assert found.tokens.sum() == 44


def test_time_left_is_that_of_the_steps_so_far() -> None:
    now = iter([100.0, 110.0, 160.0])
    clock = Clock(4, lambda: next(now))
    assert clock.left() == ""
    clock.tick()
    assert clock.left() == ", about 30 s left"
    clock.tick()
    assert clock.left() == ", about 60 s left"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "1 s"), (89, "89 s"), (95, "2 min"), (600, "10 min"), (5400, "1 h 30 min")],
)
def test_durations_in_words(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def estimate(value: float, high: float | None) -> Estimate:
    return Estimate("mean_abs_log_ratio", "reference", value, 0.0, high, 0.95, 10, 10, "nats")


@pytest.mark.parametrize(
    ("value", "floor", "expected"),
    [
        (0.0, estimate(0.0, 0.0), True),
        (1e-6, estimate(1e-7, 2e-6), True),
        (3e-6, estimate(1e-7, 2e-6), False),
        (1e-6, estimate(1e-6, None), True),
        (2e-6, estimate(1e-6, None), False),
        (0.0, None, False),
    ],
)
def test_at_the_floor(value: float, floor: Estimate | None, expected: bool) -> None:
    assert at_floor(estimate(value, None), floor) is expected
