"""`ablate` on fake engines: the steps, what they removed, and how it is reported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

import parity_check
from helpers.fake_ablation import Ablation, metric, run_ablation, step
from helpers.support import assert_fails, assert_tidy, call_cli
from parity_check.traces.trace import Trace


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Ablation:
    return run_ablation(tmp_path_factory.mktemp("ablation"))


def test_the_ladder_and_the_flips_are_all_there(ablation: Ablation) -> None:
    assert [(each["part"], each["name"]) for each in ablation.tree["steps"]] == [
        ("ladder", "engine defaults"),
        ("ladder", "+ processed_logprobs"),
        ("ladder", "+ prefix caching off"),
        ("ladder", "+ async scheduling off"),
        ("ladder", "+ fp32 lm_head"),
        ("own", "as configured"),
        ("flip", "logprobs_mode = processed_logprobs"),
        ("flip", "enable_prefix_caching = false"),
        ("flip", "async_scheduling = false"),
        ("flip", "lm_head_dtype = float32"),
        ("flip", "noise = 0.2"),
        ("flip", "noise = 0.0"),
        ("flip", "max_model_len = 4096"),
        ("flip", "max_model_len = 2048"),
        ("flip", "tokenizer = bytes"),
    ]
    assert {each["state"] for each in ablation.tree["steps"]} == {"finished"}
    assert_tidy(ablation.home)


def test_the_run_keeps_its_report(ablation: Ablation) -> None:
    assert json.loads((ablation.path / "ablation.json").read_text()) == ablation.tree
    assert 'id="picture-waterfall"' in (ablation.path / "report.html").read_text("utf-8")


def test_the_causes_are_found(ablation: Ablation) -> None:
    processed = ablation.step(part="ladder", key="logprobs_mode")
    assert processed["effect"] == "changed"
    assert processed["removed_share"]["value"] > 0.5
    assert processed["removed_share"]["ci_low"] > 0.3
    assert "removes" in ablation.done.stdout.splitlines()[-1]
    # Without the noise alone, the raw logprobs still drift.
    assert abs(ablation.step(name="noise = 0.0")["removed_share"]["value"]) < 0.5
    assert ablation.step(name="noise = 0.0")["verdict"] == "drift"


def test_the_shares_agree_with_the_numbers(ablation: Ablation) -> None:
    steps = {each["number"]: each for each in ablation.tree["steps"]}
    checked = 0
    for each in steps.values():
        if each["removed_share"] is None:
            assert each["key"] is None
            continue
        first = step(ablation.tree, part="own", key=None)
        if each["part"] == "ladder":
            first = step(ablation.tree, part="ladder", key=None)
        before, after, initial = (
            metric(one, "mean_abs_log_ratio", "reference")
            for one in (steps[each["against"]], each, first)
        )
        share = each["removed_share"]
        assert share["value"] == pytest.approx((before - after) / initial, abs=1e-9)
        assert share["ci_low"] <= share["value"] <= share["ci_high"]
        checked += 1
    assert checked == 13


def test_the_ladders_shares_add_up(ablation: Ablation) -> None:
    ladder = [each for each in ablation.tree["steps"] if each["part"] == "ladder"]
    total = sum(each["removed_share"]["value"] for each in ladder[1:])
    first, last = (metric(ladder[place], "mean_abs_log_ratio", "reference") for place in (0, -1))
    assert total == pytest.approx(1 - last / first, abs=1e-9)


def replayed(ablation: Ablation, step: dict[str, Any]) -> np.ndarray[Any, Any]:
    path = ablation.path / step["directory"] / "reference-replayed-by-candidate.parquet"
    return np.concatenate(
        [np.asarray(sample.logprobs, np.float32) for sample in Trace(path).samples()]
    )


def test_identical_is_said_of_equal_traces_alone(ablation: Ablation) -> None:
    steps = {each["number"]: each for each in ablation.tree["steps"]}
    for each in steps.values():
        if each["against"] is not None:
            before = replayed(ablation, steps[each["against"]])
            differing = int(np.count_nonzero(before != replayed(ablation, each)))
            assert each["differing_tokens"] == differing
            assert (each["effect"] in ("changed", "changed unasked")) == (differing > 0)


@pytest.mark.parametrize(
    ("wanted", "effect", "sentence"),
    [
        ({"name": "+ async scheduling off"}, "no effect here", "false is now in force, without"),
        ({"name": "noise = 0.2"}, "already so", "the same configuration as step 6"),
        (
            {"name": "tokenizer = bytes"},
            "not known",
            "not applied, or without effect; the engine does not report which",
        ),
        ({"name": "noise = 0.0"}, "changed", None),
        ({"name": "max_model_len = 4096"}, "already so", "it was already 4096"),
        (
            {"name": "max_model_len = 2048"},
            "no effect here",
            "2048 is now in force, without effect",
        ),
    ],
)
def test_what_changed_nothing_is_told_apart(
    ablation: Ablation, wanted: dict[str, Any], effect: str, sentence: str | None
) -> None:
    found = ablation.step(**wanted)
    assert found["effect"] == effect
    text = " ".join(ablation.done.stdout.split())
    this = re.escape(f"step {found['number']}, {found['name']}: ")
    [note] = re.findall(rf"{this}(.+?) (?:[✓✗?–] step|sampled by)", text)
    same = f"the replay is bit-identical to step {found['against']}"
    if sentence is None:
        assert same not in note
    else:
        assert sentence in note
        assert same in note or "the same configuration" in note


def test_equal_configurations_are_run_once(ablation: Ablation) -> None:
    assert ablation.step(part="own")["directory"] == "step-1"
    shared = [each for each in ablation.tree["steps"] if each["key"] == "logprobs_mode"]
    assert len({each["directory"] for each in shared}) == 1
    starts = [line for line in ablation.done.stderr.splitlines() if "starting the engine" in line]
    candidates = [line for line in starts if "candidate:" in line]
    # Fifteen rows: three as the run was, two of logprobs_mode.
    assert len(candidates) == 11
    assert len({each["directory"] for each in ablation.tree["steps"]}) == 12


def test_the_reference_is_started_once_and_samples_nothing(ablation: Ablation) -> None:
    talk = ablation.done.stderr
    assert talk.count("reference: starting the engine") == 1
    assert "reference: generate" not in talk
    name = "reference.parquet"
    assert (ablation.path / name).read_bytes() == (ablation.source / name).read_bytes()
    name = "reference-replayed-by-candidate.parquet"
    assert (ablation.path / "step-1" / name).read_bytes() == (ablation.source / name).read_bytes()


def test_progress_says_how_long_it_will_take(ablation: Ablation) -> None:
    lines = [line for line in ablation.done.stderr.splitlines() if "ablation: step" in line]
    assert re.search(r"step 1 of 11: \+ processed_logprobs$", lines[0])
    assert all(re.search(r"step \d+ of 11: .+, about \d+ s left$", line) for line in lines[1:])


def test_a_step_is_a_run_of_its_own(ablation: Ablation) -> None:
    found = ablation.step(part="ladder", key="logprobs_mode")
    path = ablation.path / found["directory"]
    done = call_cli("report", path, "--format", "json", cwd=ablation.home)
    report = json.loads(done.stdout)
    settings = report["engines"]["candidate"]["settings"]
    assert settings["logprobs_mode"]["requested"] == "processed_logprobs"
    for name in ("k3_kl", "mean_importance_ratio"):
        for sampler in ("reference", "candidate"):
            assert metric(report, name, sampler) == metric(found, name, sampler)
    assert len(parity_check.load_run(path).tokens()) == report["workload"]["tokens"]


@pytest.mark.parametrize("format", ["json", "markdown", "text", "junit", "github"])
def test_report_renders_an_ablation_again(ablation: Ablation, format: str) -> None:
    again = call_cli("report", ablation.path, "--format", format, cwd=ablation.home)
    assert again.returncode == ablation.done.returncode == 1
    if format == "json":
        assert json.loads(again.stdout) == ablation.tree
    elif format == "text":
        assert again.stdout == ablation.done.stdout
    elif format == "markdown":
        assert again.stdout.startswith("## parity-check ablation: ✗ DRIFT")
    elif format == "junit":
        suite = ET.fromstring(again.stdout)
        assert int(suite.attrib["tests"]) == len(ablation.tree["steps"])
    else:
        assert again.stdout.startswith("::error title=parity-check ablation::✗")
    assert again.stderr == ""


def test_report_judges_again(ablation: Ablation) -> None:
    names = ("mean_log_ratio", "mean_abs_log_ratio", "k3_kl")
    relaxed = [f"--set=gates.{name}=2" for name in names]
    relaxed += ["--set=gates.mean_importance_ratio=2", "--set=gates.ess=0.01"]
    again = call_cli("report", ablation.path, "-q", *relaxed, cwd=ablation.home)
    assert again.returncode == 0
    [line] = again.stdout.splitlines()
    assert line.startswith("✓ PARITY  the ladder ends in parity (step 5, + fp32 lm_head)")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "pass a configuration (-c), or --reference and --candidate"),
        (["RUN", "-c", "parity.toml"], "pass exactly one of: a finished run"),
        (["--resume", "RUN", "--only", "noise"], "cannot change the plan"),
        (["--resume", "RUN"], "plan.json: No such file or directory"),
        (["RUN", "--only", "lm_head"], "--only lm_head: neither a setting nor a --flip"),
        (["RUN", "--flip", "noise"], "--flip noise: expected KEY=VALUE"),
        (["RUN", "--flip", "lm_head_dtype=fp8"], "lm_head_dtype: input should be 'model'"),
        (["RUN", "--set", "workload.temperature=1.0"], "--set changes [workload]"),
        (["RUN", "--set", "gates.nonsense=1"], "gates.nonsense: unknown metric"),
        (["--resume", "ABLATION", "--set", "candidate.engine_args.noise=0.1"], "--set changes [c"),
        (["nowhere"], "nowhere: no such run"),
    ],
)
def test_what_makes_no_sense_is_refused(
    ablation: Ablation, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    places = {"RUN": str(ablation.source), "ABLATION": str(ablation.path)}
    given = [places.get(each, each) for each in arguments]
    done = call_cli("ablate", *given, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_ablation_is_no_run_to_start_from(ablation: Ablation) -> None:
    done = call_cli("ablate", ablation.path, cwd=ablation.home)
    assert_fails(done, 2, "is an ablation", f"parity-check ablate --resume {ablation.path}")


def test_another_candidate_may_be_tried_on_a_run(ablation: Ablation, tmp_path: Path) -> None:
    """Its own traces are then not those of the run."""
    other = ["--set", "candidate.engine_args.noise=0.0", "--only", "async_scheduling"]
    done = call_cli("ablate", ablation.source, *other, "--format", "json", cwd=tmp_path)
    tree = json.loads(done.stdout)
    assert done.stderr.count("candidate: starting the engine") == 2
    assert metric(step(tree, part="own"), "k3_kl", "reference") != metric(
        ablation.step(part="own"), "k3_kl", "reference"
    )


def test_exit_zero_and_inconclusive(ablation: Ablation) -> None:
    done = call_cli("report", ablation.path, "-q", "--exit-zero", cwd=ablation.home)
    assert (done.returncode, done.stdout[0]) == (0, "✗")
