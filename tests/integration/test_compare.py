"""`compare`, `record` and `replay` with fake engines, through the real worker protocol."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
import yaml

from conftest import Run
from helpers.support import (
    SMALL_RUN,
    assert_fails,
    assert_tidy,
    fake_config,
    only_run,
    run_cli,
    write_prompts,
)
from parity_check.config.load import dump_config, load_config
from parity_check.traces.trace import Trace, read_header

RAW = {"logprobs_mode": "raw_logprobs"}


def test_a_run_directory_holds_everything(drifting_run: Run) -> None:
    assert sorted(file.name for file in drifting_run.path.iterdir()) == [
        "candidate-repeat-1.parquet",
        "candidate-repeat-2.parquet",
        "candidate-replayed-by-reference.parquet",
        "candidate.log",
        "candidate.parquet",
        "config.toml",
        "reference-repeat-1.parquet",
        "reference-repeat-2.parquet",
        "reference-replayed-by-candidate.parquet",
        "reference.log",
        "reference.parquet",
        "report.html",
        "report.json",
        "run.json",
    ]
    assert_tidy(drifting_run.home)


def test_stdout_is_the_report_and_stderr_the_talk(drifting_run: Run) -> None:
    assert drifting_run.done.stdout.startswith("parity-check ")
    assert drifting_run.path.name in drifting_run.done.stdout
    assert "reference sampled" in drifting_run.done.stdout
    assert "candidate sampled" in drifting_run.done.stdout
    assert "worst tokens" in drifting_run.done.stdout
    *_, page, more = lines = drifting_run.done.stdout.splitlines()
    assert any(line.startswith("✗ DRIFT") for line in lines[-5:])
    assert page == f"report: runs/{drifting_run.path.name}/report.html"
    assert more == f"all numbers: parity-check report runs/{drifting_run.path.name} -v"
    plan, *talk = drifting_run.done.stderr.splitlines()
    assert plan.startswith("plan: ")
    assert all(line.startswith("[") for line in talk), talk
    assert any("candidate: starting the engine" in line for line in talk)


def test_drift_exits_with_1(drifting_run: Run) -> None:
    assert drifting_run.done.returncode == 1
    assert drifting_run.report["verdict"] == "drift"
    assert drifting_run.report["exit_code"] == 1


def test_report_json_is_valid_and_complete(drifting_run: Run) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads((drifting_run.path / "report.json").read_text(), parse_constant=refuse)
    assert report["schema_version"] == 2
    assert report["run"]["id"] == drifting_run.path.name
    assert report["engines"]["candidate"]["settings"]["logprobs_mode"] == {
        "requested": "processed_logprobs",
        "in_force": "processed_logprobs",
        "proof": "the fake engine applies every setting",
    }
    assert {metric["sampled_by"] for metric in report["metrics"]} == {"reference", "candidate"}
    for name in ("gates", "worst_tokens", "warnings"):
        assert isinstance(report[name], list)


def test_the_injected_noise_is_measured(drifting_run: Run) -> None:
    found = {
        (metric["name"], metric["sampled_by"]): metric for metric in drifting_run.report["metrics"]
    }
    for sampler in ("reference", "candidate"):
        rms = found["rms_log_ratio", sampler]
        assert 0.4 < rms["value"] < 0.6
        assert rms["n"] == drifting_run.report["workload"]["tokens"] / 2
        assert rms["clusters"] == 12


def test_an_engine_repeats_itself_exactly(drifting_run: Run) -> None:
    for metric in drifting_run.report["metrics"]:
        if metric["name"] == "rms_log_ratio":
            assert metric["noise_floor"] == {"reference": 0.0, "candidate": 0.0}


def test_the_stored_config_resolves_to_itself(drifting_run: Run) -> None:
    stored = drifting_run.path / "config.toml"
    asked = load_config(drifting_run.home / "parity.toml")
    assert load_config(stored) == asked
    assert tomllib.loads(stored.read_text()) == dump_config(asked)
    assert drifting_run.report["run"]["config"] == dump_config(asked)


def test_a_replayed_trace_names_its_source_and_repeats_its_tokens(drifting_run: Run) -> None:
    source = Trace(drifting_run.path / "reference.parquet")
    replayed = Trace(drifting_run.path / "reference-replayed-by-candidate.parquet")
    assert replayed.header.replayed_from == source.header.token_digest
    assert replayed.header.token_digest == source.header.token_digest
    assert (replayed.header.sampled_by, replayed.header.evaluated_by) == ("reference", "candidate")
    assert source.header.replayed_from is None
    for ours, theirs in zip(source.samples(), replayed.samples(), strict=True):
        assert ours.completion_token_ids == theirs.completion_token_ids
        assert ours.text == theirs.text
        assert ours.logprobs != theirs.logprobs


def test_traces_open_in_pandas(drifting_run: Run) -> None:
    table = pd.read_parquet(drifting_run.path / "reference.parquet")
    assert len(table) == 24
    assert table["logprobs"].map(len).equals(table["completion_token_ids"].map(len))
    assert table["top_logprobs"].iloc[0][0].shape == (5,)


def test_traces_open_in_duckdb(drifting_run: Run) -> None:
    path = drifting_run.path / "reference.parquet"
    [(rows, lowest)] = duckdb.sql(
        f"select count(*), min(lp) from (select unnest(logprobs) as lp from '{path}')"
    ).fetchall()
    assert rows == read_header(path).tokens
    assert -30 < lowest < 0


def test_parity_exits_with_0(tmp_path: Path) -> None:
    config = fake_config(
        tmp_path,
        candidate={"noise": 1e-4},
        workload={"num_prompts": 24, "samples_per_prompt": 2, "max_tokens": 16},
        gates=SMALL_RUN,
    )
    done = run_cli("compare", "-c", config, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert len(done.stdout.splitlines()) <= 40
    assert done.stdout.splitlines()[-3].startswith("✓ PARITY")


def test_what_the_workload_can_decide_is_said_before_the_engines_start(tmp_path: Path) -> None:
    done = run_cli("compare", "-c", fake_config(tmp_path), cwd=tmp_path)
    first = done.stderr.splitlines()[0]
    assert first.startswith("plan: even if nothing drifts, 9 of 9 gates cannot be decided")
    assert "needed at least: every gate 8 clusters; " in first


def test_too_few_prompts_exit_with_4_and_quiet_says_the_verdict_alone(tmp_path: Path) -> None:
    done = run_cli("compare", "-q", "-c", fake_config(tmp_path), cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr == ""
    [line] = done.stdout.splitlines()
    assert line.startswith("? INCONCLUSIVE")


@pytest.mark.parametrize("command", ["compare", "ablate"])
def test_clusters_by_a_column_of_which_the_first_prompts_have_no_value(
    tmp_path: Path, command: str
) -> None:
    config = fake_config(tmp_path, stats={"cluster_by": "family"}, workload={"num_prompts": 12})
    more = ["--set", "candidate.settings.logprobs_mode=default"] if command == "ablate" else []
    done = run_cli(command, "-c", config, *more, cwd=tmp_path)
    assert done.returncode in (0, 1, 4), done.stderr


@pytest.mark.parametrize("command", ["compare", "ablate"])
def test_clusters_by_no_column_are_refused_before_an_engine_starts(
    tmp_path: Path, command: str
) -> None:
    config = fake_config(tmp_path, stats={"cluster_by": "familly"})
    done = run_cli(command, "-c", config, cwd=tmp_path)
    assert_fails(done, 2, "stats.cluster_by: bundled:prompts has no column 'familly'", "family")
    assert not (tmp_path / "runs").exists()


def test_yaml_set_and_out_are_read(tmp_path: Path) -> None:
    tree = tomllib.loads(fake_config(tmp_path).read_text())
    tree["workload"]["top_k"] = 7
    config = tmp_path / "parity.yaml"
    config.write_text(yaml.safe_dump(tree))
    done = run_cli(
        "compare", "-c", config, "--set", "workload.num_prompts=2", "--set",
        "candidate.engine_args.noise=0.25", "--out", "it's here", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    [run] = (tmp_path / "it's here").iterdir()
    stored = load_config(run / "config.toml")
    assert (stored.workload.num_prompts, stored.workload.top_k) == (2, 7)
    assert stored.candidate.engine_args == {"noise": 0.25}
    assert not (tmp_path / "runs").exists()


def test_dry_run_starts_nothing(tmp_path: Path) -> None:
    config = fake_config(tmp_path, reference={"fault": {"op": "load", "how": "crash"}})
    done = run_cli("compare", "--dry-run", "-c", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout) == dump_config(load_config(config))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["parity.toml"]


def test_sampling_with_one_engine_measures_one_direction(tmp_path: Path) -> None:
    config = fake_config(tmp_path, workload={"sampled_by": "candidate", "repeats": 1})
    assert run_cli("compare", "-c", config, cwd=tmp_path).returncode == 4
    run = only_run(tmp_path)
    assert sorted(file.name for file in run.glob("*.parquet")) == [
        "candidate-repeat-1.parquet",
        "candidate-replayed-by-reference.parquet",
        "candidate.parquet",
        "reference-repeat-1.parquet",
    ]
    report = json.loads((run / "report.json").read_text())
    assert {metric["sampled_by"] for metric in report["metrics"]} == {"candidate"}


def candidate_sampled_ratio(directory: Path, settings: dict[str, Any]) -> dict[str, Any]:
    config = fake_config(
        directory,
        candidate_settings=settings,
        workload={"num_prompts": 24, "max_tokens": 8, "temperature": 0.7},
    )
    done = run_cli("compare", "-c", config, cwd=directory)
    assert done.returncode == (1 if settings == RAW else 4), done.stdout
    report = json.loads((only_run(directory) / "report.json").read_text())
    ratio: dict[str, Any]
    [ratio] = [
        metric
        for metric in report["metrics"]
        if metric["name"] == "mean_importance_ratio" and metric["sampled_by"] == "candidate"
    ]
    warned = {warning["id"] for warning in report["warnings"]} - {"shared-prefixes"}
    assert bool(warned) == (settings == RAW)
    return ratio


def test_raw_logprobs_at_a_temperature_move_the_ratio_off_1(tmp_path: Path) -> None:
    ratio = candidate_sampled_ratio(tmp_path, RAW)
    assert abs(ratio["value"] - 1) > 0.05
    assert not ratio["ci_low"] <= 1 <= ratio["ci_high"]


def test_processed_logprobs_leave_the_ratio_at_1(tmp_path: Path) -> None:
    ratio = candidate_sampled_ratio(tmp_path, {"logprobs_mode": "processed_logprobs"})
    assert ratio["ci_low"] <= 1 <= ratio["ci_high"]
    assert math.isclose(ratio["value"], 1, abs_tol=0.01)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("recorded")
    config = fake_config(home, candidate={"noise": 0.01})
    done = run_cli("record", "-c", config, "--engine", "reference", "-o", "t.parquet", cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "wrote t.parquet: 4 samples, " in done.stderr
    return home


@pytest.mark.parametrize(("path", "recorded_as"), [("decode", "decode"), ("prefill", "prefill")])
def test_record_then_replay(recorded: Path, path: str, recorded_as: str) -> None:
    out = recorded / f"{path}.parquet"
    done = run_cli(
        "replay", "-c", recorded / "parity.toml", "--engine", "candidate", "--path", path,
        "--trace", "t.parquet", "-o", out, cwd=recorded,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    header = read_header(out)
    assert header.replayed_from == read_header(recorded / "t.parquet").token_digest
    assert (header.logprob_path, header.evaluated_by) == (recorded_as, "candidate")
    assert header.samples == 4


def test_a_trace_of_another_model_is_not_replayed(recorded: Path, tmp_path: Path) -> None:
    model = tmp_path / "other-model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    config = fake_config(tmp_path, model={"path": str(model)})
    done = run_cli(
        "replay", "-c", config, "--engine", "candidate", "--trace", recorded / "t.parquet",
        "-o", "u.parquet", cwd=tmp_path,
    )  # fmt: skip
    assert_fails(done, 2, "t.parquet was recorded with another model: name: tiny ≠ other-model")
    assert not (tmp_path / "u.parquet").exists()
    assert_tidy(tmp_path)


def test_what_is_no_trace_is_not_replayed(tmp_path: Path) -> None:
    trace = tmp_path / "t.parquet"
    trace.write_text("not Parquet")
    done = run_cli(
        "replay", "-c", fake_config(tmp_path), "--engine", "candidate", "--trace", trace,
        "-o", "u.parquet", cwd=tmp_path,
    )  # fmt: skip
    assert_fails(done, 2, f"error: {trace}: not a Parquet file, or truncated")


ENOUGH = {"num_prompts": "enough", "samples_per_prompt": 1, "max_tokens": 4, "temperature": 0.7}
"""With the limits of SMALL_RUN, two looks decide every gate."""


def test_looks_end_when_every_gate_is_decided(tmp_path: Path) -> None:
    config = fake_config(
        tmp_path,
        candidate={"noise": 0.01},
        workload={**ENOUGH, "repeats": 1, "most_tokens": 3200},
        gates=SMALL_RUN,
    )
    done = run_cli("compare", "-c", config, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("look ")]
    assert told[0].startswith("look 1 of 4: 100 samples a direction, ")
    assert told[-1].endswith("18 of 18 gates decided")
    assert 1 < len(told) < 4
    assert "% over all of them" in done.stdout
    assert "98.75 % interval" in done.stdout
    run = only_run(tmp_path)
    report = json.loads((run / "report.json").read_text())
    assert (report["workload"]["looks"], report["workload"]["most_looks"]) == (len(told), 4)
    samples = list(Trace(run / "reference.parquet").samples())
    assert len(samples) == 100 * 2 ** (len(told) - 1)
    assert len({sample.sample_id for sample in samples}) == len(samples)
    by_prompt = {(sample.prompt_id, sample.sample_index) for sample in samples}
    assert len(by_prompt) == len(samples)
    assert not list(run.glob("look-*"))
    assert_tidy(tmp_path)
    again = run_cli("report", run.relative_to(tmp_path), cwd=tmp_path)
    assert again.stdout == done.stdout


@pytest.mark.parametrize("command", ["record", "ablate", "weight-sync"])
def test_looks_are_for_compare_alone(tmp_path: Path, command: str) -> None:
    config = fake_config(tmp_path, workload={**ENOUGH, "max_tokens": 32})
    further = ("--engine", "reference", "-o", "t.parquet") if command == "record" else ()
    done = run_cli(command, "-c", config, *further, cwd=tmp_path)
    assert_fails(done, 2, 'workload.num_prompts: "enough" is only for `compare`')


def test_a_stored_trace_has_a_plan_and_no_looks(drifting_run: Run, tmp_path: Path) -> None:
    trace = drifting_run.path / "reference.parquet"
    config = fake_config(tmp_path, workload={"temperature": 0.7, "repeats": 0})
    for option in ("--reference-trace", "--workload-trace"):
        done = run_cli("compare", "-c", config, option, trace, cwd=tmp_path)
        [plan] = [line for line in done.stderr.splitlines() if line.startswith("plan: ")]
        assert "gates cannot be decided (24 samples, 1" in plan
        assert re.search(r"a trace of 2,\d{3} prompts and about", plan)
        enough = ("--set", "workload.num_prompts=enough")
        done = run_cli("compare", "-c", config, option, trace, *enough, cwd=tmp_path)
        assert_fails(done, 2, 'workload.num_prompts: "enough" is only for `compare`')


@pytest.mark.parametrize(("profile", "code"), [("strict", 4), ("exact", 0)])
def test_a_few_bit_identical_tokens_are_no_parity(tmp_path: Path, profile: str, code: int) -> None:
    """Rare events do not show in 16 tokens; `exact` asks of nothing but the tokens compared."""
    small = {"num_prompts": 8, "samples_per_prompt": 1, "max_tokens": 2}
    fake_config(tmp_path, workload=small, gates={"profile": profile})
    done = run_cli("compare", cwd=tmp_path)
    assert done.returncode == code, done.stdout
    offered = "all compared tokens are bit-identical: --profile exact requires just that"
    assert (offered in done.stdout) == (profile == "strict")


def test_samples_that_end_too_early_for_a_gate_are_said_before_the_replays(tmp_path: Path) -> None:
    # 1,180 tokens could bound the tail, of at most 1,200: some sample ends early.
    config = fake_config(
        tmp_path,
        workload={"num_prompts": 8, "samples_per_prompt": 1, "max_tokens": 150},
        gates={"tail_fraction": 3.13e-3},
    )
    done = run_cli("compare", "-c", config, "--exit-zero", cwd=tmp_path)
    plan, *said = done.stderr.splitlines()
    assert "tail_fraction" not in plan
    [warning] = (line for line in said if line.startswith("warning: reference: samples have "))
    assert "tokens on average, of at most 150: even if nothing drifts" in warning
    assert "tail_fraction 1,177 tokens" in warning
    assert "; for all of them: " in warning
    assert "workload.samples_per_prompt = " in warning
    replayed = next(line for line in said if line.endswith("reference: replay"))
    assert said.index(warning) < said.index(replayed)


def test_one_value_that_only_one_engine_was_asked_for_is_no_difference(tmp_path: Path) -> None:
    config = fake_config(
        tmp_path,
        reference_settings={"async_scheduling": True},
        candidate_settings={"async_scheduling": "default", "enable_prefix_caching": "default"},
    )
    done = run_cli("compare", "-c", config, "--exit-zero", cwd=tmp_path)
    settings = " ".join(done.stdout.split()).partition(" workload: ")[0]
    assert "; async_scheduling on; " in settings
    assert 'enable_prefix_caching off → on ("default") (differs)' in settings


def test_a_column_of_few_values_is_no_evidence(tmp_path: Path) -> None:
    """The wrong column of a file has many rows and two prompts."""
    rows = [
        {"question": f"what is {row}?", "level": ["easy", "hard"][row % 2]} for row in range(300)
    ]
    write_prompts(tmp_path / "mine.jsonl", *rows)
    workload = {"prompts": "mine.jsonl", "prompt_column": "level", "num_prompts": 300}
    small = {"max_tokens": 2, "samples_per_prompt": 1, "repeats": 0}
    fake_config(tmp_path, workload=workload | small, gates={"profile": "relaxed"})
    done = run_cli("compare", cwd=tmp_path)
    assert done.returncode == 4
    assert "298 of 300 prompts are copies of others" in done.stderr
    assert "2 distinct prompts" in done.stderr
    assert "workload: 2 prompts, " in done.stdout


@pytest.mark.parametrize("column", ["topic", "prompt_group", None])
def test_prompts_that_share_a_beginning_are_warned_of_with_what_to_set(
    tmp_path: Path, column: str | None
) -> None:
    rows = []
    for topic in range(8):
        for question in range(2):
            text = f"{topic} is the topic of this long beginning, and {question}"
            label = {} if column is None else {column: f"topic {topic}"}
            rows.append({"prompt": text, "level": str(question), **label})
    write_prompts(tmp_path / "mine.jsonl", *rows)
    workload = {"prompts": "mine.jsonl", "num_prompts": 16, "max_tokens": 4}
    config = fake_config(tmp_path, workload=workload)
    done = run_cli("compare", "-c", config, "--exit-zero", cwd=tmp_path)
    said = " ".join(done.stdout.split())
    cluster = {"topic": "topic", "prompt_group": "group"}.get(column or "")
    assert "[shared-prefixes]: 16 of 16 prompts share at least half of their tokens" in said
    if cluster is None:
        assert "add a column with one value for each family of them" in said
        return
    assert f"--set stats.cluster_by={cluster} counts them together" in said
    again = ("--set", f"stats.cluster_by={cluster}", "--exit-zero")
    done = run_cli("report", only_run(tmp_path), *again, cwd=tmp_path)
    assert "shared-prefixes" not in done.stdout
