"""Dumps of training runs, through the command line: into traces, into reports, onto engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import dumps
from helpers.schemas import validator
from helpers.support import (
    SMALL_RUN,
    Finished,
    assert_fails,
    assert_tidy,
    call_cli,
    fake_config,
    only_run,
)
from parity_check.importers.command import evaluating_path
from parity_check.traces.trace import Trace

SAMPLES = Path(__file__).parents[2] / "docs" / "guides" / "dumps"
TWO_SIDED = {
    "prime-rl": "prime-rl.jsonl", "slime": "slime.pt", "miles": "miles.pt", "verl": "verl.dp",
    "trl": "trl.jsonl", "nemo-rl": "nemo-rl.jsonl", "skyrl": "skyrl.pkl",
}  # fmt: skip
DUMPS = Path(__file__).parents[1] / "data" / "dumps"
WIDE = [
    f"--set=gates.{name}={limit}"
    for name, limit in {**dict.fromkeys(SMALL_RUN, 9), "mean_log_ratio": 1, "ess": 1e-3}.items()
]


def import_dump(*arguments: object, cwd: Path) -> Finished:
    return call_cli("import", *arguments, "-o", "T.parquet", cwd=cwd)


def report_of(*arguments: object, cwd: Path) -> dict[str, Any]:
    done = call_cli("compare", *arguments, "--format=json", cwd=cwd)
    assert done.returncode in (0, 1, 4), done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    validator("comparison").validate(report)
    return report


def metrics(report: dict[str, Any]) -> dict[str, float]:
    return {each["name"]: each["value"] for each in report["metrics"]}


# --- both sides -----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", TWO_SIDED)
def test_a_dump_becomes_a_report_without_an_engine(tmp_path: Path, format: str) -> None:
    path = SAMPLES / TWO_SIDED[format]
    done = import_dump(format, path, "--sampling", "temperature=0.8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].strip() == (
        "parity-check compare T.parquet T-trainer.parquet"
    )
    report = report_of("T.parquet", "T-trainer.parquet", cwd=tmp_path)
    expected = Trace(tmp_path / "T.parquet").header
    assert report["workload"]["samples"] == expected.samples > 16
    assert report["workload"]["sampling"] == {"temperature": 0.8}
    assert "imported" in [warning["id"] for warning in report["warnings"]]
    assert metrics(report)["mean_abs_log_ratio"] < 0.01, "two engines in order"
    assert metrics(report)["mean_abs_log_ratio"] > 0.0
    engines = report["engines"]
    assert engines["reference"]["label"].endswith(("rollout", "generation"))
    assert engines["candidate"]["label"].endswith("trainer")
    for engine in engines.values():
        assert {each["in_force"] for each in engine["settings"].values()} == {"unknown"}
        assert engine["version"] == "unknown"
    assert report["differences"] == [], "what is unknown is not known to differ"
    assert report["model"] == {"name": "unknown"}


@pytest.mark.parametrize("words", [["auto"], []])
def test_a_format_is_found_and_said(tmp_path: Path, words: list[str]) -> None:
    done = import_dump(*words, SAMPLES / "nemo-rl.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("detected format: nemo-rl\nwrote T.parquet: 24 samples")


def test_rollouts_of_several_samples_are_sequences_and_clusters(tmp_path: Path) -> None:
    """36 samples of slime are 12 rollouts of 3 prompts, and so is what counts sequences."""
    done = import_dump("slime", DUMPS / "slime-compact-train.pt", cwd=tmp_path)
    assert "36 sequences belong to 12 rollouts" in done.stderr
    report = report_of("T.parquet", "T-trainer.parquet", cwd=tmp_path)
    assert report["workload"]["prompts"] == 3
    counted = {
        each["objective"]["name"]: each["counted"]
        for each in report["clips"]
        if each["length"] is None
    }
    assert {counted[name]["n"] for name in ("gspo", "geometric-mask", "tis-slime")} == {12}
    turns = {each["bin"] for each in report["breakdowns"] if each["breakdown"] == "turn"}
    assert turns == {"turn 1", "turn 2", "turn 3"}


@pytest.mark.parametrize("copied", [True, False])
def test_a_column_that_was_copied_from_the_other_is_said(tmp_path: Path, copied: bool) -> None:
    rows = [json.loads(line) for line in (SAMPLES / "nemo-rl.jsonl").read_text().splitlines()]
    for row in rows if copied else []:
        row["prev_logprobs"] = row["generation_logprobs"]
    dump = tmp_path / "dump.jsonl"
    dump.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert import_dump("nemo-rl", dump, cwd=tmp_path).returncode == 0
    report = report_of("T.parquet", "T-trainer.parquet", cwd=tmp_path)
    assert ("copied-logprobs" in [each["id"] for each in report["warnings"]]) == copied


def test_a_loss_that_recomputes_shows_its_truncation(tmp_path: Path) -> None:
    assert import_dump("trl", SAMPLES / "trl.jsonl", cwd=tmp_path).returncode == 0
    pair = ("T.parquet", "T-trainer.parquet", "--set", "objective.kind=gspo")
    assert report_of(*pair, cwd=tmp_path)["objective"] == "gspo"
    recompute = report_of(*pair, "--set", "objective.logprobs=recompute", cwd=tmp_path)
    assert recompute["objective"] == "tis-token"
    assert metrics(recompute)["clip_fraction"] == 0.0


@pytest.mark.parametrize("format", ["text", "markdown", "github", "junit"])
def test_every_renderer_shows_an_imported_pair(tmp_path: Path, format: str) -> None:
    assert import_dump("trl", SAMPLES / "trl.jsonl", cwd=tmp_path).returncode == 0
    done = call_cli(
        "compare", "T.parquet", "T-trainer.parquet", f"--format={format}", "-v", *WIDE, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    if format == "text":
        assert "sampled by the TRL rollout, evaluated by the TRL trainer: " in done.stdout
        assert "not stated: temperature, top_p, top_k" in done.stdout
        assert "import --sampling NAME=VALUE" in done.stdout.replace("\n  ", " ")


@pytest.mark.parametrize("format", [(), ("trl",), ("verl",)], ids=" ".join)
@pytest.mark.parametrize(
    "text",
    [
        '{"_step": 1, "rollout_corr/kl": 0.1}\n{"_step": 2, "rollout_corr/kl": null}\n',
        '{"step": 1, "data": {"actor/entropy": 0.5}}\n',
        '{\n "log_history": [{"step": 1, "loss": 0.5}]\n}\n',
    ],
    ids=["lines", "groups", "pretty"],
)
def test_a_log_of_metrics_is_for_another_command(
    tmp_path: Path, format: tuple[str, ...], text: str
) -> None:
    (tmp_path / "run.jsonl").write_text(text)
    done = import_dump(*format, "run.jsonl", cwd=tmp_path)
    assert_fails(done, 2, "run.jsonl: ", "parity-check logs run.jsonl")


def test_what_is_no_trace_has_a_command(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").write_text('{"step": 1}\n')
    done = call_cli("compare", "run.jsonl", "run.jsonl", cwd=tmp_path)
    assert_fails(done, 2, "run.jsonl: not a Parquet file", "parity-check import", "logs")


def test_one_of_a_kind_is_in_the_singular(tmp_path: Path) -> None:
    row = dumps.prime_rl([1], [2, 3, 4], [-1.0, 0.0, -2.0], [-1.5, -9.0, -2.5],
                         mask=[True, False, True])  # fmt: skip
    said = import_dump("prime-rl", dumps.write_lines(tmp_path / "a.jsonl", [row]), cwd=tmp_path)
    assert "T.parquet: 2 samples, 2 tokens, " in said.stderr
    assert "; 1 sequence was split into one sample per turn; " in said.stderr
    assert "; 1 masked token between turns is only context\n" in said.stderr


def test_masked_tokens_do_not_reach_a_number(tmp_path: Path) -> None:
    """Tool tokens hold garbage on both sides; the report is that of the sampled tokens."""
    rows = [
        dumps.prime_rl(
            [number], [2, 3, 4, 5], [-1.0, 0.0, 0.0, -2.0], [-1.5, -9.0, -9.0, -2.5],
            mask=[True, False, False, True], export_sequence_idx=number,
        )
        for number in range(10)
    ]  # fmt: skip
    done = import_dump("prime-rl", dumps.write_lines(tmp_path / "a.jsonl", rows), cwd=tmp_path)
    assert "20 samples, 20 tokens" in done.stderr
    assert "10 sequences were split into one sample per turn" in done.stderr
    assert "20 masked tokens between turns are only context" in done.stderr
    report = report_of("T.parquet", "T-trainer.parquet", cwd=tmp_path)
    assert (report["workload"]["tokens"], report["workload"]["prompts"]) == (20, 10)
    assert metrics(report)["mean_log_ratio"] == pytest.approx(-0.5)


def test_defects_are_counted_and_never_dropped(tmp_path: Path) -> None:
    rows = [
        dumps.prime_rl(
            [n], [2, 3, 4, 5], [None, -9999.0, -1.0, -2.0], [-2.0] * 4, export_sequence_idx=n
        )
        for n in range(8)
    ]
    broken = [json.dumps(row).replace("-1.0", "NaN", 1) for row in rows]
    done = import_dump("prime-rl", dumps.write_lines(tmp_path / "a.jsonl", broken), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "; 8 logprobs are null\n" in done.stderr
    report = report_of("T.parquet", "T-trainer.parquet", *WIDE, cwd=tmp_path)
    counts = {each["kind"]: each["count"] for each in report["invalid_logprobs"]}
    assert counts == {"missing": 8, "floor": 8, "nan": 8}
    assert report["verdict"] == "drift"


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("prime_rl", "x.jsonl"), "hint: did you mean prime-rl?"),
        (("trl", "empty.jsonl"), "empty.jsonl: the file is empty"),
        (("trl", "cut.jsonl"), "cut.jsonl, line 2: not valid JSON, or truncated"),
        (("trl", "missing.jsonl"), "cannot read the dump missing.jsonl: No such file"),
        (("trl", "."), "cannot read the dump .: Is a directory"),
        (("slime", "cut.jsonl"), "cut.jsonl: looks like a dump of trl, not of slime"),
        (("slime",), "no file of slime to import"),
        (("auto", "log.jsonl"), "log.jsonl: not a dump of a known format"),
        (("auto", "whole.jsonl", SAMPLES / "slime.pt"), "files of several formats"),
        (("trl", "masked.jsonl"), "`frame_mask` looks like a mask"),
        (("verl", "text.jsonl"), "rollout_data_dir has only text"),
        (("trl", "whole.jsonl", "--sampling", "temprature=1"), "hint: did you mean temperature?"),
        (("trl", "whole.jsonl", "--sampling", "temperature=-1"), "--sampling: temperature: "),
        (("trl", "whole.jsonl", "whole.jsonl"), "already occurred at whole.jsonl, line 1"),
        (("trl", "whole.jsonl", "--model", "nowhere"), "model nowhere: no such directory"),
        (("trl", "huge.jsonl", "--model", "bundled:tiny"), "is outside the model's vocabulary"),
    ],
)
def test_one_clear_line_and_nothing_is_overwritten(
    tmp_path: Path, arguments: tuple[str | Path, ...], expected: str
) -> None:
    row = {"prompt_ids": [1], "completion_ids": [2], "logprobs": [-1.0]}
    dumps.write_lines(tmp_path / "whole.jsonl", [row])
    dumps.write_lines(tmp_path / "cut.jsonl", [row, '{"prompt_ids": [1'])
    dumps.write_lines(tmp_path / "masked.jsonl", [{**row, "frame_mask": [1]}])
    dumps.write_lines(tmp_path / "log.jsonl", [{"step": 1, "loss": 0.5}])
    dumps.write_lines(tmp_path / "text.jsonl", [{"input": "2 + 2 =", "output": " 4"}])
    dumps.write_lines(tmp_path / "huge.jsonl", [{**row, "prompt_ids": [151_644]}])
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "T.parquet").write_text("something else")
    assert_fails(import_dump(*arguments, cwd=tmp_path), 2, expected)
    assert (tmp_path / "T.parquet").read_text() == "something else"
    assert not evaluating_path(tmp_path / "T.parquet").exists()


def test_sides_of_different_dumps_do_not_match(tmp_path: Path) -> None:
    for number in (0, 1):
        row = {
            "prompt_ids": [1], "completion_ids": [2 + number], "logprobs": [-1.0],
            "old_per_token_logps": [-1.0],
        }  # fmt: skip
        path = dumps.write_lines(tmp_path / f"{number}.jsonl", [row])
        done = call_cli("import", "trl", path, "-o", f"T{number}.parquet", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    done = call_cli("compare", "T0.parquet", "T1-trainer.parquet", cwd=tmp_path)
    assert_fails(done, 2, "was not replayed from this behaviour trace")


# --- onto engines ---------------------------------------------------------------------------------


def imported_trace(directory: Path, *options: object) -> Path:
    """Responses of ids that a fake engine knows."""
    rows = [
        {
            "model": "tiny",
            "choices": [
                {
                    "index": 0, "prompt_token_ids": [1, 2, number], "token_ids": [3, 4, 5],
                    "logprobs": {"tokens": ["a", "b", "c"], "token_logprobs": [-1.0, -0.5, -2.0]},
                }
            ],
        }
        for number in range(10)
    ]  # fmt: skip
    path = dumps.write_lines(directory / "responses.jsonl", rows)
    done = import_dump("openai", path, *options, cwd=directory)
    assert done.returncode == 0, done.stderr
    assert "--workload-trace T.parquet" in done.stderr
    assert not evaluating_path(directory / "T.parquet").exists(), "a server has no trainer"
    return directory / "T.parquet"


def test_an_imported_trace_is_a_workload(tmp_path: Path) -> None:
    trace = imported_trace(tmp_path, "--model", "bundled:tiny")
    config = fake_config(
        tmp_path, candidate={"noise": 0.2}, workload={"repeats": 1, "temperature": 0.8}
    )
    report = report_of("-c", config, "--workload-trace", trace, cwd=tmp_path)
    run = only_run(tmp_path)
    assert_tidy(tmp_path)
    assert {path.name for path in run.glob("*.parquet")} == {
        "workload.parquet", "reference.parquet", "reference-replayed-by-candidate.parquet",
        "reference-repeat-1.parquet", "candidate-repeat-1.parquet",
    }  # fmt: skip
    assert (run / "workload.parquet").read_bytes() == trace.read_bytes()
    assert report["workload"]["samples"] == Trace(trace).header.samples
    assert report["workload"]["sampling"]["temperature"] == 0.8, "of the configuration: not stated"
    [foreign] = [each for each in report["warnings"] if each["id"] == "foreign-tokens"]
    assert "sampled by the OpenAI-compatible server" in foreign["message"]
    shown = call_cli("report", run, "-v", cwd=tmp_path).stdout
    assert (
        "sampled by the OpenAI-compatible server, replayed by the reference and the candidate"
        in shown.replace("\n  ", " ")
    )
    pair = ("workload.parquet", "reference-replayed-by-candidate.parquet")
    text = call_cli("compare", *(run / name for name in pair), "-v", cwd=tmp_path).stdout
    assert "sampled by the OpenAI-compatible server, replayed by the candidate: " in text
    for engine in ("reference.parquet", "reference-replayed-by-candidate.parquet"):
        own = report_of(run / "workload.parquet", run / engine, cwd=tmp_path)
        assert own["engines"]["reference"]["label"] == "OpenAI-compatible server"
        assert own["workload"]["tokens"] == report["workload"]["tokens"]


def test_what_the_dump_states_is_what_is_replayed(tmp_path: Path) -> None:
    trace = imported_trace(tmp_path, "--sampling", "temperature=0.6", "--sampling", "top_p=0.9")
    config = fake_config(tmp_path, workload={"temperature": 1.0, "top_k": 40})
    sampling = report_of("-c", config, "--workload-trace", trace, cwd=tmp_path)["workload"][
        "sampling"
    ]
    assert (sampling["temperature"], sampling["top_p"], sampling["top_k"]) == (0.6, 0.9, 40)


def test_a_recorded_trace_is_a_workload(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    done = call_cli("record", "-c", config, "--engine=candidate", "-o", "A.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = report_of("-c", config, "--workload-trace", "A.parquet", cwd=tmp_path)
    [foreign] = [each for each in report["warnings"] if each["id"] == "foreign-tokens"]
    assert "sampled by the candidate of another run" in foreign["message"]
    assert metrics(report)["mean_log_ratio"] == 0


def test_an_imported_trace_stands_in_for_the_reference(tmp_path: Path) -> None:
    trace = imported_trace(tmp_path, "--sampling", "temperature=0.8")
    report = report_of(
        "-c", fake_config(tmp_path), "--reference-trace", trace, cwd=tmp_path
    )  # fmt: skip
    assert report["engines"]["reference"]["settings"]["lm_head_dtype"]["in_force"] == "unknown"
    assert report["differences"] == []


def test_another_models_tokens_are_refused(tmp_path: Path) -> None:
    row = {"prompt_ids": [1], "completion_ids": [151_644], "logprobs": [-1.0]}
    path = dumps.write_lines(tmp_path / "a.jsonl", [row])
    assert import_dump("trl", path, cwd=tmp_path).returncode == 0
    config = fake_config(tmp_path)
    done = call_cli("compare", "-c", config, "--workload-trace", "T.parquet", cwd=tmp_path)
    assert_fails(done, 2, "token id 151644 is outside the model's vocabulary")


def test_the_two_ways_to_give_a_trace_are_not_mixed(tmp_path: Path) -> None:
    traces = ("--reference-trace", "A.parquet", "--workload-trace", "A.parquet")
    done = call_cli("compare", "-c", fake_config(tmp_path), *traces, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be combined with --reference-trace" in done.stderr


# --- diagnosis ------------------------------------------------------------------------------------

WRITERS = ("prime-rl", "slime", "trl")


def dump_of(format: str, rollouts: list[dumps.Rollout], path: Path) -> Path:
    """The same rollouts as a dump of a framework, four to a prompt."""
    if format == "slime":
        samples = [
            dumps.slime_train(
                [1, 2, number // 4], ids,
                rollout_log_probs=np.array(rollout, np.float32),
                log_probs=np.array(trainer, np.float32),
            )
            for number, (ids, rollout, trainer) in enumerate(rollouts)
        ]  # fmt: skip
        return dumps.slime_dump(path, samples)
    rows = [
        dumps.prime_rl(
            [1, 2, number // 4], ids, rollout, trainer, export_sequence_idx=number
        )
        if format == "prime-rl"
        else {
            "prompt_ids": [1, 2, number // 4], "completion_ids": ids, "logprobs": rollout,
            "old_per_token_logps": trainer,
        }
        for number, (ids, rollout, trainer) in enumerate(rollouts)
    ]  # fmt: skip
    return dumps.write_lines(path, rows)


def causes(
    format: str, rollouts: list[dumps.Rollout], directory: Path, *stated: str
) -> dict[str, str | None]:
    """The causes that the diagnosis of a dump names, and whose they are."""
    dump = dump_of(format, rollouts, directory / "dump")
    options = [f"--sampling={each}" for each in stated]
    done = import_dump(format, dump, *options, cwd=directory)
    assert done.returncode == 0, done.stderr
    report = report_of("T.parquet", "T-trainer.parquet", cwd=directory)
    return {each["cause"]: each["engine"] for each in report["diagnosis"]}


@pytest.mark.parametrize("format", WRITERS)
def test_a_dump_in_order_has_no_cause(format: str, tmp_path: Path) -> None:
    rollouts = [(ids, shaped, [x - 1e-4 for x in shaped]) for ids, _, shaped in
                dumps.scaled_pair(0.7)]  # fmt: skip
    assert causes(format, rollouts, tmp_path, "temperature=0.7") == {}


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("stated", [(), ("temperature=1.0",)])
def test_an_off_by_one_is_named(format: str, stated: tuple[str, ...], tmp_path: Path) -> None:
    """Each logprob of the rollout stands one token late, as where the first is a prompt's."""
    rollouts = [(ids, [-3.0, *shaped[:-1]], shaped) for ids, _, shaped in dumps.scaled_pair(1.0)]
    assert list(causes(format, rollouts, tmp_path, *stated)) == ["off_by_one"]


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("temperature", [0.6, 0.8, 1.3])
def test_raw_logprobs_are_named(format: str, temperature: float, tmp_path: Path) -> None:
    rollouts = list(dumps.scaled_pair(temperature))
    stated = f"temperature={temperature}"
    assert causes(format, rollouts, tmp_path, stated) == {"raw_logprobs_in_dump": "reference"}


def test_a_trainer_without_the_temperature_is_named(tmp_path: Path) -> None:
    rollouts = [(ids, shaped, raw) for ids, raw, shaped in dumps.scaled_pair(0.7)]
    found = causes("trl", rollouts, tmp_path, "temperature=0.7")
    assert found == {"raw_logprobs_in_dump": "candidate"}


def test_without_a_stated_temperature_no_side_is_accused(tmp_path: Path) -> None:
    found = causes("trl", list(dumps.scaled_pair(0.6)), tmp_path)
    assert found == {"raw_logprobs_in_dump": None}


def test_a_policy_some_steps_on_is_not_raw(tmp_path: Path) -> None:
    """A little sharper, at a temperature: staleness, which no backend explains."""
    rollouts = [
        (ids, shaped, [1.02 * x for x in shaped]) for ids, _, shaped in dumps.scaled_pair(0.7)
    ]
    assert "raw_logprobs_in_dump" not in causes("trl", rollouts, tmp_path, "temperature=0.7")
