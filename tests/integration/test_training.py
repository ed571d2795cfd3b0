"""`parity-check train` as users meet it, on fake engines and a fake trainer."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from helpers.support import (
    Finished,
    assert_fails,
    assert_tidy,
    call_cli,
    fake_config,
    finish,
    lines_of,
    only_run,
    start_cli,
    wait_for,
)

TRAINING: dict[str, Any] = {
    "steps": 4, "prompts_per_step": 4, "group_size": 4, "lag": 1, "compare": False,
    "trainer": {"kind": "fake"},
}  # fmt: skip
RAW = {"logprobs_mode": "raw_logprobs"}
ARMS = {"initial": {"settings": RAW, "lag": 3}, "fixed": {}}
WORKLOAD = {"max_tokens": 8, "temperature": 0.7, "num_prompts": 16}


def configured(home: Path, **tables: Any) -> Path:
    training = {**TRAINING, "arms": ARMS, **tables.pop("training", {})}
    workload = {**WORKLOAD, **tables.pop("workload", {})}
    return fake_config(home, training=training, workload=workload, **tables)


def train(home: Path, *arguments: object, **tables: Any) -> tuple[Finished, dict[str, Any]]:
    done = call_cli("train", "-c", configured(home, **tables), *arguments, cwd=home)
    assert "Traceback" not in done.stderr, done.stderr
    report: dict[str, Any] = json.loads((only_run(home) / "training.json").read_text())
    return done, report


def judged(report: dict[str, Any]) -> dict[tuple[str, str], str]:
    found = {(each["arm"], each["curve"]): each["distance"] for each in report["results"]}
    return {key: distance["verdict"] for key, distance in found.items() if distance}


def test_raw_logprobs_leave_the_band_and_the_same_engine_does_not(tmp_path: Path) -> None:
    done, report = train(tmp_path)
    assert done.returncode == 1
    found = judged(report)
    assert found["initial", "clip_rate"] == found["initial", "k3_kl"] == "drift"
    assert found["fixed", "clip_rate"] == found["fixed", "k3_kl"] == "parity"
    assert report["verdict"] == "drift"
    assert_tidy(tmp_path)


def test_the_steps_of_every_run_are_a_table(tmp_path: Path) -> None:
    _, report = train(tmp_path)
    with (only_run(tmp_path) / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["arm"], r["seed"], r["step"]) for r in rows] == [
        (arm, str(seed), str(step))
        for arm, seed in (("reference", 1), ("reference", 2), ("initial", 1), ("fixed", 1))
        for step in range(4)
    ]
    assert {r["samples"] for r in rows} == {"16"}
    assert len(report["steps"]) == 16


def test_lag_is_what_was_asked_for(tmp_path: Path) -> None:
    """No token is older than the lag, nor than the run; sequences have tokens of each age."""
    _, report = train(tmp_path, workload={"ignore_eos": True})
    shares = {
        (s["arm"], s["step"]): s["lag_shares"] for s in report["steps"] if s["arm"] != "reference"
    }
    assert shares["fixed", 0] == [1.0]
    assert shares["fixed", 3] == [0.5, 0.5]
    assert shares["initial", 3] == [0.25, 0.25, 0.25, 0.25]


def test_without_lag_every_token_is_on_policy(tmp_path: Path) -> None:
    _, report = train(tmp_path, training={"lag": 0, "arms": {"fixed": {}}})
    assert {s["largest_lag"] for s in report["steps"]} == {0}
    assert max(s["k3_kl"] for s in report["steps"]) < 1e-10


def test_an_arm_whose_loss_is_not_finite_stops_and_the_others_go_on(tmp_path: Path) -> None:
    fault = {"op": "rollout", "after": 0, "how": "not_finite"}
    arms = {"broken": {"engine_args": {"fault": fault}}, "fixed": {}}
    done, report = train(tmp_path, training={"arms": arms})
    assert done.returncode == 1
    stopped = {arm["name"]: arm["stopped"] for arm in report["arms"]}
    assert "the loss is nan" in stopped["broken"]
    assert stopped["fixed"] is None
    assert "broken stopped after 0 of 4 steps" in done.stdout
    assert "warning: broken, seed 1 stopped" in done.stderr


def test_weights_that_hardly_change_are_no_parity(tmp_path: Path) -> None:
    """The fake engine never gives the right answer, so that all rewards are 0."""
    done, report = train(tmp_path, training={"arms": {"fixed": {}}})
    assert set(judged(report).values()) == {"parity"}
    assert (done.returncode, report["verdict"]) == (4, "inconclusive")
    told = " ".join(done.stdout.split())
    assert "12 of 12 steps had no gradient" in told
    assert "most steps of reference and fixed had no gradient" in told


def test_a_reward_function_is_called_in_the_trainers_environment(tmp_path: Path) -> None:
    _, report = train(tmp_path, training={"reward": "fake:length"})
    assert all(0 < s["reward"] <= 8 for s in report["steps"])


def test_prompts_of_a_file_need_answers(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "1 + 1", "answer": 2}\n{"prompt": "1 + 2"}\n')
    config = configured(tmp_path, training={"prompts": str(prompts)})
    done = call_cli("train", "-c", config, cwd=tmp_path)
    assert_fails(done, 2, "has no `answer`", "training.reward")


def test_the_arms_are_compared_once_too(tmp_path: Path) -> None:
    _, report = train(tmp_path, training={"compare": True})
    compared = {arm["name"]: arm["compared"] for arm in report["arms"]}
    assert compared["initial"] == "drift"
    assert compared["reference"] is None
    assert compared["fixed"] in ("parity", "inconclusive")
    found = only_run(tmp_path) / "compare"
    assert len(list(found.glob("initial/*/report.json"))) == 1
    assert len(list(found.glob("fixed/*/report.json"))) == 1


def test_at_temperature_1_raw_logprobs_are_no_fault(tmp_path: Path) -> None:
    arms = {"initial": {"settings": RAW}}
    _, report = train(tmp_path, workload={"temperature": 1.0}, training={"arms": arms})
    [notice] = [n for n in report["notices"] if "temperature 1" in n]
    assert notice.endswith(": initial")
    assert judged(report)["initial", "k3_kl"] != "drift"


def test_rollouts_are_traces_that_compare_reads(tmp_path: Path) -> None:
    train(tmp_path, "--keep-rollouts")
    place = only_run(tmp_path) / "rollouts" / "fixed-1"
    done = call_cli(
        "compare", place / "step-0002.parquet", place / "step-0002-trainer.parquet", cwd=tmp_path
    )
    assert done.returncode in (0, 4), done.stderr
    assert "64 tokens" in done.stdout or "tokens" in done.stdout


def test_it_survives_an_interrupt_and_goes_on(tmp_path: Path) -> None:
    slow = {"engine_args": {"delay_s": 0.0}}
    config = configured(tmp_path, training={"arms": {"fixed": slow}, "steps": 60})
    process = start_cli("train", "-c", config, "-o", "runs", cwd=tmp_path)
    wait_for(lambda: lines_of("runs/*/reference-2.steps.jsonl", tmp_path) > 2, "some steps")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130
    run = only_run(tmp_path)
    assert "reference-1.steps.jsonl" in done.stderr
    assert f"parity-check train --resume {Path('runs') / run.name}" in done.stderr
    assert_tidy(tmp_path)
    first = (run / "reference-1.steps.jsonl").read_text()
    again = call_cli("train", "--resume", run, cwd=tmp_path)
    assert again.returncode in (0, 4), again.stderr
    assert (run / "reference-1.steps.jsonl").read_text() == first
    report = json.loads((run / "training.json").read_text())
    assert len(report["steps"]) == 3 * 60


@pytest.mark.parametrize("format", ["json", "markdown", "junit", "github", "html"])
def test_a_finished_run_is_rendered_again(tmp_path: Path, format: str) -> None:
    train(tmp_path)
    done = call_cli("report", only_run(tmp_path), "--format", format, cwd=tmp_path)
    assert done.returncode == 1
    assert "initial" in done.stdout


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"training": {"arms": {"server": {"engine": "endpoint"}}}}, "unknown engine `endpoint`"),
        ({"workload": {"top_p": 0.9}}, "workload.top_p shapes what the engines sample"),
        ({"workload": {"temperature": 0.0}}, "workload.temperature = 0"),
        ({"training": {"lag": 8}}, "8 updates cannot land in a sequence of 8 tokens"),
        ({"training": {"seeds": [1]}}, "training.seeds"),
        ({"training": {"seeds": [1, 1]}}, "two runs with one seed are one run"),
        ({"training": {"arms": {}}}, "arms: name at least one"),
        ({"training": {"arms": {"reference": {}}}}, "this name is taken"),
        ({"training": {"arms": {"a": {"settings": {"logprob_mode": "raw"}}}}}, "logprob_mode"),
        ({"training": {"reward": "score"}}, "expected module:function"),
        ({"training": {"trainer": {"kind": "endpoint"}}}, "training.trainer"),
        ({"training": {"learning_rate": -1}}, "training.learning_rate"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, tables: dict[str, Any], says: str) -> None:
    done = call_cli("train", "-c", configured(tmp_path, **tables), cwd=tmp_path)
    assert_fails(done, 2, says)
    assert not (tmp_path / "runs").exists()


def test_an_endpoint_and_a_trainer_cannot_be_arms(tmp_path: Path) -> None:
    tables = {
        "engines": {
            "server": {
                "kind": "endpoint",
                "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"},
            }
        },
        "training": {"arms": {"server": {"engine": "server"}}},
    }
    done = call_cli("train", "-c", configured(tmp_path, **tables), cwd=tmp_path)
    assert_fails(done, 2, "training.arms.server: server is an endpoint, whose weights", "vLLM")


def test_a_pause_that_an_engine_does_not_have_is_refused(tmp_path: Path) -> None:
    arms = {"waits": {"engine": "reference", "mode": "wait"}}
    config = configured(tmp_path, training={"arms": arms})
    tree = config.read_text().replace("[reference]\n", '[reference]\nfamily = "v0"\n')
    config.write_text(tree)
    done = call_cli("train", "-c", config, cwd=tmp_path)
    assert_fails(done, 2, "training.arms.waits: ", "can only be paused between two steps")


def test_without_the_table_it_says_where_one_is(tmp_path: Path) -> None:
    done = call_cli("train", "-c", fake_config(tmp_path), cwd=tmp_path)
    assert_fails(done, 2, "no table [training]", "parity-check init training-curves")
