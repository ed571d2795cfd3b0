"""Each defect is counted as what it is, once."""

from collections import Counter

import numpy as np
import pytest

from parity_check.measure import invalid
from parity_check.measure.alternatives import Alternatives


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_every_kind_of_value_is_counted_apart() -> None:
    values = f32(-1.0, np.nan, np.nan, np.inf, -np.inf, -9999.0, 1.0, 0.0)
    assert invalid.count_values(values, nulls=1) == {
        "missing": 1,
        "nan": 1,
        "positive_infinity": 1,
        "negative_infinity": 1,
        "floor": 1,
        "positive": 1,
    }
    assert invalid.usable_values(values).tolist() == [True, *[False] * 6, True]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -9999.0, 1.0])
def test_one_bad_value_is_noticed(bad: float) -> None:
    assert invalid.looks_clean(f32(-1.0, -2.0, 0.0))
    assert not invalid.looks_clean(f32(-1.0, bad, -2.0))


def test_a_hair_above_zero_is_rounding() -> None:
    assert invalid.looks_clean(f32(1e-7, -1.0))


def test_nothing_is_clean() -> None:
    assert invalid.looks_clean(f32())


def test_a_one_sided_run_of_zeros_to_the_end_is_padding() -> None:
    ours = f32(-1, -1, 0, 0, 0, 0)
    theirs = f32(-1, -1, -2, -2, -2, -2)
    padded = invalid.padding(ours, theirs, np.array([0, 6]))
    assert padded is not None
    assert padded.tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param([-1, 0, 0, 0, 0, -1], [-1, -9, -9, -9, -9, -1], id="other-logprobs-follow"),
        pytest.param(
            [0, 0, -1, 0, 0, 0, 0], [-9, -9, -1, -9, -9, -9, -9], id="zeros-before-the-run-too"
        ),
        pytest.param([0] * 6, [-2] * 6, id="nothing-but-zeros"),
    ],
)
def test_zeros_that_a_grammar_or_one_kept_token_explains(
    ours: list[float], theirs: list[float]
) -> None:
    assert invalid.padding(f32(*ours), f32(*theirs), np.array([0, len(ours)])) is None


def test_a_certain_token_does_not_split_a_padded_tail() -> None:
    ours = f32(-1, 0, 0, 0, 0, 0)
    theirs = f32(-1, -2, -2, -1e-7, -2, -2)
    padded = invalid.padding(ours, theirs, np.array([0, 6]))
    assert padded is not None
    assert padded.tolist() == [False, True, True, True, True, True]
    assert invalid.padding(ours[:5], theirs[:5], np.array([0, 5])) is None  # 3 contradicted


def test_tokens_that_truncation_left_alone_are_not_padding() -> None:
    ours, theirs = f32(*[0.0] * 8), f32(*[-0.2] * 8)
    assert invalid.padding(ours, theirs, np.array([0, 8])) is None


def test_certain_tokens_are_not_padding() -> None:
    ours, theirs = f32(*[0.0] * 8), f32(*[-1e-6] * 8)
    assert invalid.padding(ours, theirs, np.array([0, 8])) is None


def test_a_short_run_and_a_run_across_samples_are_not_padding() -> None:
    ours, theirs = f32(-1, 0, 0, 0, -1), f32(*[-2.0] * 5)
    assert invalid.padding(ours, theirs, np.array([0, 5])) is None
    ours, theirs = f32(-1, 0, 0, 0, 0, -1), f32(*[-2.0] * 6)
    assert invalid.padding(ours, theirs, np.array([0, 3, 6])) is None


def test_samples_without_tokens_do_not_confuse_the_runs() -> None:
    ours, theirs = f32(-2, 0, 0, 0, 0), f32(*[-2.0] * 5)
    padded = invalid.padding(ours, theirs, np.array([0, 0, 1, 1, 5, 5]))
    assert padded is not None
    assert padded.tolist() == [False, True, True, True, True]


