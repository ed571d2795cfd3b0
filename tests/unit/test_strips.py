"""A drawn interval says what its verdict says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.comparison.document.numbers import strip
from parity_check.measure.gates import judge
from parity_check.measure.limits import Kind, Limit
from parity_check.measure.stats import Estimate

LIMITS = {
    "two_sided": Limit("mean_importance_ratio", 0.002, "two_sided", "", 1.0),
    "upper": Limit("k3_kl", 0.002, "upper", ""),
    "lower": Limit("ess", 0.99, "lower", "", 1.0),
}


@given(
    st.sampled_from(sorted(LIMITS)), st.floats(0.0, 2.0), st.floats(0.0, 0.1), st.floats(0.0, 0.1)
)
def test_inside_the_band_is_parity(kind: Kind, value: float, below: float, above: float) -> None:
    estimate = Estimate("x", "reference", value, value - below, value + above, 0.95, 99, 20, "1")
    gate = judge(estimate, LIMITS[kind])
    drawn = strip(gate)
    assert drawn is not None
    assert drawn.interval is not None
    (low, high), (lower, upper) = drawn.interval, drawn.band
    assert 0.0 <= low <= high <= 1.0
    if gate.verdict == "drift":
        assert high <= lower + 1e-9 or low >= upper - 1e-9
    elif gate.verdict == "parity":
        assert lower - 1e-9 <= low
        assert high <= upper + 1e-9
    assert drawn.cut_high or drawn.cut_low or drawn.value is not None


def test_nothing_to_draw() -> None:
    estimate = Estimate("x", "reference", 1.0, None, None, 0.95, 9, 2, "share", "few")
    assert strip(judge(estimate, Limit("identical_fraction", 1.0, "exact", "", 1.0))) is None
    drawn = strip(judge(estimate, LIMITS["lower"]))
    assert drawn is not None
    assert drawn.interval is None


@pytest.mark.parametrize("value", [0.5, 1.5])
def test_what_lies_outside_is_marked(value: float) -> None:
    estimate = Estimate("x", "reference", value, value, value, 0.95, 99, 20, "ratio")
    drawn = strip(judge(estimate, LIMITS["two_sided"]))
    assert drawn is not None
    assert drawn.value is None
    assert (drawn.cut_low, drawn.cut_high) == (value < 1, value > 1)
