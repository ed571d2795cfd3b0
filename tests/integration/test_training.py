"""`parity-check train` as users meet it, on fake engines and a fake trainer."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable
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
    assert "drift" not in {found["fixed", curve] for curve in ("clip_rate", "k3_kl", "entropy")}
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
    assert "not parity: broken\n  ✗ steps: stopped after 0 of 4 steps" in done.stdout
    assert "warning: broken, seed 1 stopped" in done.stderr


def test_weights_that_hardly_change_are_no_parity(tmp_path: Path) -> None:
    """The fake engine never gives the right answer, so that all rewards are 0."""
    done, report = train(tmp_path, training={"lag": 0, "arms": {"fixed": {}}})
    found = judged(report)
    assert found["fixed", "clip_rate"] == found["fixed", "k3_kl"] == "parity"
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


# --- resume ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that took all its steps."""
    home = tmp_path_factory.mktemp("original")
    train(home)
    return only_run(home)


@pytest.fixture
def trained(original: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, text
    path.write_text(text.replace(old, new))


def resumed(run: Path) -> Finished:
    done = call_cli("train", "--resume", run, cwd=run.parent)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def steps_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.glob("*.steps.jsonl")}


SHAPING_EDITS = {
    "workload.temperature (0.7, now 0.3)": ("\ntemperature = 0.7", "\ntemperature = 0.3"),
    "training.learning_rate (2e-05, now 1.0)": ("learning_rate = 2e-05", "learning_rate = 1.0"),
    "training.steps (4, now 5)": ("\nsteps = 4", "\nsteps = 5"),
    "training.arms.initial.lag (3, now 2)": ("\nlag = 3", "\nlag = 2"),
    "model.dtype ('bfloat16', now 'float16')": ('dtype = "bfloat16"', 'dtype = "float16"'),
    "reference.engine_args.noise (not set, now 0.1)": (
        "[reference.engine_args]", "[reference.engine_args]\nnoise = 0.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("says", SHAPING_EDITS)
def test_a_run_does_not_go_on_under_another_configuration(trained: Path, says: str) -> None:
    changed(trained / "config.toml", *SHAPING_EDITS[says])
    before = steps_of(trained)
    done = resumed(trained)
    assert_fails(done, 2, "config.toml was changed since the run began", says, "put it back")
    assert steps_of(trained) == before


def test_a_changed_variable_is_named_without_its_value(trained: Path) -> None:
    changed(trained / "config.toml", "[reference.env]", '[reference.env]\nTOKEN = "secret"')
    done = resumed(trained)
    assert_fails(done, 2, "reference.env.TOKEN")
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\nband = 3.0", "\nband = 99.0"),
        ('profile = "standard"', 'profile = "relaxed"'),
        ("confidence = 0.95", "confidence = 0.9"),
    ],
)
def test_a_finished_run_may_be_judged_in_another_way(trained: Path, old: str, new: str) -> None:
    changed(trained / "config.toml", old, new)
    before = steps_of(trained)
    assert resumed(trained).returncode in (1, 4)
    assert steps_of(trained) == before


def test_other_prompts_are_not_those_of_the_run(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "1 + 1", "answer": 2}\n{"prompt": "1 + 2", "answer": 3}\n')
    train(tmp_path, training={"prompts": str(prompts)})
    changed(prompts, '"answer": 3', '"answer": 4')
    done = resumed(only_run(tmp_path))
    assert_fails(done, 2, "prompts and answers: not what the run began with (training.prompts)")


def test_another_reward_function_is_not_that_of_the_run(tmp_path: Path) -> None:
    """`fake` is of the fake trainer; here a file of that name is beside the configuration."""
    rewards = tmp_path / "fake.py"
    rewards.write_text("def length(prompt, completion, answer): return 1.0")
    train(tmp_path, training={"reward": "fake:length"})
    changed(rewards, "1.0", "2.0")
    done = resumed(only_run(tmp_path))
    assert_fails(done, 2, "reward function: not what the run began with (training.reward)")


def test_another_model_is_not_that_of_the_run(trained: Path) -> None:
    changed(trained / "conditions.json", '"name": "tiny"', '"name": "other"')
    assert_fails(resumed(trained), 2, "model: not what the run began with (model.path)")


@pytest.mark.parametrize("name", ["trainer", "reference"])
def test_another_engine_does_not_go_on_with_the_steps_of_one(trained: Path, name: str) -> None:
    (trained / "reference-2.steps.jsonl").unlink()
    changed(trained / f"{name}.engine.json", '"family": "v1"', '"family": "v0"')
    done = resumed(trained)
    assert_fails(done, 2, f"{name}: not the engine that recorded", "family ('v0', now 'v1')")
    assert "reference-1.steps.jsonl" in done.stderr  # what is kept


def test_a_run_of_which_nothing_says_how_it_was_recorded_is_refused(trained: Path) -> None:
    (trained / "conditions.json").unlink()
    done = resumed(trained)
    assert_fails(done, 2, "no conditions.json", "parity-check train -c ")
    assert steps_of(trained)


