"""What a report advises to settle its open gates."""

from __future__ import annotations

import re

import numpy as np
import pytest

from helpers.chunks import chunk
from parity_check.comparison.document.needed import to_settle
from parity_check.comparison.report import Direction
from parity_check.measure.gates import judge_all
from parity_check.measure.limits import choose_limits
from parity_check.measure.measure import measure
from parity_check.measure.objectives import choose_objective
from parity_check.measure.stats import Ints

GRPO = choose_objective("grpo")


def direction(lengths: Ints) -> Direction:
    """One sample of each prompt, of these lengths, with small noise; at the profile `relaxed`."""
    rng = np.random.default_rng(3)
    behaviour = [(-rng.exponential(1, length)).tolist() for length in lengths]
    evaluating = [[x - 0.001 * rng.random() for x in sample] for sample in behaviour]
    measured = measure([chunk(behaviour, evaluating)], sampled_by="reference")
    gates = judge_all(measured, choose_limits("relaxed", GRPO))
    return Direction("reference", "candidate", "", measured, gates, {}, None, None)


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        (np.full(100, 40), "about"),
        (np.minimum(64, np.random.default_rng(1).geometric(1 / 60, 100)), "about"),
        (np.random.default_rng(1).geometric(1 / 60, 100), "at least"),
    ],
    ids=["equal", "cut by max_tokens", "with a long tail"],
)
def test_prompts_of_ragged_samples_are_a_lower_bound(lengths: Ints, said: str) -> None:
    """A larger run holds longer samples than the longest of this one."""
    sentence = to_settle([direction(lengths)], GRPO, 0.95, {"temperature": 1.0})
    found = re.match(
        r"(about|at least) ([\d,]+) prompts would settle it \(now 100\)", sentence or ""
    )
    assert found is not None
    assert found[1] == said
    assert int(found[2].replace(",", "")) > 200
