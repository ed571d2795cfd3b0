"""Record once, compare many: stored traces, finished runs, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import Run
from helpers import support
from helpers.canned import CANNED, Canned, write_run
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
from parity_check.traces.trace import METADATA_KEY, Sample, Trace, write_trace

WORKLOAD = {"num_prompts": 12, "samples_per_prompt": 2, "max_tokens": 12, "repeats": 0}
LOAD_FAILS = {"fault": {"op": "load", "how": "crash"}}


class Stored(NamedTuple):
    """Traces of fake engines: A sampled, the others its replays."""

    home: Path
    config: Path
    a: Path
    by_candidate: Path
    by_reference: Path
    prefill: Path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    home = tmp_path_factory.mktemp("stored")
    config = fake_config(home, candidate={"noise": 0.2}, workload=WORKLOAD)
    sample = ("record", "-c", config, "--engine", "reference", "-o", "A.parquet")
    assert call_cli(*sample, cwd=home).returncode == 0
    for name, engine, path in (
        ("candidate", "candidate", "decode"),
        ("reference", "reference", "decode"),
        ("prefill", "candidate", "prefill"),
    ):
        done = call_cli(
            "replay", "-c", config, "--engine", engine, "--path", path,
            "--trace", "A.parquet", "-o", f"{name}.parquet", cwd=home,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    names = ("A", "candidate", "reference", "prefill")
    return Stored(home, config, *(home / f"{name}.parquet" for name in names))


def compare(*arguments: object, cwd: Path) -> Finished:
    return call_cli("compare", *arguments, cwd=cwd)


def report_of(done: Finished) -> dict[str, Any]:
    """The JSON report on stdout, which keeps to the schema."""
    report: dict[str, Any] = json.loads(done.stdout)
    validator("comparison").validate(report)
    return report


def rewritten(
    source: Path,
    target: Path,
    change: Callable[[list[Sample]], Iterable[Sample]] = list,
    **header: Any,
) -> Path:
    """A trace with other samples, or another header."""
    trace = Trace(source)
    samples = list(change(list(trace.samples())))
    write_trace(target, samples, replace(trace.header, **header), trace.vocabulary())
    return target


# --- two stored traces ----------------------------------------------------------------------------


def test_two_traces_are_compared_without_an_engine(stored: Stored, tmp_path: Path) -> None:
    done = compare(stored.a, stored.by_candidate, "--format", "json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == ""
    report = report_of(done)
    [direction] = report["directions"]
    assert (direction["sampled_by"], direction["evaluated_by"]) == ("reference", "candidate")
    assert report["workload"]["samples"] == 24
    assert not list(tmp_path.iterdir()), "no run directory without engines"


def test_the_order_of_the_traces_does_not_matter(stored: Stored, tmp_path: Path) -> None:
    one, other = (
        compare(*traces, "--format", "json", cwd=tmp_path).stdout
        for traces in ((stored.a, stored.by_candidate), (stored.by_candidate, stored.a))
    )
    assert one == other


def test_limits_of_a_configuration_judge_two_traces(stored: Stored, tmp_path: Path) -> None:
    wide = {**dict.fromkeys(SMALL_RUN, 9), "mean_log_ratio": 1, "ess": 1e-3}
    config = fake_config(tmp_path, gates=wide)
    done = compare(stored.a, stored.by_candidate, "-c", config, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    sets = [f"--set=gates.{name}={limit}" for name, limit in wide.items()]
    again = compare(stored.a, stored.by_candidate, *sets, cwd=tmp_path)
    assert again.stdout == done.stdout


def test_an_engine_against_itself_is_bit_identical(stored: Stored, tmp_path: Path) -> None:
    done = compare(stored.a, stored.by_reference, "--format", "json", cwd=tmp_path)
    assert done.returncode == 4, "rare events do not show in a few hundred tokens"
    report = report_of(done)
    values = {metric["name"]: metric["value"] for metric in report["metrics"]}
    assert (values["mean_log_ratio"], values["ess"]) == (0, 1)
    assert values["identical_fraction"] == values["mean_importance_ratio"] == 1
    assert report["directions"][0]["first_divergence"]["diverged"] == 0
    exact = compare(stored.a, stored.by_reference, "--set=gates.profile=exact", "-v", cwd=tmp_path)
    assert exact.returncode == 0
    assert exact.stdout.splitlines()[-1].startswith("✓ PARITY")


def test_breakdowns_carry_the_names_of_the_groups(stored: Stored, tmp_path: Path) -> None:
    report = report_of(compare(stored.a, stored.by_candidate, "--format=json", cwd=tmp_path))
    groups = {sample.prompt_group for sample in Trace(stored.a).samples()}
    found = [each for each in report["breakdowns"] if each["breakdown"] == "prompt_group"]
    assert {entry["bin"] for entry in found} == groups


# --- a stored trace in place of the reference -----------------------------------------------------


def test_a_reference_trace_needs_no_reference_engine(stored: Stored, tmp_path: Path) -> None:
    config = fake_config(
        tmp_path,
        reference=LOAD_FAILS,
        candidate={"noise": 0.2},
        workload={**WORKLOAD, "repeats": 1},
    )
    done = compare("-c", config, "--reference-trace", stored.a, "--format", "json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    report = report_of(done)
    assert [direction["sampled_by"] for direction in report["directions"]] == ["reference"]
    assert all(set(metric["noise_floor"]) == {"candidate"} for metric in report["metrics"])
    direct = report_of(compare(stored.a, stored.by_candidate, "--format=json", cwd=tmp_path))
    numbers = [
        [(metric["name"], metric["value"]) for metric in each["metrics"]]
        for each in (report, direct)
    ]
    assert numbers[0] == numbers[1]
    assert_tidy(tmp_path)


def test_a_reference_trace_of_another_model_is_refused(stored: Stored, tmp_path: Path) -> None:
    model = tmp_path / "other-model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    config = fake_config(tmp_path, model={"path": str(model)})
    done = compare("-c", config, "--reference-trace", stored.a, cwd=tmp_path)
    assert_fails(done, 2, "was recorded with another model: name: tiny ≠ other-model")
    assert_tidy(tmp_path)


def test_a_reference_trace_that_is_none(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    done = compare("-c", config, "--reference-trace", "none.parquet", cwd=tmp_path)
    assert_fails(done, 2, "error: cannot read the trace none.parquet: No such file or directory")
    assert not (tmp_path / "runs").exists()


# --- a finished run, judged again -----------------------------------------------------------------


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("healthy")
    config = fake_config(
        home,
        candidate={"noise": 1e-4},
        workload={"num_prompts": 16, "samples_per_prompt": 2, "max_tokens": 16, "repeats": 1},
        gates=SMALL_RUN,
    )
    assert compare("-c", config, cwd=home).returncode == 0
    return only_run(home)


@pytest.mark.parametrize(
    ("options", "code", "judged"),
    [
        ([], 0, None),
        (["--set", "gates.k3_kl=1e-10"], 1, None),
        (["--set", "gates.k3_kl=1e-10", "--exit-zero"], 0, 1),
        (["--set", "gates.k3_kl=1e-10", "--inconclusive", "pass"], 1, None),
        (["--set", "gates.tail_fraction=1e-5"], 4, None),
        (["--set", "gates.tail_fraction=1e-5", "--inconclusive", "pass"], 0, 4),
        (["--set", "gates.tail_fraction=1e-5", "--inconclusive", "fail"], 1, 4),
        (["--set", "gates.tail_fraction=1e-5", "--exit-zero"], 0, 4),
        (["--set", "gates.profile=exact"], 1, None),
    ],
)
def test_a_run_is_judged_again(
    healthy: Path, tmp_path: Path, options: list[str], code: int, judged: int | None
) -> None:
    """`judged` is the exit code of the verdict, where another one was asked for."""
    before = contents(healthy)
    done = call_cli("report", healthy, *options, cwd=tmp_path)
    assert done.returncode == code, done.stdout
    assert done.stderr == (f"exit code {code} instead of {judged}, as asked\n" if judged else "")
    assert contents(healthy) == before, "the run stays as it is"


def contents(directory: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()
    }


def test_a_limit_that_is_said_to_pass_does(drifting_run: Run, tmp_path: Path) -> None:
    done = call_cli("report", drifting_run.path, "-v", cwd=tmp_path)
    assert done.returncode == 1
    stated = {
        words.split(" = ")[0]: float(words.split(" = ")[1].split()[0])
        for words in " ".join(done.stdout.split()).split("limit that would pass: ")[1:]
    }
    both = [gate["required_limit"] for gate in drifting_run.report["gates"]]
    assert len(stated) == len(both) / 2
    wider = {name: limit for name, limit in stated.items() if name != "gates.ess"}
    options = [f"--set={name}={2 * limit}" for name, limit in wider.items()]
    ess = stated["gates.ess"] / 2
    again = call_cli("report", drifting_run.path, *options, f"--set=gates.ess={ess}", cwd=tmp_path)
    assert again.returncode == 0, again.stdout


def test_another_objective_and_its_lengths(healthy: Path, tmp_path: Path) -> None:
    done = call_cli("report", healthy, "-v", "--set", "objective.kind=gspo", cwd=tmp_path)
    assert "clip fraction, gspo, n = 32" in done.stdout
    assert "  0–127 tokens, n = 32" in done.stdout
    assert "truncation share, tis-token" in done.stdout
    recompute = call_cli("report", healthy, "-v", "--set=objective.kind=tis-token", cwd=tmp_path)
    assert recompute.stdout.count("\ntruncation share, tis-token  ") == 2, "once a direction"
    assert "clip fraction" not in recompute.stdout


def test_the_stored_report_says_what_report_says(healthy: Path, tmp_path: Path) -> None:
    done = call_cli("report", healthy, "--format", "json", cwd=tmp_path)
    assert report_of(done) == json.loads((healthy / "report.json").read_text())


# --- GitHub Actions -------------------------------------------------------------------------------


@pytest.fixture
def summary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where GitHub Actions wants the summary of a step."""
    path = tmp_path / "summary.md"
    path.write_text("# earlier step\n")
    actions = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(path)}
    plain = support.environment
    monkeypatch.setattr(support, "environment", lambda: {**plain(), **actions})
    return path