def test_alternatives_are_checked_for_duplicates_gaps_and_the_sampled_token() -> None:
    ids = np.array([[5, 6, 7], [5, 6, 5], [5, 6, -1], [5, 6, 7], [5, 6, 7]], np.int32)
    logprobs = np.tile(f32(-0.5, -1.5, -2.5), (5, 1))
    token_ids = np.array([6, 6, 6, 9, 9], np.int32)
    sampled = f32(-1.5, -1.5, -1.5, -1.0, -3.0)
    assert Alternatives(ids, logprobs).defects(token_ids, sampled) == {
        "top_duplicate": 1,
        "top_sum_above_1": 0,
        "top_missing": 1,
        "sampled_not_returned": 1,
    }


def test_a_masked_alternative_is_not_a_missing_one() -> None:
    ids, logprobs = np.array([[5, 6]], np.int32), f32(-0.1, -np.inf)[None]
    counts = Alternatives(ids, logprobs).defects(None, f32(-0.1))
    assert not any(counts.values())


@pytest.mark.parametrize("rounding", ["none", "bf16", "two decimals"])
@pytest.mark.parametrize("division", [1.0, 2.3, 64.0])
def test_probabilities_of_alternatives_sum_to_1_at_most(rounding: str, division: float) -> None:
    """Divided logprobs, such as those of another base, are none; rounded ones are."""
    rng = np.random.default_rng(7)
    logprobs = np.log(rng.dirichlet(np.full(5, 0.5), 400)).astype(np.float32) / division
    if rounding == "bf16":
        logprobs = (logprobs.view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32)
    elif rounding == "two decimals":
        logprobs = logprobs.round(2)
    ids = np.tile(np.arange(5, dtype=np.int32), (400, 1))
    counts = Alternatives(ids, logprobs).defects(None, logprobs[:, 0])
    assert (counts["top_sum_above_1"] > 200) is (division > 1.0)
    assert division > 1.0 or counts["top_sum_above_1"] == 0


def test_a_nan_alternative_is_a_missing_one() -> None:
    ids, logprobs = np.array([[5, 6]], np.int32), f32(-0.1, np.nan)[None]
    assert Alternatives(ids, logprobs).defects(None, f32(-0.1))["top_missing"] == 1


def test_entries_come_in_table_order_with_their_sentence() -> None:
    entries = invalid.invalid_counts("candidate", {"positive": 2, "missing": 1, "nan": 0})
    assert [(entry.kind, entry.count) for entry in entries] == [("missing", 1), ("positive", 2)]
    assert all(entry.sentence == invalid.KINDS[entry.kind] for entry in entries)


def test_an_impossible_token_counts_unless_it_is_improbable_on_both_sides() -> None:
    """A random token is improbable everywhere; a likely one that a side calls impossible is not."""
    sides = {"behaviour": np.float32([-30, -30, -1]), "evaluating": np.float32([-1, -29, -1])}
    defects = {side: Counter() for side in sides}
    usable = invalid.inspect_logprobs(sides, dict.fromkeys(sides, 0), np.array([0, 3]), defects)
    assert usable is not None
    assert usable.tolist() == [True, False, True]
    assert defects["behaviour"]["impossible"] == 2


@pytest.mark.parametrize(
    ("least", "sampled", "count"),
    [(-3.0, -2.99, 0), (-3.0, -2.9, 1), (-2.5, -2.5, 0), (-np.inf, -9.0, 1)],
)
def test_a_sampled_token_beside_the_last_alternative_may_be_rounded(
    least: float, sampled: float, count: int
) -> None:
    """Its column may have another precision than those of the alternatives."""
    found = Alternatives(np.array([[1, 2]], np.int32), np.array([[-0.1, least]], np.float32))
    defects = found.defects(np.array([3], np.int32), np.array([sampled], np.float32))
    assert defects["sampled_not_returned"] == count
