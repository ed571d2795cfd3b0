"""From stored traces to what a diagnosis looks at: bounded, whole samples, always the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.canned import CANNED, write_run
from parity_check.comparison import diagnose
from parity_check.comparison.analyse import analyse, analyse_pair
from parity_check.comparison.report import ComparisonReport
from parity_check.config.load import load_config
from parity_check.config.models import Judging
from parity_check.diagnosis.findings import Diagnosis
from parity_check.traces import trace
from parity_check.traces.trace import Trace


@pytest.fixture
def long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A raw candidate's run of many row groups, ten times as long as what is looked at."""
    monkeypatch.setattr(trace, "ROWS_PER_GROUP", 8)
    monkeypatch.setattr(diagnose, "TOKEN_BUDGET", 1500)
    return write_run(tmp_path / "run", replace(CANNED["drift"], prompts=60, config={}))


def diagnosis_of(run: Path) -> Diagnosis:
    return diagnosis(analyse(run, load_config(run / "config.toml")))


def diagnosis(report: ComparisonReport) -> Diagnosis:
    [pair] = report.pairs
    return pair.diagnosis


def test_a_long_trace_is_looked_at_in_part(long_run: Path) -> None:
    assert Trace(long_run / "reference.parquet").row_groups == 15
    [finding] = diagnosis_of(long_run).findings
    assert finding.cause == "raw_logprobs"
    [sentence] = [text for text in finding.evidence if text.startswith("based on")]
    seen, total = (int(word.replace(",", "")) for word in sentence.split() if word[0].isdigit())
    assert 2000 <= seen <= 3000
    assert total == sum(
        Trace(long_run / name).header.tokens for name in ("reference.parquet", "candidate.parquet")
    )


def test_the_same_part_is_looked_at_again(long_run: Path) -> None:
    assert diagnosis_of(long_run) == diagnosis_of(long_run)


def test_the_part_is_spread_over_the_trace(long_run: Path) -> None:
    behaviour = Trace(long_run / "reference.parquet")
    evaluating = Trace(long_run / "reference-replayed-by-candidate.parquet")
    names = [
        name for left, _ in diagnose._sampled(behaviour, evaluating) for name in left.sample_ids
    ]
    places = np.array([int(name[1:].partition("/")[0]) for name in names])
    assert places.min() < 20
    assert places.max() >= 30
    assert len(names) == len(set(names))


def test_a_short_trace_is_looked_at_whole(tmp_path: Path) -> None:
    [finding] = diagnosis_of(write_run(tmp_path / "run", CANNED["drift"])).findings
    assert not any(text.startswith("seen in") for text in finding.evidence)


def test_two_stored_traces_are_diagnosed_as_well(tmp_path: Path) -> None:
    """Without A/A repeats and without a run's directory."""
    run = write_run(tmp_path / "run", CANNED["invalid-logprobs"])
    behaviour = run / "candidate.parquet"
    found = analyse_pair(behaviour, run / "candidate-replayed-by-reference.parquet", Judging())
    [finding] = diagnosis(found).findings
    assert (finding.cause, finding.engine) == ("bad_rows", "candidate")


def test_defects_are_counted_for_the_engine_that_has_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", CANNED["invalid-logprobs"])
    [finding] = diagnosis_of(run).findings
    assert finding.engine == "candidate"
    assert "missing: 2 in the candidate" in finding.evidence
    assert not any("reference" in sentence for sentence in finding.evidence)