def test_on_github_the_job_is_annotated_and_summarised(
    drifting_run: Run, summary: Path, tmp_path: Path
) -> None:
    done = call_cli("report", drifting_run.path, cwd=tmp_path)
    annotations = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert annotations[0].startswith("::error title=parity-check::✗ DRIFT")
    assert any(line.startswith("::error title=parity-check (k3_kl)::") for line in annotations)
    written = summary.read_text()
    assert written.startswith("# earlier step\n## parity-check: ✗ DRIFT")
    markdown = call_cli("report", drifting_run.path, "--format", "markdown", cwd=tmp_path)
    assert written.removeprefix("# earlier step\n") == markdown.stdout


def test_on_github_json_stays_json(drifting_run: Run, summary: Path, tmp_path: Path) -> None:
    done = call_cli("report", drifting_run.path, "--format", "json", cwd=tmp_path)
    assert report_of(done)["verdict"] == "drift"
    assert "✗ DRIFT" in summary.read_text()


def test_a_summary_that_cannot_be_written(drifting_run: Run, summary: Path, tmp_path: Path) -> None:
    summary.unlink()
    summary.mkdir()
    done = call_cli("report", drifting_run.path, cwd=tmp_path)
    assert_fails(done, 2, f"error: cannot write {summary}: Is a directory")


