"""`compare` of more than two engines, fakes behind the real protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tomli_w

from helpers.schemas import validator
from helpers.support import Finished, assert_fails, assert_tidy, call_cli, fake_config, only_run
from parity_check.comparison.judgement import judgement, measure_pair
from parity_check.config.load import load_config
from parity_check.traces.trace import Trace

WORKLOAD = {
    "num_prompts": 10, "samples_per_prompt": 1, "max_tokens": 12, "temperature": 0.7, "repeats": 1,
}  # fmt: skip
ENGINES = {
    "trainer": {"kind": "fake", "engine_args": {"noise": 0.02, "seed": 3}},
    "second": {"kind": "fake", "engine_args": {"noise": 0.3, "seed": 4}},
}


class Matrix(NamedTuple):
    home: Path
    path: Path
    done: Finished
    tree: dict[str, Any]

    def of(self, part: str, sampled_by: str) -> list[dict[str, Any]]:
        """What a part of the matrix says of one engine's rollouts."""
        return [each for each in self.tree["matrix"][part] if each["sampled_by"] == sampled_by]

    def metric(self, sampled_by: str, evaluating: str, behaviour: str, name: str) -> float:
        [value] = [
            metric["value"]
            for pair in self.of("scored", sampled_by)
            if (pair["evaluating"], pair["behaviour"]) == (evaluating, behaviour)
            for metric in pair["metrics"]
            if metric["name"] == name
        ]
        return float(value)


def many(directory: Path, **tables: Any) -> Path:
    return fake_config(
        directory,
        **{
            "reference": {"noise": 0.05},
            "candidate": {"noise": 0.05, "seed": 2},
            "workload": WORKLOAD,
            "engines": ENGINES,
            **tables,
        },
    )


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    home = tmp_path_factory.mktemp("matrix")
    done = call_cli("compare", "-c", many(home), cwd=home)
    path = only_run(home)
    return Matrix(home, path, done, json.loads((path / "report.json").read_text()))


def test_every_engine_scores_every_engines_rollouts(matrix: Matrix) -> None:
    names = {"reference", "candidate", "trainer", "second"}
    expected = {f"{name}.parquet" for name in ("reference", "candidate")}
    expected |= {f"{name}-repeat-1.parquet" for name in names}
    for sampler in ("reference", "candidate"):
        expected |= {f"{sampler}-replayed-by-{name}.parquet" for name in names - {sampler}}
    assert {file.name for file in matrix.path.glob("*.parquet")} == expected
    assert {file.name for file in matrix.path.glob("*.log")} == {f"{name}.log" for name in names}
    assert_tidy(matrix.home)


def test_json_keeps_to_the_schema(matrix: Matrix) -> None:
    validator("comparison").validate(matrix.tree)


def test_the_pairs_of_one_trace_add_up(matrix: Matrix) -> None:
    for sampler in ("reference", "candidate"):
        other = "candidate" if sampler == "reference" else "reference"
        whole, first, second = (
            matrix.metric(sampler, *pair, "mean_log_ratio")
            for pair in (("trainer", sampler), ("trainer", other), (other, sampler))
        )
        assert whole == pytest.approx(first + second, abs=1e-9)


def test_a_decomposition_is_of_the_pairs(matrix: Matrix) -> None:
    decompositions = matrix.of("decompositions", "candidate")
    assert [each["trainer"] for each in decompositions] == ["trainer", "second"]
    for found in decompositions:
        for leg in ("whole", "already"):
            assert found[leg]["mean"]["value"] == pytest.approx(
                matrix.metric(
                    "candidate", found[leg]["evaluating"], found[leg]["behaviour"],
                    "mean_log_ratio",
                )
            )  # fmt: skip
        shares = [found[leg]["share"]["value"] for leg in ("already", "added")]
        assert sum(shares) == pytest.approx(1.0)
    quiet, loud = (each["already"]["share"]["value"] for each in decompositions)
    assert quiet < 0.4 < 0.8 < loud, "a trainer that is noisy itself was far from both"


def test_the_other_way_round_only_the_sign_changes(matrix: Matrix) -> None:
    how = judgement(load_config(matrix.home / "parity.toml"))
    names = [f"reference-replayed-by-{name}.parquet" for name in ("trainer", "second")]
    one, other = (Trace(matrix.path / name) for name in names)
    left, right = measure_pair(one, other, "reference", how), measure_pair(other, one, "x", how)
    assert left["mean_log_ratio"].value == pytest.approx(-right["mean_log_ratio"].value)
    assert left["rms_log_ratio"].value == right["rms_log_ratio"].value
    assert left["k3_kl"].value == pytest.approx(right["reverse_k3_kl"].value)


