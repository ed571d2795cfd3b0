"""An ablation's outcome: which step counts, in words and as an exit code."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.canned import spoil, write_run
from helpers.canned_ablation import SAME, write_ablation
from parity_check.ablation.analyse import analyse_ablation
from parity_check.ablation.document import document
from parity_check.ablation.files import PLAN, read_plan
from parity_check.ablation.report import AblationReport, StepReport
from parity_check.config.load import load_config
from parity_check.errors import ExitCode, InputError
from parity_check.report.document import Coverage, Sentence
from parity_check.report.renderers import RENDERERS, Format, render


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ablation(tmp_path_factory.mktemp("ablation"))


@pytest.fixture(scope="module")
def report(directory: Path) -> AblationReport:
    return analyse_ablation(directory, load_config(directory / "config.toml"))


def judged(report: AblationReport, verdicts: dict[int, Any], **others: Any) -> AblationReport:
    """The same with these verdicts by number, and drift away from the floor elsewhere."""

    def change(step: StepReport) -> StepReport:
        if step.state != "finished":
            return step
        verdict = verdicts.get(step.number, "drift")
        return replace(step, verdict=verdict, at_floor=step.number in others.get("floor", ()))

    return replace(report, steps=tuple(map(change, report.steps)))


def test_the_best_step_makes_the_exit_code(report: AblationReport) -> None:
    assert judged(report, {3: "parity", 2: "inconclusive"}).exit_code is ExitCode.PARITY
    assert judged(report, {2: "inconclusive"}).exit_code is ExitCode.INCONCLUSIVE
    assert judged(report, {}).exit_code is ExitCode.DRIFT
    assert judged(report, {}, floor=[8]).exit_code is ExitCode.PARITY
    unfinished = [step for step in report.steps if step.state != "finished"]
    assert replace(report, steps=tuple(unfinished)).exit_code is ExitCode.ENGINE


def test_of_equal_outcomes_the_least_drift_is_best(report: AblationReport) -> None:
    best = judged(report, {2: "parity", 8: "parity"}).best
    assert best is not None
    assert best.number == 8


@pytest.mark.parametrize(
    ("verdicts", "floor", "expected"),
    [
        ({3: "parity", 2: "parity"}, [], "✓ PARITY  the ladder, as far as it was run, ends in par"),
        ({3: "drift", 2: "parity"}, [], "the best is step 2, + processed_logprobs, in parity"),
        ({3: "drift"}, [8], "the best is step 8, enable_prefix_caching = false, at the floor"),
        ({3: "inconclusive"}, [], "? INCONCLUSIVE  the ladder, as far as it was run, ends incon"),
        ({}, [], "✗ DRIFT  the ladder, as far as it was run, ends in drift"),
    ],
)
def test_the_last_line_says_which(
    report: AblationReport, verdicts: dict[int, Any], floor: list[int], expected: str
) -> None:
    line = document(judged(report, verdicts, floor=floor)).verdict_line
    assert expected in line
    assert "step 2, + processed_logprobs, removes 99.93 % of the drift" in line


def test_a_step_with_invalid_logprobs_is_not_at_the_floor(directory: Path, tmp_path: Path) -> None:
    """Its other logprobs are bit-identical, so its mean |Δ| is 0."""
    path = tmp_path / "run"
    shutil.copytree(directory, path)
    shutil.rmtree(path / "step-5")
    write_run(path / "step-5", replace(SAME, spoil=spoil))
    step = analyse_ablation(path, load_config(path / "config.toml")).steps[7]
    assert (step.number, step.directory, step.at_floor, step.outcome) == (
        8,
        "step-5",
        False,
        "drift",
    )
    assert step.estimate("mean_abs_log_ratio", "reference").value == 0


@pytest.mark.parametrize("format", RENDERERS)
def test_an_ablation_without_a_finished_step_has_every_format(
    report: AblationReport, format: Format
) -> None:
    unfinished = tuple(step for step in report.steps if step.state != "finished")
    empty = replace(report, steps=unfinished, reference=None, workload=None, source=None)
    shown = document(replace(empty, head=replace(report.head, model={}, host={})))
    text = render(shown, format)
    assert shown.verdict is None
    assert "the candidate engine (vllm 0.18.1) could not start" in text
    if format in ("text", "markdown", "html"):
        assert "no step finished" in text


def test_no_parity_where_the_best_step_was_not_compared_whole(report: AblationReport) -> None:
    """As in `compare`: a pass needs everything that was asked for."""
    best = report.best
    assert best is not None
    partial = replace(best, coverage=Coverage(("rollouts of the reference",), ()))
    steps = tuple(partial if step is best else step for step in report.steps)
    with pytest.raises(InputError, match="rollouts of the reference"):
        document(replace(report, steps=steps))


def test_a_plan_is_read_back_as_it_was_written(directory: Path) -> None:
    plan = read_plan(directory)
    assert [step.name for step in plan.steps][:2] == ["engine defaults", "+ processed_logprobs"]
    assert (plan.source, plan.schema_version) == ("20261121-080000-c0de", 1)


def plan_of(**step: Any) -> str:
    step = {"name": "x", "key": None, "value": None, "settings": {}, "engine_args": {}, **step}
    run = {"run_id": "x", "created_utc": "x", "command": "x", "source": None}
    return json.dumps({**run, "steps": [step]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not an ablation plan"),
        ('{"steps": [{}]}', "not an ablation plan"),
        ("[]", "not an ablation plan"),
        (plan_of(), "not an ablation plan"),
        (plan_of(part="rung", directory="step-1"), "not an ablation plan"),
        (plan_of(part="own", directory="../step-1"), "a step lies outside the directory"),
    ],
)
def test_a_damaged_plan_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / PLAN).write_text(text)
    with pytest.raises(InputError, match=expected):
        read_plan(tmp_path)


def test_a_plan_of_another_version_is_refused(directory: Path, tmp_path: Path) -> None:
    tree = json.loads((directory / PLAN).read_text())
    (tmp_path / PLAN).write_text(json.dumps({**tree, "schema_version": 2}))
    with pytest.raises(InputError, match="plan schema 2, but this version of parity-check reads 1"):
        read_plan(tmp_path)


def test_an_inconclusive_end_says_what_data_would_settle_it(directory: Path) -> None:
    config = load_config(directory / "config.toml", ["gates.ess=0.95"])
    report = analyse_ablation(directory, config)
    assert document(report).closing == ()  # one step is at the floor
    report = replace(report, steps=report.steps[:2])
    assert report.verdict == "inconclusive"
    needed, command = (each for each in document(report).closing if isinstance(each, Sentence))
    start = f"step 2, {report.steps[1].name}: too little data for parity, which takes "
    assert needed.text.startswith(start)
    assert "workload.samples_per_prompt = " in needed.text
    assert command.text == (
        "with new samples: parity-check ablate -c runs/20261121-090000-ab1e/config.toml"
    )