# --- traces that cannot be compared ---------------------------------------------------------------


def other_token(samples: list[Sample]) -> list[Sample]:
    ids = list(samples[3].completion_token_ids)
    ids[2] = (ids[2] + 1) % 256
    return [*samples[:3], replace(samples[3], completion_token_ids=ids), *samples[4:]]


def other_prompt(samples: list[Sample]) -> list[Sample]:
    return [replace(samples[0], prompt_token_ids=[1, 2, 3]), *samples[1:]]


@pytest.mark.parametrize(
    ("change", "header", "expected"),
    [
        (other_token, {}, ", token 2: id "),
        (other_prompt, {}, "the prompts' token ids differ between the traces"),
        (lambda samples: samples[1:], {}, "sample "),
        (lambda samples: samples[::-1], {}, "different samples or order"),
        (list, {"model": {"name": "tiny", "weights_fingerprint": "x"}}, "of different models: "),
        (list, {"logprob_distribution": "raw"}, "logprob distribution: processed ≠ raw"),
        (list, {"sampling": {"temperature": 0.5}}, "the traces differ in "),
        (list, {"replayed_from": "0" * 64}, "was not replayed from this behaviour trace: "),
        (list, {"replayed_from": None}, "its token digest is none, expected "),
    ],
)
def test_traces_that_do_not_match(
    stored: Stored,
    tmp_path: Path,
    change: Callable[[list[Sample]], Iterable[Sample]],
    header: dict[str, Any],
    expected: str,
) -> None:
    broken = rewritten(stored.by_candidate, tmp_path / "B.parquet", change, **header)
    kept = tmp_path / "report.json"
    kept.write_text("an earlier report")
    done = compare(stored.a, broken, "--write", f"json={kept}", cwd=tmp_path)
    assert_fails(done, 2, expected)
    assert done.stdout == ""
    assert kept.read_text() == "an earlier report"


