"""Runs that version 1 recorded are read, judged and rendered as they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.support import about, assert_fails, call_cli
from parity_check.report.renderers import RENDERERS

OLD = Path(__file__).parents[1] / "data" / "version-1"


@pytest.fixture(scope="module", params=["ablation", "weight-sync"])
def old_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home: Path = tmp_path_factory.mktemp("old")
    shutil.copytree(OLD / request.param, home / request.param, symlinks=True)
    return home / request.param


def recorded(run: Path) -> dict[str, Any]:
    """What version 1 wrote."""
    [path] = [run / name for name in ("ablation.json", "report.json") if (run / name).exists()]
    found: dict[str, Any] = json.loads(path.read_text())
    assert found["schema_version"] == 1
    return found


def test_every_format_is_rendered_with_the_same_verdict(old_run: Path, tmp_path: Path) -> None:
    files = [each for name in RENDERERS for each in ("--write", f"{name}={tmp_path / name}")]
    done = call_cli("report", old_run, *files, cwd=tmp_path)
    before = recorded(old_run)
    assert (done.stderr, done.returncode) == ("", before["exit_code"])
    now = json.loads((tmp_path / "json").read_text())
    assert (now["kind"], now["schema_version"]) == (old_run.name, 2)
    for name in ("verdict", "exit_code", "model", "tool"):
        assert now[name] == before[name]
    # Tables that a later version added have their defaults.
    now["run"]["config"] = {k: v for k, v in now["run"]["config"].items() if k != "diagnosis"}
    assert now["run"] == {name: before["run"][name] for name in now["run"]}


def measured(tree: Any) -> Any:
    """Without what an interval says, since version 2 computes intervals in another way."""
    if isinstance(tree, list):
        return [measured(each) for each in tree]
    if not isinstance(tree, dict):
        return tree
    estimate = {"value", "ci_low"} <= tree.keys()
    return {
        name: measured(value)
        for name, value in tree.items()
        if not estimate or name in ("name", "sampled_by", "value")
    }


def test_the_numbers_are_the_same(old_run: Path, tmp_path: Path) -> None:
    done = call_cli("report", old_run, "--format", "json", cwd=tmp_path)
    now, before = json.loads(done.stdout), recorded(old_run)
    if old_run.name == "weight-sync":
        for name in ("checks", "timeline", "requests", "checkpoints"):
            assert now[name] == before[name]
        result = {"role": "candidate", **before["results"]["candidate"]}
        assert measured(now["results"]["candidate"]) == measured(result)
    else:
        for step, then in zip(now["steps"], before["steps"], strict=True):
            candidate = then.pop("candidate")
            assert measured({name: step[name] for name in then}) == about(measured(then))
            assert {name: step["candidate"][name] for name in candidate} == candidate


@pytest.mark.parametrize(
    "change",
    [
        {"checks": []},
        {"engines": {}},
        {"engines": {"candidate": 1}},
        {"results": None},
        {"timeline": []},
        {"checkpoints": []},
        {"checkpoints": [{}]},
        {"requests": {}},
        {"model": {}},
        {"schema_version": 3},
        {"verdict": "perhaps"},
    ],
    ids=str,
)
def test_a_damaged_report_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD / "weight-sync", run)
    (run / "report.json").write_text(json.dumps({**recorded(run), **change}))
    done = call_cli("report", run, "--format", "html", cwd=tmp_path)
    assert_fails(done, 2, "not a weight-sync report")


def test_an_old_report_without_one_of_its_checks_is_no_parity(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD / "weight-sync", run)
    before = recorded(run)
    (run / "report.json").write_text(json.dumps({**before, "checks": before["checks"][1:]}))
    assert_fails(call_cli("report", run, cwd=tmp_path), 2, "weights_arrived (candidate)")
