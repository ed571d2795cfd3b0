"""`parity-check weight-sync` as users meet it, on fake engines whose updates fail on request."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from helpers import support
from helpers.support import (
    Finished,
    assert_fails,
    assert_tidy,
    call_cli,
    environment,
    fake_config,
    finish,
    lines_of,
    only_run,
    start_cli,
    wait_for,
)
from parity_check.traces.prompts import ASSETS

CACHING = {"enable_prefix_caching": True}
RUN = {"max_tokens": 12}
SYNC = {"weights": ["next"], "update_after_tokens": 4}


def configured(home: Path, *, sync: dict[str, Any] | None = None, **tables: Any) -> Path:
    """A config of fake engines whose next checkpoint is a directory of another name."""
    for name in ("next", "last"):
        if not (home / name).exists():
            shutil.copytree(ASSETS / "tiny", home / name)
    tables = {"workload": {**RUN, "num_prompts": 24}, **tables}
    return fake_config(home, weight_sync={**SYNC, **(sync or {})}, **tables)


def weight_sync(home: Path, *arguments: object, **tables: Any) -> tuple[Finished, dict[str, Any]]:
    config = configured(home, **tables)
    done = call_cli("weight-sync", "-c", config, *arguments, cwd=home)
    assert "Traceback" not in done.stderr, done.stderr
    report: dict[str, Any] = json.loads((only_run(home) / "report.json").read_text())
    return done, report


def verdicts(report: dict[str, Any], engine: str = "candidate") -> dict[str, str]:
    return {c["name"]: c["verdict"] for c in report["checks"] if c["engine"] == engine}


def not_parity(report: dict[str, Any], engine: str = "candidate") -> dict[str, str]:
    return {name: v for name, v in verdicts(report, engine).items() if v != "parity"}


def check(report: dict[str, Any], name: str, engine: str = "candidate") -> dict[str, Any]:
    [found] = [c for c in report["checks"] if (c["name"], c["engine"]) == (name, engine)]
    return dict(found)


def test_two_engines_that_keep_are_parity(tmp_path: Path) -> None:
    done, report = weight_sync(tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "✓ PARITY  all 11 checks passed  (exit 0)"
    assert report["kind"] == "weight-sync"
    assert verdicts(report, "both") == {"reference_analogue": "parity"}
    steps = [
        s for s in report["timeline"] if (s["engine"], s["phase"]) == ("candidate", "in_flight")
    ]
    assert [s["version"] for s in steps] == [0.0] * 4 + [1.0] * 8
    assert [s["lag"] for s in steps] == [1.0] * 4 + [0.0] * 8
    assert max(s["to_cold"][0] for s in steps[:4]) < 1e-5
    assert max(s["to_kept"] for s in steps) < 1e-5
    assert min(s["to_cold"][1] for s in steps[4:]) > 0.01


@pytest.mark.parametrize(
    ("mode", "clear", "handling"),
    [
        ("keep", True, "recomputed"),
        ("wait", True, "drained"),
        ("wait", False, "drained"),
        ("abort", False, "aborted"),
    ],
)
def test_other_modes_are_what_they_declare_and_not_what_v0_did(
    tmp_path: Path, mode: str, clear: bool, handling: str
) -> None:
    config = configured(tmp_path, sync={"mode": mode, "clear_cache": clear})
    done = call_cli("weight-sync", "-c", config, "--set", 'reference.family="v0"', cwd=tmp_path)
    report = json.loads((only_run(tmp_path) / "report.json").read_text())
    assert done.returncode == 1
    assert not_parity(report) == not_parity(report, "reference") == {}
    assert verdicts(report, "both") == {"reference_analogue": "drift"}
    assert report["results"]["candidate"]["measured"] == handling
    assert report["results"]["reference"]["measured"] == "kept"
    assert (
        'mode = "keep", clear_cache = false'
        in check(report, "reference_analogue", "both")["advice"]
    )


def test_one_engine_alone(tmp_path: Path) -> None:
    done, report = weight_sync(tmp_path, "--engine", "candidate")
    assert done.returncode == 0
    assert list(report["engines"]) == ["candidate"]
    assert len(report["checks"]) == 5


def test_several_checkpoints_are_applied_in_order(tmp_path: Path) -> None:
    done, report = weight_sync(
        tmp_path, "--engine", "candidate", sync={"weights": ["next", "last"]}
    )
    assert done.returncode == 0, done.stdout
    assert [c["name"] for c in report["checkpoints"]] == ["next", "last"]
    assert report["results"]["candidate"]["lags"] == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert len(report["timeline"][0]["to_cold"]) == 3


def test_a_stale_prefix_is_found_with_its_size_and_advice(tmp_path: Path) -> None:
    done, report = weight_sync(tmp_path, candidate_settings=CACHING)
    assert done.returncode == 1
    assert not_parity(report) == {"no_stale_prefix": "drift"}
    stale = check(report, "no_stale_prefix")
    assert stale["value"] > stale["limit"] == 1e-3
    assert "clear_cache = true" in stale["advice"]
    assert stale["advice"][:40] in " ".join(done.stdout.split())


def test_on_github_the_job_is_annotated_and_summarised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    actions = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    monkeypatch.setattr(support, "environment", lambda: {**environment(), **actions})
    done, _ = weight_sync(tmp_path, "--engine", "candidate", candidate_settings=CACHING)
    assert "::error title=parity-check weight-sync (no_stale_prefix)::candidate: " in done.stdout
    assert summary.read_text().startswith("## parity-check weight-sync: ✗ DRIFT")


def test_a_finished_run_is_rendered_again(tmp_path: Path) -> None:
    done, report = weight_sync(tmp_path)
    run = only_run(tmp_path)
    again = call_cli("report", run, "--write", f"html={tmp_path / 'again.html'}", cwd=tmp_path)
    assert (again.returncode, again.stdout, again.stderr) == (done.returncode, done.stdout, "")
    assert (tmp_path / "again.html").read_text() == (run / "report.html").read_text()
    (run / "report.json").write_text(json.dumps({**report, "verdict": "perhaps"}))
    assert_fails(call_cli("report", run, cwd=tmp_path), 2, "not a weight-sync report", "error: ")


def test_a_cleared_cache_is_not_stale(tmp_path: Path) -> None:
    _, report = weight_sync(
        tmp_path, "--engine", "candidate", candidate_settings=CACHING, sync={"clear_cache": True}
    )
    assert not_parity(report) == {}


UNSETTLED = {"no_stale_prefix": "inconclusive", "in_flight_as_declared": "inconclusive"}


@pytest.mark.parametrize(
    ("fault", "found", "word"),
    [
        (
            "does_nothing",
            {"weights_arrived": "drift", "lm_head_refreshed": "drift", **UNSETTLED},
            "the update did nothing, or wrote to a copy",
        ),
        (
            "skips",
            {"weights_arrived": "drift"},
            "1 of 2 parameters still have the old weights: body",
        ),
        (
            "stale_head",
            {"weights_arrived": "drift", "lm_head_refreshed": "drift", **UNSETTLED},
            "lm_head_refreshed",
        ),
        (
            "loses_tokens",
            # Prompts of unequal length are worth fewer than the 8 that an interval needs.
            {"nothing_lost": "drift", "in_flight_as_declared": "inconclusive"},
            "requests are missing tokens",
        ),
    ],
)
def test_faults_are_named(tmp_path: Path, fault: str, found: dict[str, str], word: str) -> None:
    done, report = weight_sync(tmp_path, "--engine", "candidate", candidate={"update_fault": fault})
    assert done.returncode == 1
    assert not_parity(report) == found
    assert word in " ".join(done.stdout.split())


def test_a_refused_reset_is_named(tmp_path: Path) -> None:
    _, report = weight_sync(
        tmp_path,
        *("--engine", "candidate"),
        candidate={"update_fault": "refused_reset"},
        sync={"clear_cache": True},
    )
    assert not_parity(report) == {"in_flight_as_declared": "drift"}
    assert "the cache reset was refused" in check(report, "in_flight_as_declared")["reason"]
    assert report["results"]["candidate"]["measured"] == "kept"


def test_too_few_prompts_are_inconclusive(tmp_path: Path) -> None:
    done, report = weight_sync(tmp_path, "--engine", "candidate", sync={"concurrency": 4})
    assert done.returncode == 4
    assert "at least 8 needed" in check(report, "weights_arrived")["reason"]


def test_all_formats(tmp_path: Path) -> None:
    formats = ("json", "markdown", "junit", "github", "html")
    files = [a for each in formats for a in ("--write", f"{each}={tmp_path / each}")]
    done, report = weight_sync(tmp_path, *files, "--quiet", candidate_settings=CACHING)
    assert done.stdout.splitlines() == ["✗ DRIFT  1 of 11 checks failed  (exit 1)"]
    assert json.loads((tmp_path / "json").read_text()) == report
    suite = ET.fromstring((tmp_path / "junit").read_text())
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("11", "1")
    [failure] = suite.findall("testcase/failure")
    assert "came from the prefix cache" in failure.attrib["message"]
    assert "| no_stale_prefix | candidate |" in (tmp_path / "markdown").read_text()
    annotations = (tmp_path / "github").read_text().splitlines()
    assert [line.split(" ")[0] for line in annotations] == ["::error", "::error"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mode": "wait"}, "which can only be paused between two steps"),
        ({"clear_cache": True}, 'mode = "keep", clear_cache = true: fake engine is a V0 engine'),
    ],
)
def test_modes_that_an_engine_lacks_are_refused(
    tmp_path: Path, settings: dict[str, Any], expected: str
) -> None:
    config = configured(tmp_path, sync=settings)
    done = call_cli(
        *("weight-sync", "-c", config, "--engine", "reference"),
        *("--set", 'reference.family="v0"'),
        cwd=tmp_path,
    )
    assert_fails(done, 2, expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"weights": ["nowhere"]}, "nowhere: no such directory"),
        ({"weights": []}, "weight_sync.weights"),
        ({"mode": "pause"}, "weight_sync.mode: input should be 'keep', 'wait' or 'abort'"),
        ({"clear_caches": True}, "did you mean `clear_cache`?"),
        ({"update_after_tokens": 12}, "end before the last update, which happens after 12"),
        ({"update": "not a name"}, "weight_sync.update: expected module:function"),
        ({"concurrency": 24}, "needs more than 24 prompts"),
        ({"update": "mine:load"}, "the fake engine has no custom update"),
    ],
)
def test_bad_configurations(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    config = configured(tmp_path, sync=settings)
    assert_fails(call_cli("weight-sync", "-c", config, cwd=tmp_path), 2, expected)


@pytest.mark.timeout(60)
def test_ctrl_c_during_the_pause_keeps_what_was_recorded(tmp_path: Path) -> None:
    hang = {"fault": {"op": "weight_sync", "how": "hang", "after": 0}}
    config = configured(tmp_path, candidate=hang)
    process = start_cli("weight-sync", "-c", config, "--engine", "candidate", cwd=tmp_path)
    wait_for(
        lambda: lines_of("runs/*/.work/candidate/weight_sync-*.part", tmp_path) == 8,
        "the requests that are held",
    )
    process.send_signal(signal.SIGINT)
    done = finish(process)
    run = only_run(tmp_path)
    assert done.returncode == 130, done.stderr
    kept = f"kept in runs/{run.name}: candidate-weight_sync.partial.jsonl"
    assert done.stderr.splitlines()[-1] == f"interrupted; {kept}"
    assert_tidy(tmp_path)
    rows = [
        json.loads(line)
        for line in (run / "candidate-weight_sync.partial.jsonl").read_text().splitlines()
    ]
    assert [len(row["token_ids"]) for row in rows] == [4] * 8
    assert {row["finish_reason"] for row in rows} == {None}


@pytest.mark.timeout(60)
def test_ctrl_c_during_the_replays_keeps_the_rollouts(tmp_path: Path) -> None:
    hang = {"fault": {"op": "replay", "how": "hang", "after": 2}}
    config = configured(tmp_path, candidate=hang)
    process = start_cli("weight-sync", "-c", config, "--engine", "candidate", cwd=tmp_path)
    wait_for(lambda: lines_of("runs/*/.work/candidate/replay-*.part", tmp_path) == 2, "two replays")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130, done.stderr
    assert "candidate-weight-sync.jsonl" in done.stderr.splitlines()[-1]
    rollouts = (only_run(tmp_path) / "candidate-weight-sync.jsonl").read_text().splitlines()
    assert len(rollouts) == 24
    assert_tidy(tmp_path)