def test_decode_does_not_meet_prefill(stored: Stored, tmp_path: Path) -> None:
    done = compare(stored.a, stored.prefill, cwd=tmp_path)
    assert_fails(done, 2, "error: the traces differ in logprob path: decode ≠ prefill\n")


def test_two_replays_are_no_pair(stored: Stored, tmp_path: Path) -> None:
    done = compare(stored.by_reference, stored.by_candidate, "--format=json", cwd=tmp_path)
    # The reference's replay is the reference's own trace once more: same tokens, same digest.
    assert done.returncode == 1
    assert report_of(done)["workload"]["samples"] == 24
    done = compare(stored.a, stored.a, cwd=tmp_path)
    assert_fails(done, 2, "was not replayed from this behaviour trace", "hint: replay it with ")


# --- bad input ------------------------------------------------------------------------------------


def empty(path: Path, stored: Stored) -> None:
    path.write_bytes(b"")


def truncated(path: Path, stored: Stored) -> None:
    whole = stored.by_candidate.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def corrupt(path: Path, stored: Stored) -> None:
    whole = bytearray(stored.by_candidate.read_bytes())
    whole[200:1200] = bytes(1000)
    path.write_bytes(whole)


def without_rows(path: Path, stored: Stored) -> None:
    rewritten(stored.by_candidate, path, lambda samples: [])


def not_a_trace(path: Path, stored: Stored) -> None:
    pq.write_table(pa.table({"logprobs": [1.0]}), path)


def with_metadata(change: dict[str, Any]) -> Callable[[Path, Stored], None]:
    def write(path: Path, stored: Stored) -> None:
        table = pq.read_table(stored.by_candidate)
        metadata = dict(table.schema.metadata)
        header = {**json.loads(metadata[METADATA_KEY]), **change}
        metadata[METADATA_KEY] = json.dumps(header).encode()
        pq.write_table(table.replace_schema_metadata(metadata), path)

    return write


def without_logprobs(path: Path, stored: Stored) -> None:
    table = pq.read_table(stored.by_candidate)
    pq.write_table(table.drop_columns(["logprobs"]), path)


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (empty, "not a Parquet file, or truncated"),
        (truncated, "not a Parquet file, or truncated"),
        (corrupt, "cannot be read: "),
        (without_rows, "the trace has no samples"),
        (not_a_trace, "a Parquet file, but not a parity-check trace"),
        (
            with_metadata({"schema_version": 2}),
            "trace schema 2, but this version of parity-check reads 1",
        ),
        (with_metadata({"surprise": 1}), "not a valid trace header"),
        (without_logprobs, "missing columns: logprobs"),
    ],
)
def test_a_file_that_is_no_whole_trace(
    stored: Stored, tmp_path: Path, write: Callable[[Path, Stored], None], expected: str
) -> None:
    broken = tmp_path / "B.parquet"
    write(broken, stored)
    done = compare(stored.a, broken, cwd=tmp_path)
    assert_fails(done, 2, f"error: {broken}: ", expected)
    assert done.stdout == ""


def changed_samples(
    stored: Stored, tmp_path: Path, change: Callable[[Sample], Sample], which: slice
) -> tuple[Path, Path]:
    """Both traces with some samples changed in the same way."""

    def apply(samples: list[Sample]) -> list[Sample]:
        chosen = set(range(len(samples))[which])
        return [change(s) if number in chosen else s for number, s in enumerate(samples)]

    a = rewritten(stored.a, tmp_path / "A.parquet", apply)
    digest = Trace(a).header.token_digest
    return a, rewritten(stored.by_candidate, tmp_path / "B.parquet", apply, replayed_from=digest)