def test_only_pairs_with_the_engine_that_sampled_are_judged(matrix: Matrix) -> None:
    judged = {(each["sampled_by"], each["evaluated_by"]) for each in matrix.tree["gates"]}
    for sampler in ("reference", "candidate"):
        scored = matrix.of("scored", sampler)
        assert len(scored) == 6
        for pair in scored:
            samples = pair["behaviour"] == sampler
            assert (pair["verdict"] is not None) == samples
            assert ((sampler, pair["evaluating"]) in judged) or not samples
    assert len(judged) == 6
    assert matrix.done.returncode == 1
    assert matrix.done.stdout.splitlines()[-1].startswith("✗ DRIFT")


def test_two_of_them_are_what_compare_of_two_engines_says(matrix: Matrix, tmp_path: Path) -> None:
    config = fake_config(
        tmp_path,
        reference={"noise": 0.05},
        candidate={"noise": 0.05, "seed": 2},
        workload=WORKLOAD,
    )
    call_cli("compare", "-c", config, cwd=tmp_path)
    tree = json.loads((only_run(tmp_path) / "report.json").read_text())
    for metric in tree["metrics"]:
        sampler = metric["sampled_by"]
        other = "candidate" if sampler == "reference" else "reference"
        assert matrix.metric(sampler, other, sampler, metric["name"]) == metric["value"]
    assert "engines" not in tree["run"]["config"]


def test_both_losses_are_told_where_the_configuration_does_not_say(matrix: Matrix) -> None:
    steps = matrix.of("first_steps", "reference")
    assert [(s["trainer"], s["logprobs"], s["configured"]) for s in steps] == [
        ("trainer", "bypass", False),
        ("trainer", "recompute", False),
        ("second", "bypass", False),
        ("second", "recompute", False),
    ]
    bypass, recompute = steps[:2]
    ratio = matrix.metric("reference", "trainer", "reference", "mean_importance_ratio")
    assert bypass["ratio"]["value"] == ratio
    assert (bypass["clip"]["objective"]["name"], bypass["truncation"]) == ("grpo", None)
    assert recompute["ratio"]["value"] == 1.0, "a fake engine repeats itself"
    assert recompute["truncation"]["objective"]["name"] == "tis-token"


@pytest.mark.parametrize("logprobs", ["recompute", "bypass"])
def test_the_configured_loss_alone_is_told(matrix: Matrix, logprobs: str) -> None:
    done = call_cli(
        "report", matrix.path, "--set", f"objective.logprobs={logprobs}", "--format", "json",
        cwd=matrix.home,
    )  # fmt: skip
    tree = json.loads(done.stdout)
    told = tree["matrix"]["first_steps"]
    assert {(step["logprobs"], step["configured"]) for step in told} == {(logprobs, True)}
    checks = {each["name"]: each["status"] for each in tree["matrix"]["practices"]["checks"]}
    status = "pass" if logprobs == "recompute" else "fail"
    assert checks["old-logprobs-recomputed"] == checks["mismatch-apart-from-ratio"] == status


def test_a_weights_objective_is_the_truncation(matrix: Matrix) -> None:
    done = call_cli(
        "report", matrix.path, "--set", "objective.kind=icepop", "--format", "json",
        cwd=matrix.home,
    )  # fmt: skip
    bypass, recompute = json.loads(done.stdout)["matrix"]["first_steps"][:2]
    assert bypass["clip"]["objective"]["name"] == "grpo"
    assert recompute["truncation"]["objective"]["name"] == "icepop"


def test_a_run_is_rendered_again(matrix: Matrix) -> None:
    again = call_cli("report", matrix.path, cwd=matrix.home)
    assert again.stdout == matrix.done.stdout
    assert again.returncode == matrix.done.returncode
    markdown = call_cli("report", matrix.path, "--format", "markdown", cwd=matrix.home).stdout
    assert "| trainer − candidate |" in markdown
    assert "behaviour-logprobs-kept, pass" in markdown
    verdict = call_cli("report", matrix.path, "-q", cwd=matrix.home).stdout
    assert verdict == matrix.done.stdout.splitlines()[-1] + "\n"


def test_one_sampler_and_no_repeats(tmp_path: Path) -> None:
    config = many(tmp_path, workload={**WORKLOAD, "sampled_by": "candidate", "repeats": 0})
    done = call_cli("compare", "-c", config, "--exit-zero", cwd=tmp_path)
    assert done.returncode == 0
    assert "sampled by the reference" not in done.stdout
    assert "if the trainer repeats itself (not measured" in " ".join(done.stdout.split())
    assert not list(only_run(tmp_path).glob("*repeat*"))


