"""Rows held against what each framework's own function counts on the same arrays.

`scripts/framework_values.py` wrote tests/data/framework-values.json: a value with all advantages 1
and one with all -1. A name may be followed by the edges that it was computed with.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from parity_check.measure.measure import measure
from parity_check.measure.metrics import METRICS, PairedChunk
from parity_check.measure.objectives import (
    NOT_ESTIMATED,
    OBJECTIVES,
    VERSIONS,
    Objective,
    choose_objective,
)
from parity_check.measure.results import Measurement

DATA = Path(__file__).parents[1] / "data"
STORED = json.loads((DATA / "framework-values.json").read_text(encoding="utf-8"))
VALUES = [
    (framework, name, *both) for framework, rows in STORED.items() for name, both in rows.items()
]
EDGES = {"opsm-trl": ("low",), "tv-mask-open-instruct": ("high",)}
"""Which edges a single number is."""
NOT_RUN = {
    "gspo-pipelinerl": "works on packed segments; ppo-pipelinerl is its clamp on tokens",
    **dict.fromkeys(("grpo-trl", "gspo-trl", "cispo-trl", "delta-trl"), "0 at the first step"),
    **dict.fromkeys(("mis", "tis-sequence-trl", "token-mask-trl"), "TRL counts nothing"),
    "tis-openrlhf": "OpenRLHF counts nothing",
}
"""Rows whose framework has no number to hold them against: test_objectives.py counts them."""


def arrays() -> PairedChunk:
    """64 sequences with heavy tails."""
    stored = np.load(DATA / "p2-heavy0.npz")
    rows = range(int(stored["n"]))
    behaviour = [stored[f"b{row}"] for row in rows]
    return PairedChunk(
        np.concatenate(behaviour),
        np.concatenate([stored[f"e{row}"] for row in rows]),
        np.cumsum([0, *map(len, behaviour)]),
        np.arange(len(behaviour), dtype=np.int32),
        np.zeros(len(behaviour), np.int32),
    )


def chosen(name: str) -> Objective:
    kind, *edges = name.split()
    sides = EDGES.get(kind, ("low", "high"))
    given = {
        f"epsilon_{side}": float(edge)
        for side, edge in zip(sides, edges, strict=len(edges) > 0)
    }  # fmt: skip
    return choose_objective(kind, **given)


def measured(objective: Objective, positive_share: float) -> Measurement:
    return measure(
        [arrays()], sampled_by="rollout", objective=objective, positive_share=positive_share
    )


@pytest.mark.parametrize(("framework", "name", "positive", "negative"), VALUES)
def test_a_number_is_the_frameworks(
    framework: str, name: str, positive: float, negative: float
) -> None:
    for share, expected in ((1.0, positive), (0.0, negative)):
        if name in METRICS:
            found = measured(OBJECTIVES["grpo"], share)[name].value
        else:
            found = measured(chosen(name), share)["clip_fraction"].value
        assert found == pytest.approx(expected, abs=2e-5), framework


def test_every_row_is_held_against_its_framework_or_says_why_not() -> None:
    held = {name.split()[0] for _, name, *_ in VALUES}
    assert set(OBJECTIVES) - held == set(NOT_RUN)
    for framework, name, *_ in VALUES:
        if name in OBJECTIVES:
            assert framework in {each.framework for each in OBJECTIVES[name].counters}, name


def test_every_counter_names_function_file_and_version() -> None:
    counters = [each for row in OBJECTIVES.values() for each in row.counters]
    for each in [*counters, *(counter for counter, _ in NOT_ESTIMATED)]:
        assert each.metric, each
        assert each.function, each
        assert each.file.endswith(".py"), each
        assert VERSIONS[each.framework]


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("reinforce-pipelinerl", "counted", 0.399),
        ("ppo-pipelinerl", "counted", 0.808),
        ("dppo", "high", 0.0199),
        ("dppo", "low", 0.0181),
        ("tis-slime", "counted", 0.00465),
        ("tis-token", "counted", 0.00500),
        ("cispo-slime", "counted", 0.000202),
        ("cispo", "counted", 0.000289),
        ("icepop-slime", "counted", 0.0102),
    ],
)
def test_what_frameworks_log_under_one_name_differs(name: str, part: str, expected: float) -> None:
    clips = {clip.objective.name: clip for clip in measured(OBJECTIVES["grpo"], 0.5).clips}
    assert getattr(clips[name], part).value == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clamped_importance_ratio", 0.9582),  # PipelineRL's ratio_new_old in reinforce
        ("mean_importance_ratio", 1.0137),
        ("ess_truncated", 0.969),  # verl's rollout_is_eff_sample_size
        ("ess", 0.936),
        ("truncated_importance_ratio", 1.0071),  # NeMo-RL's sampling_importance_ratio
    ],
)
def test_what_frameworks_call_the_ratio_differs(name: str, expected: float) -> None:
    assert measured(OBJECTIVES["grpo"], 0.5)[name].value == pytest.approx(expected, abs=5e-4)


def test_k1_bounds_of_verl_are_of_the_inverse_ratio() -> None:
    verl = choose_objective("geometric-mask", 0.99, 1.05)
    other = choose_objective("geometric-mask-skyrl", 0.99, 1.05)
    assert measured(verl, 0.5)["clip_fraction"].value == pytest.approx(0.15625)
    assert measured(other, 0.5)["clip_fraction"].value == pytest.approx(0.453125)