def test_damaged_conditions_are_refused(trained: Path) -> None:
    (trained / "conditions.json").write_text("{}")
    assert_fails(resumed(trained), 2, "conditions.json: not the conditions of a training run")


def lines(*kept: int) -> Callable[[list[str]], list[str]]:
    return lambda every: [every[place] for place in kept]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lines(0, 1, 3), "line 3 is step 3, where step 2 belongs"),
        (lines(0, 1, 2, 2), "line 4 is step 2, where step 3 belongs"),
        (lines(0, 1, 2, 3, 3), "line 5 is step 3, where step 4 belongs"),
        (lambda every: [every[0], every[1].replace('"seed": 1', '"seed": 2'), *every[2:]],
         "line 2 is of initial, seed 2"),
        (lambda every: [every[0], every[1][:50], *every[2:]],
         "line 2 is not a step of a training run"),
        (lambda every: [*every, every[-1].replace('"step": 3', '"step": 4')],
         "5 steps, of 4 that were wanted"),
    ],
)  # fmt: skip
def test_steps_that_do_not_follow_one_another_are_refused(
    trained: Path, damage: Callable[[list[str]], list[str]], says: str
) -> None:
    path = trained / "initial-1.steps.jsonl"
    every = path.read_text().splitlines()
    path.write_text("".join(f"{line}\n" for line in damage(every)))
    before = steps_of(trained)
    assert_fails(resumed(trained), 2, "initial-1.steps.jsonl", says, "only initial, seed 1")
    assert steps_of(trained) == before


def test_a_run_whose_steps_were_removed_begins_again(trained: Path) -> None:
    """What the refusal of damaged steps says to do."""
    path = trained / "initial-1.steps.jsonl"
    path.unlink()
    assert resumed(trained).returncode == 1
    assert len(path.read_text().splitlines()) == 4


def test_a_last_line_that_was_not_finished_begins_the_run_again(trained: Path) -> None:
    path = trained / "fixed-1.steps.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    others = {name: text for name, text in steps_of(trained).items() if name != path.name}
    done = resumed(trained)
    assert done.returncode == 1
    assert "fixed-1.steps.jsonl: its last line was not finished" in done.stderr
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]
    assert {name: text for name, text in steps_of(trained).items() if name != path.name} == others


@pytest.mark.parametrize(("name", "says"), [("nothere", "no such directory"), (".", "not a run")])
def test_what_cannot_be_resumed_is_said(tmp_path: Path, name: str, says: str) -> None:
    done = call_cli("train", "--resume", name, cwd=tmp_path)
    assert_fails(done, 2, f"--resume {name}: {says}", "parity-check train --resume runs/")


# --- what is said ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("change", "says"),
    [("objective.kind=nope", "unknown objective 'nope'"), ("gates.profile=nope", "nope")],
)
def test_how_the_comparison_is_judged_is_checked_at_the_start(
    tmp_path: Path, change: str, says: str, dry: list[str]
) -> None:
    done = call_cli("train", "-c", configured(tmp_path), "--set", change, *dry, cwd=tmp_path)
    assert_fails(done, 2, says)
    assert not (tmp_path / "runs").exists()


def test_a_notice_comes_before_the_steps_and_in_the_report(tmp_path: Path) -> None:
    done, report = train(tmp_path)
    notice = "fixed has the engine and the settings of the reference"
    assert any(each.startswith(notice) for each in report["notices"])
    assert done.stderr.index(notice) < done.stderr.index("reference, seed 1")


def test_a_reward_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    config = configured(tmp_path, training={"reward": "no:where"})
    done = call_cli("train", "-c", config, cwd=tmp_path)
    assert_fails(done, 2, "training.reward: cannot use no:where")


def test_a_recorded_trace_cannot_be_an_arm(tmp_path: Path) -> None:
    done = call_cli(
        "train", "--reference", "a.parquet", "--candidate", "current", cwd=tmp_path
    )  # fmt: skip
    assert_fails(done, 2, "only `compare` takes a recorded trace")


def test_a_run_of_one_prompt_a_step_is_rendered_again(tmp_path: Path) -> None:
    """Its reward has no standard error."""
    _, report = train(tmp_path, training={"prompts_per_step": 1})
    assert {step["reward_error"] for step in report["steps"]} == {None}
    assert call_cli("report", only_run(tmp_path), cwd=tmp_path).returncode == 1
    assert resumed(only_run(tmp_path)).returncode == 1


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
        (
            {
                "training": {
                    "trainer": {"python": "current", "transformers": {"temperature": False}}
                }
            },
            "training.trainer: its logits are not divided by a temperature, and the engines sample",
        ),
        (
            {"training": {"arms": {"a": {"temperature": 1.3}}}},
            "unknown key `training.arms.a.temperature`",
        ),
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
