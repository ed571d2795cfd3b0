"""A served endpoint as an engine: what works against a stub, and every way in which it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from helpers.stub_server import KEY, Fault, Stub, endpoint_config, serving
from helpers.support import (
    Finished,
    assert_fails,
    assert_tidy,
    call_cli,
    environment,
    finish,
    lines_of,
    only_run,
    start_cli,
    wait_for,
)
from parity_check.config.load import load_config
from parity_check.engines.endpoint import server
from parity_check.traces.trace import Trace

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_PAUSE_S", 0.01)


ENGINE = ("--engine", "candidate")
METRICS = """\
vllm:prefix_cache_hits_total{{engine="0",model_name="tiny"}} {hits}
vllm:cache_config_info{{block_size="128",cache_dtype="auto",enable_prefix_caching="{on}"}} 1.0
"""


SOMEWHERE = {"base_url": "http://host/v1", "model": "tiny"}


def compare(stub: Stub, directory: Path, *arguments: str, **tables: dict[str, Any]) -> Finished:
    config = endpoint_config(directory, stub.url, **tables)
    return call_cli("compare", "-c", config, "--no-progress", *arguments, cwd=directory)


def record(stub: Stub, directory: Path, **tables: dict[str, Any]) -> Finished:
    """Sample with the endpoint alone."""
    config = endpoint_config(directory, stub.url, **tables)
    return call_cli("record", "-c", config, *ENGINE, "-o", "t.parquet", cwd=directory)


def report_of(directory: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((only_run(directory) / "report.json").read_text())
    return tree


def settings_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = report_of(directory)["engines"]["candidate"]["settings"]
    return found


def mean_abs(report: dict[str, Any]) -> dict[str, float]:
    return {
        metric["sampled_by"]: metric["value"]
        for metric in report["metrics"]
        if metric["name"] == "mean_abs_log_ratio"
    }


# --- what works ---------------------------------------------------------------------------------


def test_an_endpoint_samples_and_the_other_engine_replays(tmp_path: Path) -> None:
    workload = {"num_prompts": 12, "temperature": 0.7, "repeats": 1}
    with serving() as stub:
        done = compare(stub, tmp_path, workload=workload)
    assert done.returncode in (0, 4), done.stderr
    report = report_of(tmp_path)
    assert mean_abs(report) == {"candidate": 0.0}
    assert sorted(file.name for file in only_run(tmp_path).glob("*.parquet")) == [
        "candidate-replayed-by-reference.parquet",
        "candidate.parquet",
        "reference-repeat-1.parquet",
    ]
    assert_tidy(tmp_path)


def test_at_temperature_1_it_evaluates_the_other_engine_too_and_says_how(tmp_path: Path) -> None:
    with serving() as stub:
        compare(stub, tmp_path, workload={"num_prompts": 12, "sampled_by": "both"})
    report = report_of(tmp_path)
    assert mean_abs(report) == {"reference": 0.0, "candidate": 0.0}
    ids = {warning["id"] for warning in report["warnings"]}
    assert {"endpoint.unknown", "endpoint.no-floor", "endpoint.prefill"} <= ids
    run = only_run(tmp_path)
    assert Trace(run / "reference-replayed-by-candidate.parquet").header.logprob_path == "prefill"
    assert Trace(run / "candidate.parquet").header.logprob_path == "decode"


def test_every_sampling_parameter_is_sent_as_ids_go_in_and_out(tmp_path: Path) -> None:
    with serving() as stub:
        compare(stub, tmp_path, workload={"temperature": 0.7, "top_k": 40})
        bodies = [body for path, body, _ in stub.seen if path == "/v1/completions" and body]
    sampled = [body for body in bodies if body["max_tokens"] == 4]
    assert len(sampled) == 4
    assert {tuple(sorted(body)) for body in sampled} == {
        (
            *("add_special_tokens", "frequency_penalty", "ignore_eos", "logprobs", "max_tokens"),
            *("min_p", "model", "n", "presence_penalty", "prompt", "repetition_penalty"),
            *("return_token_ids", "return_tokens_as_token_ids", "stop", "temperature", "top_k"),
            "top_p",
        )
    }
    assert {(body["temperature"], body["top_k"]) for body in sampled} == {(0.7, 40)}
    assert all(isinstance(token, int) for body in sampled for token in body["prompt"])


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, {"logprobs_mode": "processed_logprobs", "lm_head_dtype": "float32"}),
        ({"raw": True}, {"logprobs_mode": "raw_logprobs"}),
        ({"fp16_head": True}, {"lm_head_dtype": "model"}),
        ({"cached": 256}, {"enable_prefix_caching": True}),
        ({"cached": 0}, {"enable_prefix_caching": False}),
        ({"metrics": METRICS.format(hits=3, on="False")}, {"enable_prefix_caching": False}),
        ({"metrics": METRICS.format(hits=3, on="True")}, {"enable_prefix_caching": "unknown"}),
        ({}, {"enable_prefix_caching": "unknown", "async_scheduling": "unknown"}),
    ],
)
def test_what_answers_prove_and_what_stays_unknown(
    tmp_path: Path, facts: dict[str, Any], expected: dict[str, Any]
) -> None:
    with serving(**facts) as stub:
        done = call_cli(
            *("compare", "-c", endpoint_config(tmp_path, stub.url), "--no-progress"), cwd=tmp_path
        )
    assert done.returncode in (0, 1, 4), done.stderr
    found = settings_of(tmp_path)
    assert {name: found[name]["in_force"] for name in expected} == expected
    assert all(setting["requested"] == "default" for setting in found.values())


def test_a_server_that_says_little_of_itself(tmp_path: Path) -> None:
    with serving(version=None, tokenizes=False) as stub:
        done = compare(stub, tmp_path)
        assert_fails(done, 2, "the candidate endpoint has no /tokenize", "`prompt_token_ids`")


def test_a_transient_failure_is_tried_again(tmp_path: Path) -> None:
    statuses = iter([500, 429, "cut"])

    def fault(_: int, answer: dict[str, Any]) -> Any:
        return next(statuses, answer)

    with serving(fault=fault) as stub:
        done = compare(stub, tmp_path, endpoint={"retries": 3, "concurrency": 1})
    assert done.returncode in (0, 4), done.stderr
    log = (only_run(tmp_path) / "candidate.log").read_text()
    assert "answered 500 (this is a 500)" in log
    assert "answered 429 (this is a 429)" in log
    assert "closed the connection" in log


# --- what fails: exit 3, one line, the work kept ------------------------------------------------


def after(number: int, what: Any) -> Fault:
    return lambda seen, answer: answer if seen < number else what


def changed(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """Let the third answer be another one."""

    def fault(seen: int, answer: dict[str, Any]) -> dict[str, Any]:
        if seen >= 2:
            change(answer["choices"][0])
        return answer

    return fault


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (after(2, 500), "answered 500 (this is a 500) during generate, 2 times in a row"),
        (after(2, 400), "answered 400 during generate for "),
        (after(2, "cut"), "closed the connection ("),
        (
            after(2, "half"),
            "returned an invalid response during generate: 10 bytes that are not JSON",
        ),
        (after(2, "hang"), "did not respond within 1 s during generate"),
        (after(2, "endless"), "did not respond within 1 s during generate"),
        (after(2, "die"), "during generate, 2 times in a row"),
        (after(2, "deep"), "during generate: 200013 bytes that are not JSON (recursion limit"),
        (after(2, "digits"), "during generate: 5015 bytes that are not JSON (number out of range"),
        (after(2, "no gzip"), "returned an invalid response during generate, "),
        (after(2, "half a gzip"), "during generate: "),
        (after(2, "bomb"), "returned an invalid response during generate, "),
    ],
    ids=str,
)
def test_a_server_that_fails(
    tmp_path: Path, fault: Fault, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LONGEST_ANSWER", 1 << 20)
    with serving(fault=fault) as stub:
        done = record(stub, tmp_path, endpoint={"timeout_s": 1.0, "concurrency": 1})
    run = only_run(tmp_path)
    assert_fails(done, 3, message, "candidate-generate.partial.jsonl", f"{run.name}/candidate.log")
    assert lines_of("candidate-generate.partial.jsonl", run) == 2
    row = json.loads((run / "candidate-generate.partial.jsonl").read_text().splitlines()[0])
    assert len(row["token_ids"]) == len(row["logprobs"]) == 4
    assert_tidy(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda choice: choice["prompt_token_ids"].__setitem__(3, 7),
            "the server tokenized the prompt again: token 3 is 7, ",
        ),
        (
            lambda choice: choice.update(prompt_token_ids=[1, *choice["prompt_token_ids"]]),
            "the server tokenized the prompt again: token 0 is 1, ",
        ),
        (lambda choice: choice["token_ids"].pop(), "its 3 token ids differ from those"),
        (
            lambda choice: choice["logprobs"]["token_logprobs"].pop(),
            "3 logprobs for 4 tokens",
        ),
        (lambda choice: choice.update(logprobs=None), "it has no logprobs"),
        (lambda choice: choice.update(finish_reason=None), "it ends after 4 tokens with"),
        (
            lambda choice: (
                choice["token_ids"].pop(),
                [choice["logprobs"][name].pop() for name in choice["logprobs"]],
            ),
            "3 tokens instead of the requested 4",
        ),
        (
            lambda choice: choice["logprobs"].update(tokens=["a", "b", "c", "d"]),
            "the server does not support return_tokens_as_token_ids",
        ),
        (lambda choice: choice.pop("logprobs") and choice.update(logprobs={"token_logprobs": [1]}),
         "not a completion ("),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_what_was_asked_for(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    with serving(fault=changed(change)) as stub:
        done = record(stub, tmp_path, endpoint={"concurrency": 1})
    assert_fails(done, 3, "returned an invalid response during generate, sample ", message)
    assert lines_of("candidate-generate.partial.jsonl", only_run(tmp_path)) == 2


ODD = [
    b"",
    b"null",
    b"[" * 1000,
    b'{"data": 3, "version": 3, "tokens": 3, "prompt": 3}',
    b'{"data": [3], "version": [], "tokens": "a", "prompt": []}',
    b'{"data": [{"id": 3}], "version": null, "tokens": ["a"], "prompt": null}',
    b'{"data": [{"id": "tiny", "max_model_len": "long"}], "tokens": [-1], "prompt": {}}',
    b'{"data": [{"id": "tiny", "max_model_len": -1}], "tokens": [1.5]}',
]


@pytest.mark.parametrize("path", ["/v1/models", "/version", "/tokenize", "/detokenize"])
@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_odd_answers_of_the_other_paths(tmp_path: Path, path: str, content: bytes) -> None:
    """Each an error of the engine with a log, and never a number."""
    with serving(instead={path: content}) as stub:
        done = record(stub, tmp_path)
    assert_fails(done, 3, "the candidate engine (endpoint http://127.0.0.1:", "candidate.log")
    assert_tidy(tmp_path)


def test_a_missing_logprob_is_counted_and_not_averaged(tmp_path: Path) -> None:
    fault = changed(lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(1, None))
    with serving(fault=fault) as stub:
        done = compare(stub, tmp_path, endpoint={"concurrency": 1})
    assert done.returncode == 1, done.stderr
    [kind] = {(each["kind"], each["engine"]) for each in report_of(tmp_path)["invalid_logprobs"]}
    assert kind == ("missing", "behaviour")


def test_a_model_that_is_not_served(tmp_path: Path) -> None:
    with serving() as stub:
        done = record(stub, tmp_path, endpoint={"model": "other"})
    assert_fails(done, 3, "does not serve the model 'other'", "hint: it serves tiny: set candidate")


def test_an_answer_of_another_model(tmp_path: Path) -> None:
    with serving(fault=lambda _, answer: {**answer, "model": "draft"}) as stub:
        done = record(stub, tmp_path)
    assert_fails(done, 3, "it comes from the model 'draft', not 'tiny'")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with serving() as stub:
        url = stub.url
    done = call_cli(
        *("record", "-c", endpoint_config(tmp_path, url), *ENGINE, "-o", "t.parquet"), cwd=tmp_path
    )
    assert_fails(done, 3, f"(endpoint {url}) cannot be reached (", "during load, 2 times in a row")


@pytest.mark.parametrize(
    ("settings", "facts", "message"),
    [
        (
            {"logprobs_mode": "processed_logprobs"},
            {"raw": True},
            'logprobs_mode = "processed_logprobs" was requested, but "raw_logprobs" is in force',
        ),
        (
            {"lm_head_dtype": "float32"},
            {"fp16_head": True},
            'lm_head_dtype = "float32" was requested, but "model" is in force (32 of 32 top-k gaps',
        ),
        (
            {"enable_prefix_caching": False},
            {"cached": 256},
            "enable_prefix_caching = false was requested, but true is in force (the second of two",
        ),
    ],
)
def test_a_setting_that_is_shown_not_to_be_in_force(
    tmp_path: Path, settings: dict[str, Any], facts: dict[str, Any], message: str
) -> None:
    with serving(**facts) as stub:
        done = record(stub, tmp_path, settings=settings)
    assert_fails(done, 3, message)


def test_ctrl_c_ends_what_is_under_way(tmp_path: Path) -> None:
    with serving(fault=after(2, "hang")) as stub:
        config = endpoint_config(tmp_path, stub.url, endpoint={"concurrency": 1})
        process = start_cli("record", "-c", config, *ENGINE, "-o", "t.parquet", cwd=tmp_path)
        part = wait_for(lambda: list(tmp_path.glob("runs/*/.work/*/generate-*")), "the first rows")
        wait_for(lambda: part[0].read_bytes().count(b"\n") == 2, "two rows")
        process.send_signal(2)
        done = finish(process)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert "candidate-generate.partial.jsonl" in done.stderr
    assert_tidy(tmp_path)


# --- what is refused before anything starts -----------------------------------------------------


def test_what_a_server_cannot_evaluate_is_refused_at_once(tmp_path: Path) -> None:
    with serving() as stub:
        done = compare(stub, tmp_path, workload={"sampled_by": "both", "temperature": 0.7})
        assert stub.seen == []
    assert_fails(
        done,
        2,
        "the candidate is an endpoint, which scores given tokens by prompt logprobs; those do not "
        "include temperature",
        "workload.sampled_by",
    )


def test_two_raw_engines_are_compared_at_any_temperature(tmp_path: Path) -> None:
    raw = {"logprobs_mode": "raw_logprobs"}
    workload = {"sampled_by": "both", "temperature": 0.7, "num_prompts": 12}
    with serving(raw=True) as stub:
        config = endpoint_config(tmp_path, stub.url, workload=workload, settings=raw)
        done = call_cli(
            *("compare", "-c", config, "--set", "reference.settings.logprobs_mode=raw_logprobs"),
            cwd=tmp_path,
        )
    assert done.returncode in (0, 4), done.stderr
    assert mean_abs(report_of(tmp_path)) == {"reference": 0.0, "candidate": 0.0}


def test_an_endpoint_replays_by_prefill_alone(tmp_path: Path) -> None:
    with serving() as stub:
        config = endpoint_config(tmp_path, stub.url)
        call_cli("record", "-c", config, "--engine", "reference", "-o", "t.parquet", cwd=tmp_path)
        shared = ("replay", "-c", config, "--engine", "candidate", "--trace", "t.parquet")
        done = call_cli(*shared, "-o", "u.parquet", cwd=tmp_path)
        assert_fails(done, 2, "is an endpoint, which cannot decode given tokens", "--path prefill")
        done = call_cli(*shared, "-o", "u.parquet", "--path", "prefill", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Trace(tmp_path / "u.parquet").header.logprob_path == "prefill"


def test_an_imported_trace_states_only_some_sampling_parameters(tmp_path: Path) -> None:
    dump = Path(__file__).parents[2] / "docs" / "guides" / "dumps" / "trl.jsonl"
    sampling = ("--sampling", "temperature=0.8")
    call_cli("import", "trl", dump, *sampling, "-o", "t.parquet", cwd=tmp_path)
    config = endpoint_config(tmp_path, "http://127.0.0.1:9/v1")
    where = ("--trace", "t.parquet", "-o", "u.parquet", "--path", "prefill")
    done = call_cli("replay", "-c", config, *ENGINE, *where, cwd=tmp_path)
    assert_fails(done, 2, "those do not include temperature")


def test_ablate_needs_engines_that_can_be_restarted(tmp_path: Path) -> None:
    config = endpoint_config(tmp_path, "http://127.0.0.1:9/v1")
    done = call_cli("ablate", "-c", config, cwd=tmp_path)
    assert_fails(done, 2, "ablate restarts the candidate", "which an endpoint cannot do")


def test_weights_on_a_server_are_not_updated(tmp_path: Path) -> None:
    config = endpoint_config(tmp_path, "http://127.0.0.1:9/v1")
    done = call_cli("weight-sync", "-c", config, *ENGINE, cwd=tmp_path)
    assert_fails(done, 2, "the candidate is an endpoint, whose weights parity-check cannot update")


def test_a_dry_run_asks_nothing(tmp_path: Path) -> None:
    config = Path(__file__).parents[2] / "configs" / "endpoint.toml"
    done = call_cli("compare", "-c", config, "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "candidate: endpoint http://127.0.0.1:8000/v1, model tiny" in done.stderr
    assert tomllib.loads(done.stdout)["candidate"]["endpoint"]["model"] == "tiny"
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_of_an_earlier_run_is_read(tmp_path: Path) -> None:
    path = endpoint_config(tmp_path, "http://127.0.0.1:9/v1")
    before = load_config(path)
    empty = "\n[candidate.engine_args]\n\n[candidate.env]\n"  # as they were written once
    path.write_text(path.read_text() + empty)
    assert load_config(path) == before


def test_doctor_says_what_it_would_ask(tmp_path: Path) -> None:
    config = endpoint_config(
        tmp_path, "http://127.0.0.1:9/v1", endpoint={"api_key_env": "NO_SUCH_KEY"}
    )
    done = call_cli("doctor", "-c", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "endpoint http://127.0.0.1:9/v1, model tiny" in done.stdout
    assert "NO_SUCH_KEY, not set" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "endpoint"}, 'kind = "endpoint" requires the table `endpoint`, and vice versa'),
        (
            {"kind": "endpoint", "endpoint": SOMEWHERE, "env": {"A": "1"}},
            'kind = "endpoint" starts no engine and takes no `env`',
        ),
        (
            {"kind": "endpoint", "endpoint": {**SOMEWHERE, "api_key": KEY}},
            "unknown key `candidate.endpoint.api_key` (did you mean `api_key_env`?)",
        ),
        (
            {"kind": "endpoint", "endpoint": {"base_url": "h:8000", "model": "m"}},
            "candidate.endpoint.base_url: expected http://HOST[:PORT]/v1, or https",
        ),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = tmp_path / "parity.toml"
    tree = {"reference": {"kind": "fake"}, "candidate": change}
    config.write_text(tomli_w.dumps(tree))
    assert_fails(call_cli("compare", "-c", config, cwd=tmp_path), 2, message)


# --- the key, and TLS ---------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "VLLM_API_KEY"])
def test_the_key_is_sent_and_stands_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, KEY)
    keyed = {"api_key_env": variable}
    for name in "abc":
        (tmp_path / name).mkdir()
    with serving(key=KEY, fault=after(2, 400)) as stub:
        failed = compare(stub, tmp_path / "a", endpoint=keyed)
    with serving(key=KEY) as stub:
        worked = compare(stub, tmp_path / "b", endpoint=keyed)
        assert all(seen[2].get("Authorization") == f"Bearer {KEY}" for seen in stub.seen)
    with serving(key="another") as stub:  # quotes the key that it refuses
        refused = compare(stub, tmp_path / "c", endpoint=keyed)
    assert_fails(failed, 3, "answered 400")
    assert worked.returncode in (0, 4), worked.stderr
    assert_fails(refused, 3, "answered 401 (wrong key in Bearer ***)", "candidate.endpoint.api_key")
    for done in (failed, worked, refused):
        assert KEY not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"report.json", "candidate.log", "config.toml"}
    assert [path.name for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_key_that_is_not_set(tmp_path: Path) -> None:
    config = endpoint_config(
        tmp_path, "http://127.0.0.1:9/v1", endpoint={"api_key_env": "NO_SUCH_KEY"}
    )
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(done, 2, "candidate.endpoint.api_key_env names NO_SUCH_KEY, which is not set")


@pytest.mark.parametrize(
    ("key", "value"), [("api_key_env", KEY), ("base_url", f"https://user:{KEY}@host/v1")]
)
def test_a_key_in_the_wrong_place_is_not_repeated(tmp_path: Path, key: str, value: str) -> None:
    config = endpoint_config(tmp_path, "http://h/v1", endpoint={key: value})
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(done, 2, f"candidate.endpoint.{key}")
    assert KEY not in done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes the certificate")
def test_a_certificate_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", pem, "-out", tmp_path / "cert.pem", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    pem.write_text(pem.read_text() + (tmp_path / "cert.pem").read_text())
    with serving(certificate=pem) as stub:
        done = compare(stub, tmp_path)
        assert_fails(done, 3, "has a certificate that cannot be verified", "SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert environment()["SSL_CERT_FILE"]
        done = compare(stub, tmp_path)
    assert done.returncode in (0, 4), done.stderr