def test_a_prompt_without_a_completion_does_not_count(stored: Stored, tmp_path: Path) -> None:
    nothing: dict[str, Any] = {
        "completion_token_ids": [], "logprobs": [], "top_token_ids": None, "top_logprobs": None,
    }  # fmt: skip
    traces = changed_samples(stored, tmp_path, lambda s: replace(s, **nothing), slice(0, 2))
    report = report_of(compare(*traces, "--format=json", cwd=tmp_path))
    [direction] = report["directions"]
    assert (direction["prompts"], direction["samples"]) == (11, 22)
    names = {metric["name"] for metric in report["metrics"]}
    assert "top1_agreement" in names, "the others' alternatives still count"


def test_a_side_without_logprobs_is_drift_with_its_counts(stored: Stored, tmp_path: Path) -> None:
    traces = changed_samples(
        stored, tmp_path,
        lambda s: replace(s, logprobs=[None] * len(s.completion_token_ids)), slice(None),
    )  # fmt: skip
    done = compare(*traces, "-v", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "invalid logprobs: missing" in done.stdout
    assert "has a usable logprob on both sides" in done.stdout
    assert "found: bad_rows" in done.stdout


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("gates.k3_kl=0", "error: gates.k3_kl: must be > 0 (got 0)\n"),
        ("gates.ess=-1", "error: gates.ess: must be > 0 (got -1)\n"),
        ("gates.k4_kl=1", "hint: did you mean k3_kl?\n"),
        ("gates.profile=stict", "hint: did you mean strict?\n"),
        ("objective.kind=gpso", "hint: did you mean gspo?\n"),
        ("objective.epsilon_low=0", "error: objective.epsilon_low: must be > 0 (got 0)\n"),
        ("stats.confidence=2", "error: --set: stats.confidence: "),
    ],
)
def test_a_judgement_that_makes_no_sense(
    stored: Stored, tmp_path: Path, setting: str, expected: str
) -> None:
    done = compare(stored.a, stored.by_candidate, "--set", setting, cwd=tmp_path)
    assert_fails(done, 2, expected)


