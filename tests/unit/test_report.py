"""The report of a comparison: its JSON, its numbers in words, what its document says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.canned import CANNED, write_run
from helpers.canned_matrix import write_matrix
from helpers.schemas import validator
from parity_check.comparison.analyse import analyse
from parity_check.comparison.document import document
from parity_check.comparison.report import ComparisonReport
from parity_check.config.load import load_config
from parity_check.diagnosis.findings import Finding
from parity_check.errors import InputError
from parity_check.measure.limits import Kind
from parity_check.measure.stats import Estimate
from parity_check.report import numbers
from parity_check.report.document import Coverage, PageOnly, Table
from parity_check.report.renderers import render

FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ComparisonReport:
    run = write_run(tmp_path_factory.mktemp("run"), CANNED["drift"])
    return analyse(run, load_config(run / "config.toml"))


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@settings(deadline=None, max_examples=25)
@given(value=FLOATS, low=FLOATS, largest=FLOATS, log_ratio=FLOATS)
def test_json_never_holds_a_nan(
    report: ComparisonReport, value: float, low: float, largest: float, log_ratio: float
) -> None:
    [pair] = report.pairs
    [first, *others] = pair.directions
    measured = first.measurement
    estimates = tuple(replace(each, value=value, ci_low=low) for each in measured.estimates)
    broken = replace(
        pair,
        directions=(
            replace(first, measurement=replace(measured, estimates=estimates, largest=largest)),
            *others,
        ),
        worst_tokens=tuple(replace(each, log_ratio=log_ratio) for each in pair.worst_tokens),
    )
    text = render(document(replace(report, pairs=(broken,))), "json")
    tree = json.loads(text, parse_constant=refuse)
    validator("comparison").validate(tree)
    [found] = [token["log_ratio"] for token in tree["worst_tokens"][:1]]
    assert found == (log_ratio if math.isfinite(log_ratio) else None)


@pytest.mark.parametrize(
    "key", ["metrics", "gates", "diagnosis", "worst_tokens", "warnings", "engines", "matrix"]
)
def test_the_schema_needs_the_contract(report: ComparisonReport, key: str) -> None:
    tree = json.loads(render(document(report), "json"))
    del tree[key]
    assert not validator("comparison").is_valid(tree)


def test_flat_lists_name_their_direction(report: ComparisonReport) -> None:
    tree = json.loads(render(document(report), "json"))
    both = {("reference", "candidate"), ("candidate", "reference")}
    for key in ("metrics", "gates", "quantiles", "tails", "clips", "breakdowns", "directions"):
        assert {(each["sampled_by"], each["evaluated_by"]) for each in tree[key]} == both, key
    assert {(each["reference"], each["candidate"]) for each in tree["diagnosis"]} == {
        ("reference", "candidate")
    }


def test_a_verdict_counts_what_is_open(report: ComparisonReport) -> None:
    drifting = sum(gate.verdict == "drift" for gate in report.gates)
    unsettled = sum(gate.verdict == "inconclusive" for gate in report.gates)
    line = document(report).verdict_line
    assert f"{drifting} of {len(report.gates)} gates outside" in line
    assert f"{unsettled} inconclusive" in line


def test_parity_needs_everything_that_was_asked_for(report: ComparisonReport) -> None:
    some = replace(report, coverage=Coverage(("this", "that"), ("this",)))
    assert document(some).verdict == "drift"
    gates = tuple(
        replace(direction, gates=tuple(replace(gate, verdict="parity") for gate in direction.gates))
        for direction in report.pairs[0].directions
    )
    passing = replace(report.pairs[0], directions=gates)
    with pytest.raises(InputError, match="not compared: that"):
        document(replace(some, verdict="parity", pairs=(passing,)))


def test_every_pair_of_three_engines_has_its_part(tmp_path: Path) -> None:
    run = write_matrix(tmp_path / "run")
    report = analyse(run, load_config(run / "config.toml"))
    shown = document(report)
    pairs = [f"{pair.candidate} against {pair.reference}" for pair in report.pairs]
    assert pairs == [
        "candidate against reference",
        "trainer against reference",
        "trainer against candidate",
    ]
    assert {check.group for check in shown.checks} == {
        f"{name}, sampled by the {direction.sampled_by}"
        for name, pair in zip(pairs, report.pairs, strict=True)
        for direction in pair.directions
    }
    assert len(shown.checks) == len(report.gates)
    text = render(shown, "text")
    for name in pairs:
        assert f"worst tokens, {name}" in text
        assert text.count(name) >= 2  # its diagnosis as well
    for words in ("A/A floor", "was there before", "the first step of a loss", "good practices"):
        assert words in text
    tree = json.loads(render(shown, "json"))
    for key in ("gates", "metrics", "worst_tokens", "stages"):
        names = {name for each in tree[key] for name in (*each.values(),) if name == "trainer"}
        assert names, key


def test_with_a_matrix_the_tables_of_directions_are_for_the_page(
    report: ComparisonReport, tmp_path: Path
) -> None:
    run = write_matrix(tmp_path / "run")
    three = analyse(run, load_config(run / "config.toml"))
    for shown, folded in ((document(report), False), (document(three), True)):
        [numbers_section] = [each for each in shown.sections if each.id == "numbers"]
        assert isinstance(numbers_section.blocks[0], PageOnly) == folded
        tables = [block for block in shown.blocks() if isinstance(block, Table)]
        found = [table for table in tables if table.caption.startswith("All numbers, ")]
        directions = (three if folded else report).pairs
        assert len(found) == sum(len(pair.directions) for pair in directions)


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


def test_groups_have_their_names(report: ComparisonReport) -> None:
    for direction in report.pairs[0].directions:
        bins = direction.measurement.breakdowns["prompt_group"]
        assert [each.label for each in bins] == ["arithmetic", "story"]


def test_a_floor_is_the_worst_of_the_engines(tmp_path: Path) -> None:
    run = write_run(tmp_path, replace(CANNED["parity"], own_noise=1e-3))
    found = analyse(run, load_config(run / "config.toml"))
    own = [floor.measurement for floor in found.floors]
    for direction in found.pairs[0].directions:
        assert direction.largest_floor == max(floor.largest for floor in own)
        p99 = direction.floors["abs_log_ratio_p99"]
        assert p99.value == max(floor.quantiles["0.99"].value for floor in own)
        assert direction.floors["rms_log_ratio"].value == max(
            floor["rms_log_ratio"].value for floor in own
        )


def test_a_remark_is_no_cause_of_the_verdict(report: ComparisonReport) -> None:
    [pair] = report.pairs
    first, *_ = pair.diagnosis.findings
    small = replace(first, cause="small", claim="A small effect.", explained=0.01, weight=0.01)

    def lead_and_causes(*findings: Finding) -> tuple[str, list[str], list[str]]:
        diagnosis = replace(pair.diagnosis, findings=findings)
        found = document(replace(report, pairs=(replace(pair, diagnosis=diagnosis),)))
        causes, remarks = ([each.id for each in part] for part in (found.causes, found.remarks))
        return found.lead, causes, remarks

    lead, causes, remarks = lead_and_causes(first, small)
    assert (lead, causes, remarks) == (first.claim, [first.cause], ["small"])
    lead, causes, remarks = lead_and_causes(small)
    assert small.claim not in lead
    assert (causes, remarks) == ([], ["small"])
