"""A temperature on one side of a dump: what the sampled tokens alone can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from helpers.synthetic import Engine, Pair, case_of
from parity_check.config.models import Role
from parity_check.diagnosis.temperature import gain, raw_in_dump, scale
from parity_check.traces.trace import UNKNOWN

DUMPED: Mapping[str, Any] = {"version": UNKNOWN, "distribution": UNKNOWN}
NOISE = 0.01


def pair(
    temperature: float, raw: Role | None = None, sampler: Role = "reference", **engine: Any
) -> Pair:
    """A dump of one sampler's tokens, at a temperature; `raw` is the side that reports T = 1."""
    sides = {
        role: Engine(noise=NOISE, raw=role == raw, facts=DUMPED)
        for role in ("reference", "candidate")
    }
    sides["candidate"] = replace(sides["candidate"], **engine)
    sampling = {"temperature": temperature}
    return Pair(**sides, sampling=sampling, top=0, samplers=(sampler,))


@pytest.mark.parametrize("temperature", [0.5, 0.7, 0.85, 1.2, 1.5])
@pytest.mark.parametrize("raw", ["reference", "candidate"])
def test_the_raw_side_is_named(temperature: float, raw: Role) -> None:
    found = raw_in_dump(case_of(pair(temperature, raw)))
    assert found is not None
    assert found.engine == raw
    fix = "start the rollout engine" if raw == "reference" else "divide the trainer's logits"
    assert found.words["remedy"].startswith(fix)


def test_tokens_are_likelier_under_what_they_were_sampled_from() -> None:
    case = case_of(pair(0.7, "reference"))
    mean, error = gain(case.evidence, "reference")
    assert mean > 5 * error > 0
    assert gain(case.evidence, "candidate")[0] == pytest.approx(-mean)


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.0, 1.3])
def test_sides_in_order_are_left_alone(temperature: float) -> None:
    for seed in range(12):
        case = case_of(pair(temperature), seed)
        found = scale(case.evidence)
        assert found is not None
        assert found.slope == pytest.approx(1.0, abs=0.02)
        assert raw_in_dump(case) is None
        assert raw_in_dump(replace(case, temperature_stated=False)) is None


def test_noise_of_a_policy_some_steps_on_is_not_a_temperature() -> None:
    assert [seed for seed in range(8) if raw_in_dump(case_of(pair(0.7, noise=0.3), seed))] == []


def test_a_change_of_scale_that_no_temperature_makes() -> None:
    """Twice as far as raw logprobs would go."""
    far = pair(0.9, sampling={"temperature": 0.5})
    assert raw_in_dump(case_of(far)) is None


def test_engines_that_say_what_they_return_are_another_rules() -> None:
    case = case_of(pair(0.7, "reference"))
    engines = {role: replace(each, distribution="processed") for role, each in case.engines.items()}
    assert raw_in_dump(replace(case, engines=engines)) is None


def test_without_a_stated_temperature_nobody_is_accused() -> None:
    found = raw_in_dump(replace(case_of(pair(0.6, "candidate")), temperature_stated=False))
    assert found is not None
    assert (found.engine, found.confidence) == (None, "low")


def test_too_few_tokens_say_nothing() -> None:
    assert raw_in_dump(case_of(replace(pair(0.6, "candidate"), prompts=4))) is None


def test_engines_of_a_dump_are_neither_equal_nor_different() -> None:
    case = case_of(pair(1.0))
    assert not case.equal_builds()
    changed = {"candidate": replace(case.engines["candidate"], config={"dtype": "float32"})}
    assert replace(case, engines={**case.engines, **changed}).differing("dtype") is None