def test_a_third_engine_records_and_replays_by_its_name(tmp_path: Path) -> None:
    config = many(tmp_path)
    recorded = call_cli(
        "record", "-c", config, "--engine", "trainer", "-o", "t.parquet", cwd=tmp_path
    )
    assert recorded.returncode == 0, recorded.stderr
    assert Trace(tmp_path / "t.parquet").header.sampled_by == "trainer"
    unknown = call_cli("record", "-c", config, "--engine", "both", "-o", "t", cwd=tmp_path)
    assert_fails(
        unknown,
        2,
        "error: unknown engine `both`\n",
        "expected one of: reference, candidate, trainer, second\n",
    )


@pytest.mark.parametrize(
    ("logprobs", "told"),
    [("recompute", "the ratio of the loss starts at 1"), ("bypass", "are those of its first step")],
)
def test_two_engines_say_whose_loss_the_numbers_are(
    tmp_path: Path, logprobs: str, told: str
) -> None:
    config = fake_config(tmp_path, objective={"logprobs": logprobs})
    out = " ".join(call_cli("compare", "-c", config, "-v", cwd=tmp_path).stdout.split())
    assert f'objective.logprobs = "{logprobs}": ' in out
    assert told in out


# --- what can be wrong ----------------------------------------------------------------------------


def test_ablate_is_for_two_engines(tmp_path: Path) -> None:
    done = call_cli("ablate", "-c", many(tmp_path), "--dry-run", cwd=tmp_path)
    assert_fails(done, 2, "error: ablate works with reference and candidate only")


def test_an_engine_that_fails_is_named(tmp_path: Path) -> None:
    fault = {"op": "replay", "after": 3, "how": "crash"}
    trainer = {"kind": "fake", "engine_args": {"fault": fault}}
    done = call_cli("compare", "-c", many(tmp_path, engines={"trainer": trainer}), cwd=tmp_path)
    assert_fails(
        done, 3, "error: the trainer engine (fake engine) was killed by SIGKILL", "kept in"
    )


def test_a_third_tokenizer_that_differs(tmp_path: Path) -> None:
    trainer = {"kind": "fake", "engine_args": {"tokenizer": "upper"}}
    done = call_cli("compare", "-c", many(tmp_path, engines={"trainer": trainer}), cwd=tmp_path)
    assert_fails(done, 2, "the engines' tokenizers differ", "in the reference", "in the trainer")


def test_a_trainer_without_torch(tmp_path: Path) -> None:
    tree = {
        "reference": {"kind": "fake"},
        "candidate": {"kind": "transformers", "python": "current"},
        "workload": WORKLOAD,
    }
    (tmp_path / "parity.toml").write_text(tomli_w.dumps(tree))
    done = call_cli("compare", "-c", "parity.toml", cwd=tmp_path)
    assert_fails(
        done, 3, "cannot import torch and transformers", "hint: use an interpreter with torch"
    )


TRAINER = {"kind": "transformers", "python": "current"}


@pytest.mark.parametrize(
    ("engines", "message"),
    [
        (
            {"t": {**TRAINER, "settings": {}}},
            'engines.t: kind = "transformers" takes no `settings`, which is vLLM\'s; its own keys '
            "are in the table `transformers`",
        ),
        ({"t": {**TRAINER, "engine_args": {}}}, "takes no `engine_args`"),
        ({"t": {**TRAINER, "family": "v1"}}, "takes no `family`"),
        (
            {"t": {"kind": "fake", "transformers": {}}},
            'engines.t: the table `transformers` requires kind = "transformers", not "fake"',
        ),
        ({"t": {"kind": "transformers"}}, "set exactly one of `python` and `requirement`"),
        (
            {"t": {**TRAINER, "transformers": {"latout": "packed"}}},
            "unknown key `engines.t.transformers.latout` (did you mean `layout`?)",
        ),
        (
            {"t": {**TRAINER, "pyhton": "x"}},
            "unknown key `engines.t.pyhton` (did you mean `python`",
        ),
        ({"t": {**TRAINER, "transformers": {"device": "tpu"}}}, "engines.t.transformers.device: "),
        (
            {"reference": {"kind": "fake"}},
            "engines: `reference` is not allowed here; use [reference]",
        ),
        (
            {"A/b": {"kind": "fake"}},
            "engines: `A/b`: use lower-case letters, digits, - and _",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense(
    tmp_path: Path, engines: dict[str, Any], message: str
) -> None:
    done = call_cli("compare", "-c", many(tmp_path, engines=engines), cwd=tmp_path)
    assert_fails(done, 2, message)


def test_a_stored_trainer_configuration_can_be_read_again(tmp_path: Path) -> None:
    loaded = load_config(many(tmp_path, engines={"t": TRAINER}))
    dumped = call_cli("compare", "-c", "parity.toml", "--dry-run", cwd=tmp_path)
    (tmp_path / "again.toml").write_text(dumped.stdout)
    again = load_config(tmp_path / "again.toml")
    assert again.engine("t") == loaded.engine("t")
