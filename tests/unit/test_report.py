"""The report: its JSON, its numbers in words, what each renderer says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.canned import CANNED, write_run
from parity_check.comparison.analyse import analyse
from parity_check.comparison.report import ParityReport
from parity_check.config.load import load_config
from parity_check.measure.gates import Kind
from parity_check.measure.stats import Estimate
from parity_check.report import json as report_json
from parity_check.report import numbers, sentences
from parity_check.report.renderers import RENDERERS

VALIDATOR = jsonschema.Draft202012Validator(report_json.schema())
FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ParityReport:
    run = write_run(tmp_path_factory.mktemp("run"), CANNED["drift"])
    return analyse(run, load_config(run / "config.toml"))


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(report_json.schema())


def test_json_is_read_back_as_it_was(report: ParityReport) -> None:
    tree = report_json.to_dict(report)
    assert json.loads(report_json.render(report)) == json.loads(json.dumps(tree)) == tree


@settings(deadline=None, max_examples=25)
@given(value=FLOATS, low=FLOATS, largest=FLOATS, log_ratio=FLOATS)
def test_json_never_holds_a_nan(
    report: ParityReport, value: float, low: float, largest: float, log_ratio: float
) -> None:
    [first, *others] = report.directions
    measured = first.measurement
    estimates = tuple(replace(each, value=value, ci_low=low) for each in measured.estimates)
    broken = replace(
        report,
        directions=(
            replace(first, measurement=replace(measured, estimates=estimates, largest=largest)),
            *others,
        ),
        worst_tokens=tuple(replace(each, log_ratio=log_ratio) for each in report.worst_tokens),
    )
    tree = json.loads(report_json.render(broken), parse_constant=refuse)
    VALIDATOR.validate(tree)
    [found] = [token["log_ratio"] for token in tree["worst_tokens"][:1]]
    assert found == (log_ratio if math.isfinite(log_ratio) else None)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every object in a JSON tree, the first entry of each list alone."""
    if isinstance(tree, dict):
        yield path
        for name, value in tree.items():
            yield from places(value, (*path, name))
    elif isinstance(tree, list) and tree:
        yield from places(tree[0], (*path, 0))


FREE = ("config", "host", "model", "environment", "packages", "sampling")


def test_the_schema_knows_every_key(report: ParityReport) -> None:
    """A key that the schema does not name, or one that is missing, is noticed everywhere."""
    text = report_json.render(report)
    for path in places(json.loads(text)):
        if any(part in FREE for part in path):
            continue
        tree = json.loads(text)
        place = tree
        for part in path:
            place = place[part]
        place["surprise"] = {"neither": "number nor estimate"}
        assert not VALIDATOR.is_valid(tree), path


@pytest.mark.parametrize("key", ["verdict", "metrics", "gates", "schema_version", "engines"])
def test_the_schema_needs_the_contract(report: ParityReport, key: str) -> None:
    tree = report_json.to_dict(report)
    del tree[key]
    assert not VALIDATOR.is_valid(tree)


def test_every_renderer_ends_in_a_line_and_says_the_verdict(report: ParityReport) -> None:
    for name, render in RENDERERS.items():
        text = render(report)
        assert text.endswith("\n"), name
        assert "drift" in text.lower(), name


def test_a_verdict_counts_what_is_open(report: ParityReport) -> None:
    drifting = sum(gate.verdict == "drift" for gate in report.gates)
    unsettled = sum(gate.verdict == "inconclusive" for gate in report.gates)
    line = sentences.verdict_line(report)
    assert f"{drifting} of {len(report.gates)} gates outside" in line
    assert f"{unsettled} not settled" in line


@pytest.mark.parametrize(
    ("metric", "value", "written"),
    [
        ("mean_log_ratio", 0.0, "0"),
        ("mean_log_ratio", 0.0012345, "+0.00123"),
        ("mean_log_ratio", -1.9e-10, "-1.9e-10"),
        ("rms_log_ratio", 3e-8, "3.0e-08"),
        ("k3_kl", 0.0, "0"),
        ("k3_kl", 1.5e-5, "1.50e-05"),
        ("mean_importance_ratio", 1.0, "1.00000"),
        ("tail_fraction", 0.0, "0 %"),
        ("tail_fraction", 1e-6, "1.0e-04 %"),
        ("ess", 1.0, "100 %"),
        ("ess", 0.99999999, "100.000 %"),
    ],
)
def test_what_is_not_zero_never_looks_like_zero(metric: str, value: float, written: str) -> None:
    assert numbers.number(metric, value) == written


def test_an_estimate_without_an_interval_has_a_dash() -> None:
    estimate = Estimate("k3_kl", "reference", 1e-3, None, None, 0.95, 10, 3, "nats", "few")
    assert numbers.interval(estimate) == "–"


@given(st.floats(min_value=1e-12, max_value=1e6), st.sampled_from(["upper", "two_sided", "lower"]))
def test_the_limit_that_is_named_would_pass(limit: float, kind: Kind) -> None:
    named = float(numbers.passing(limit, kind))
    assert named <= limit if kind == "lower" else named >= limit
    assert named == pytest.approx(limit, rel=0.011)


def test_groups_have_their_names(report: ParityReport) -> None:
    for direction in report.directions:
        bins = direction.measurement.breakdowns["prompt_group"]
        assert [each.label for each in bins] == ["arithmetic", "story"]


def test_a_floor_is_the_worst_of_the_engines(tmp_path: Path) -> None:
    run = write_run(tmp_path, replace(CANNED["parity"], own_noise=1e-3))
    found = analyse(run, load_config(run / "config.toml"))
    own = [floor.measurement for floor in found.floors]
    for direction in found.directions:
        assert direction.largest_floor == max(floor.largest for floor in own)
        p99 = direction.floors["abs_log_ratio_p99"]
        assert p99.value == max(floor.quantiles["0.99"].value for floor in own)
        assert direction.floors["rms_log_ratio"].value == max(
            floor["rms_log_ratio"].value for floor in own
        )