@pytest.mark.parametrize("place", ["file/report.json", "file/deeper/report.json"])
def test_a_place_that_cannot_be_written(stored: Stored, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a directory")
    done = compare(stored.a, stored.by_candidate, "--write", f"json={place}", cwd=tmp_path)
    assert_fails(done, 2, f"error: cannot write {place}: ")
    assert done.stdout == ""
    assert (tmp_path / "file").read_text() == "not a directory"


@pytest.mark.parametrize("count", [1, 3])
def test_compare_takes_two_traces(stored: Stored, tmp_path: Path, count: int) -> None:
    done = compare(*[stored.a] * count, cwd=tmp_path)
    assert done.returncode == 2
    assert "two traces take --profile, --objective and --set" in " ".join(done.stderr.split())


def test_stored_traces_take_the_flags_that_judge(stored: Stored, tmp_path: Path) -> None:
    pair = (stored.a, stored.by_candidate)
    done = compare(*pair, "--profile=exact", "--objective=gspo", "--format=json", cwd=tmp_path)
    report = report_of(done)
    assert [gate["metric"] for gate in report["gates"]] == ["identical_fraction"]
    assert report["objective"] == "gspo"
    done = compare(*pair, "--temperature=1", cwd=tmp_path)
    assert done.returncode == 2


def test_traces_of_zeros_are_not_parity(stored: Stored, tmp_path: Path) -> None:
    def zeros(samples: list[Sample]) -> list[Sample]:
        none: dict[str, Any] = {"top_token_ids": None, "top_logprobs": None}
        return [replace(s, logprobs=[0.0] * len(s.logprobs), **none) for s in samples]

    a = rewritten(stored.a, tmp_path / "A.parquet", zeros)
    b = rewritten(stored.by_candidate, tmp_path / "B.parquet", zeros)
    done = compare(a, b, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "every gate, sampled by the" in done.stdout
    assert "logprobs are 0 on both sides" in done.stdout


@pytest.mark.parametrize("alternatives", [True, False])
@pytest.mark.parametrize("profile", ["standard", "exact"])
def test_the_same_likeliest_tokens_on_both_sides_have_no_cause(
    stored: Stored, tmp_path: Path, profile: str, alternatives: bool
) -> None:
    """Greedy samples of two engines that agree to the last bit: the likeliest one is the token."""

    def greedy(samples: list[Sample]) -> list[Sample]:
        found = []
        for sample in samples:
            ids = sample.completion_token_ids
            logprobs = [-0.1 - token % 7 / 13 - place / 501 for place, token in enumerate(ids)]
            top: dict[str, Any] = {"top_token_ids": None, "top_logprobs": None}
            if alternatives:
                top["top_token_ids"] = [[token, token + 1] for token in ids]
                top["top_logprobs"] = [[each, each - 4.0] for each in logprobs]
            found.append(replace(sample, logprobs=logprobs, **top))
        return found

    a = rewritten(stored.a, tmp_path / "A.parquet", greedy)
    b = rewritten(stored.by_candidate, tmp_path / "B.parquet", greedy)
    done = compare(a, b, f"--profile={profile}", "--format=json", cwd=tmp_path)
    assert done.returncode == (0 if profile == "exact" else 4), done.stderr
    assert report_of(done)["diagnosis"] == []


@pytest.mark.parametrize("names", [["candidate"], ["candidate", "reference"]])
def test_a_run_whose_side_has_only_nulls_is_drift(tmp_path: Path, names: list[str]) -> None:
    run = write_run(tmp_path / "run", CANNED["drift"])
    (run / "run.json").unlink()  # as of a run that was recorded before manifests
    nothing: dict[str, Any] = {"top_token_ids": None, "top_logprobs": None}
    for name in names:
        path = run / f"{name}.parquet"
        rewritten(
            path,
            path,
            lambda all: [replace(s, logprobs=[None] * len(s.logprobs), **nothing) for s in all],
        )
    done = call_cli("report", run, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "missing" in done.stdout


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    assert_fails(call_cli("report", tmp_path, cwd=tmp_path), 2, "it has no config.toml")
    fake_config(tmp_path).rename(tmp_path / "config.toml")
    assert_fails(call_cli("report", tmp_path, cwd=tmp_path), 2, "no traces here")


def test_missing_alternatives_are_counted(tmp_path: Path) -> None:
    """A token with fewer alternatives than others is a defect, not a reason to look away."""

    def lose_one(samples: list[Sample]) -> list[Sample]:
        first = samples[0]
        assert first.top_token_ids is not None
        assert first.top_logprobs is not None
        shorter: dict[str, Any] = {
            "top_token_ids": [first.top_token_ids[0][:1], *first.top_token_ids[1:]],
            "top_logprobs": [first.top_logprobs[0][:1], *first.top_logprobs[1:]],
        }
        return [replace(first, **shorter), *samples[1:]]

    run = write_run(tmp_path / "run", Canned(samplers=("reference",), own_noise=None))
    broken = rewritten(run / "reference.parquet", tmp_path / "A.parquet", lose_one)
    replayed = run / "reference-replayed-by-candidate.parquet"
    report = report_of(compare(broken, replayed, "--format=json", cwd=tmp_path))
    [defect] = report["invalid_logprobs"]
    assert (defect["kind"], defect["engine"], defect["count"]) == ("top_missing", "behaviour", 1)


def test_samples_of_a_wrong_length_are_counted_apart(stored: Stored, tmp_path: Path) -> None:
    def lose_one(samples: list[Sample]) -> list[Sample]:
        return [replace(samples[0], logprobs=samples[0].logprobs[1:]), *samples[1:]]

    broken = rewritten(stored.by_candidate, tmp_path / "B.parquet", lose_one)
    done = compare(stored.a, broken, "--format=json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    report = report_of(done)
    [defect] = report["invalid_logprobs"]
    assert (defect["kind"], defect["engine"], defect["count"]) == ("wrong_length", "evaluating", 1)
    whole = report_of(compare(stored.a, stored.by_candidate, "--format=json", cwd=tmp_path))
    [direction], [expected] = report["directions"], whole["directions"]
    assert direction["samples"] == expected["samples"] - 1
    assert direction["tokens"] + direction["excluded"] == expected["tokens"]


def test_a_run_on_a_reference_trace_has_its_own_name(stored: Stored, tmp_path: Path) -> None:
    """Commands to confirm a cause go to this run, not to the one that the trace is of."""
    config = fake_config(tmp_path, candidate_settings={"logprobs_mode": "raw_logprobs"})
    compare("-c", config, "--reference-trace", stored.a, cwd=tmp_path)
    run = only_run(tmp_path)
    report = json.loads((run / "report.json").read_text())
    assert report["run"]["id"] == run.name
    assert Trace(stored.a).header.run_id != run.name
