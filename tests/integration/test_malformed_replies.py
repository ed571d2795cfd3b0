"""Answers of a worker that are not of the protocol: each an EngineError that says what and where.

They come from the real worker over the real pipe, with one line changed on its way out.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.support import assert_fails, assert_tidy, call_cli, fake_config, only_run
from parity_check.config.engines import Settings
from parity_check.engines.client import WorkerEngine, WorkerSpec
from parity_check.engines.vllm import CAN
from parity_check.errors import EngineError, ExitCode

MALFORMED = Path(__file__).parents[1] / "helpers" / "malformed"
DEEP = "[" * 5000 + "]" * 5000
HUGE = "9" * 5000
SAMPLING = {"temperature": 1.0}
REQUESTS = [{"sample_id": f"p/{n}", "prompt_token_ids": [65, 66 + n]} for n in range(3)]
FORCED = [{**request, "completion_token_ids": [67, 68]} for request in REQUESTS]

Job = Callable[[WorkerEngine], object]
OPERATIONS: dict[str, Job] = {
    "load": lambda engine: engine.load(),
    "tokenize": lambda engine: engine.tokenize(
        [{"prompt_id": f"p{n}", "text": "ab", "messages": None} for n in range(3)]
    ),
    "decode": lambda engine: engine.decode([65, 66]),
    "generate": lambda engine: engine.generate(
        REQUESTS, max_tokens=2, sampling=SAMPLING, ignore_eos=True, top_logprobs=2
    ),
    "replay": lambda engine: engine.score("replay", FORCED, sampling=SAMPLING, top_logprobs=2),
    "weights": lambda engine: engine.weights(),
    "weight_sync": lambda engine: engine.weight_sync(
        [{**request, "in_flight": True} for request in REQUESTS],
        checkpoints=["next"],
        update_after_tokens=1,
        max_tokens=3,
        sampling=SAMPLING,
        mode="keep",
        clear_cache=False,
        update=None,
        python_path=None,
    ),
}

REPLIES = {
    "nothing": "",
    "words": "loading the model…".encode().decode("latin-1"),
    "null": "null",
    "a number": "7",
    "a text": '"ok"',
    "a list": "[1, true, {}]",
    "an empty object": "{}",
    "half an object": '{"id": ID, "ok": tr',
    "two objects": '{"id": ID, "ok": true, "result": {}} {"id": ID}',
    "deep": f'{{"id": ID, "ok": true, "result": {{"a": {DEEP}}}}}',
    "deep alone": DEEP,
    "too many digits": f'{{"id": {HUGE}, "ok": true, "result": {{}}}}',
    "not UTF-8": '{"id": ID, "ok": true, "result": {"a": "\xff\xfe"}}',
    "a lone surrogate": '{"id": ID, "ok": true, "result": {"a": "\\ud800"}}',
    "NUL": '{"id": ID, "ok": true, "result": {}}\x00',
    "no id": '{"ok": true, "result": {}}',
    "another's id": '{"id": 99, "ok": true, "result": {}}',
    "an id in words": '{"id": "ID", "ok": true, "result": {}}',
    "half an id": '{"id": 1.5, "ok": true, "result": {}}',
    "neither right nor wrong": '{"id": ID, "result": {}}',
    "ok in words": '{"id": ID, "ok": "yes", "result": {}}',
    "no result": '{"id": ID, "ok": true}',
    "an empty result": '{"id": ID, "ok": true, "result": null}',
    "a result that is a list": '{"id": ID, "ok": true, "result": []}',
    "a failure without a kind": '{"id": ID, "ok": false, "message": "no"}',
    "a failure without a message": '{"id": ID, "ok": false, "kind": "internal"}',
    "a kind that is an object": '{"id": ID, "ok": false, "kind": {}, "message": "no"}',
    "a message that is a list": '{"id": ID, "ok": false, "kind": "internal", "message": ["no"]}',
    "progress that is a number": '{"id": ID, "progress": 3}',
    "progress without a count": '{"id": ID, "progress": {"total": 3}}',
    "progress backwards": '{"id": ID, "progress": {"done": -1, "total": 3}}',
    "progress in words": '{"id": ID, "progress": {"done": "some", "total": 3}}',
    "progress without end": f'{{"id": ID, "progress": {{"done": 1, "total": {10**40}}}}}',
}


def result(**found: Any) -> str:
    return json.dumps({"id": 0, "ok": True, "result": found}).replace('"id": 0', '"id": ID')


WEIGHTS = {"parameters": {"a": "1"}, "head": {"logits": [0.5], "dtype": "float32"}}
RESULTS = {
    ("decode", "no texts"): result(),
    ("decode", "null"): result(texts=None),
    ("decode", "one text"): result(texts="ab"),
    ("decode", "too few"): result(texts=["a"]),
    ("decode", "too many"): result(texts=["a", "b", "c"]),
    ("decode", "numbers"): result(texts=[1, 2]),
    ("weights", "nothing"): result(),
    ("weights", "a list of names"): result(parameters=["a"], head=None),
    ("weights", "digests that are numbers"): result(parameters={"a": 1}, head=None),
    ("weights", "no head"): result(parameters={"a": "1"}),
    ("weights", "a head of words"): result(
        parameters={"a": "1"}, head={"logits": ["x"], "dtype": "float32"}
    ),
    ("weights", "half a head"): result(parameters={"a": "1"}, head={"logits": [0.5]}),
    ("weight_sync", "nothing"): result(),
    ("weight_sync", "updates that are a number"): result(
        updates=1, preemptions=0, weights_before=WEIGHTS, weights_after=WEIGHTS
    ),
    ("weight_sync", "an empty update"): result(
        updates=[{}], preemptions=0, weights_before=WEIGHTS, weights_after=WEIGHTS
    ),
    ("weight_sync", "preemptions below nothing"): result(
        updates=[], preemptions=-1, weights_before=WEIGHTS, weights_after=WEIGHTS
    ),
    ("weight_sync", "no weights"): result(
        updates=[], preemptions=0, weights_before=None, weights_after=WEIGHTS
    ),
}

SCORED = {
    "sample_id": "p/1",
    "logprobs": [-1.0, -2.0],
    "top_token_ids": [[1, 2], [3, 4]],
    "top_logprobs": [[-0.5, -1.0], [-0.5, -1.0]],
}
SAMPLED = {**SCORED, "token_ids": [67, 68], "finish_reason": "length", "text": "CD"}
FLYING = {
    "sample_id": "p/1",
    "token_ids": [67, 68, 69],
    "logprobs": [-1.0, -1.0, -1.0],
    "switches": [1],
    "finish_reason": "length",
    "cached_tokens": 0,
}
TOKENIZED = {"prompt_id": "p1", "token_ids": [97, 98]}
GOOD = {"tokenize": TOKENIZED, "generate": SAMPLED, "replay": SCORED, "weight_sync": FLYING}
LINES: dict[str, list[str]] = {
    "nothing": [""],
    "words": ["a row"],
    "null": ["null"],
    "a list": ["[]"],
    "an empty object": ["{}"],
    "half a row": ['{"sample_id": "p/1", "logpr'],
    "deep": [f'{{"sample_id": "p/1", "logprobs": {DEEP}}}'],
    "too many digits": [f'{{"sample_id": "p/1", "prompt_id": "p1", "token_ids": [{HUGE}]}}'],
}
CHANGES: dict[str, list[tuple[str, Any]]] = {
    "tokenize": [
        ("prompt_id", "another"),
        ("prompt_id", 1),
        ("token_ids", None),
        ("token_ids", "97 98"),
        ("token_ids", ["97"]),
        ("token_ids", [97.5]),
        ("token_ids", [-1]),
        ("token_ids", [2**31]),
        ("token_ids", [True]),
    ],
    "generate": [
        ("sample_id", "another"),
        ("sample_id", None),
        ("token_ids", []),
        ("token_ids", [67]),
        ("token_ids", [67, 68, 69]),
        ("token_ids", ["67", "68"]),
        ("token_ids", [67, 2**63]),
        ("finish_reason", None),
        ("finish_reason", 3),
        ("text", 7),
        ("logprobs", None),
        ("logprobs", [-1.0]),
        ("logprobs", [-1.0, "-2.0"]),
        ("logprobs", [-1.0, [-2.0]]),
        ("logprobs", {"0": -1.0, "1": -2.0}),
        ("top_token_ids", None),
        ("top_token_ids", [[1, 2]]),
        ("top_token_ids", [[1, 2], [3]]),
        ("top_token_ids", [[1, 2], [3, 4, 5]]),
        ("top_token_ids", [1, 2]),
        ("top_token_ids", [[1, 2], [3, "4"]]),
        ("top_logprobs", [[-0.5, -1.0]]),
        ("top_logprobs", [[-0.5], [-0.5, -1.0]]),
        ("top_logprobs", "none"),
        ("entropy", [0.5]),
        ("entropy", "low"),
    ],
    "replay": [
        ("sample_id", "p/7"),
        ("logprobs", [-1.0, -2.0, -3.0]),
        ("logprobs", []),
        ("logprobs", "−1 −2"),
        ("top_token_ids", [[1, 2], [3, 4], [5, 6]]),
        ("top_token_ids", [[1, 2, 3], [3, 4, 5]]),
        ("top_logprobs", [[], []]),
        ("top_logprobs", [[None, True], [-1.0, -2.0]]),
    ],
    "weight_sync": [
        ("finish_reason", 0),
        ("switches", None),
        ("switches", [-1]),
        ("switches", ["1"]),
        ("logprobs", [-1.0]),
        ("token_ids", [67.0, 68.0]),
        ("cached_tokens", "none"),
    ],
}


def cases() -> Iterator[Any]:
    for op in ("load", "generate"):
        for name, line in REPLIES.items():
            yield pytest.param(op, {"reply": line}, id=f"{op}: {name}")
    for (op, name), line in RESULTS.items():
        yield pytest.param(op, {"reply": line}, id=f"{op}: {name}")
    for op, good in GOOD.items():
        row = json.dumps(good)
        for name, lines in {**LINES, "the same row twice": [row, row]}.items():
            yield pytest.param(op, {"rows": lines}, id=f"{op}, a row: {name}")
        for key, value in CHANGES[op]:
            line = json.dumps({**good, key: value})
            yield pytest.param(op, {"rows": [line]}, id=f"{op}, a row: {key} = {value!r:.30}")
        for key in good:
            line = json.dumps({k: v for k, v in good.items() if k != key})
            yield pytest.param(op, {"rows": [line]}, id=f"{op}, a row without {key}")


def spec(python: Path, **environ: str) -> WorkerSpec:
    return WorkerSpec(
        role="reference",
        label="fake engine",
        can=CAN,
        backend="fake",
        python=python,
        environ=environ,
        engine_args={"model": None},
        family=None,
        settings=Settings(),
        platform="cpu",
    )


def malformed(case: dict[str, Any]) -> WorkerSpec:
    variables = {"PYTHONPATH": str(MALFORMED), "MALFORMED": json.dumps(case)}
    return spec(Path(sys.executable), **variables)


@pytest.mark.parametrize(("op", "case"), list(cases()))
def test_a_malformed_answer(tmp_path: Path, op: str, case: dict[str, Any]) -> None:
    log = tmp_path / "reference.log"
    changed = malformed({"op": op, "at": 2, **case})
    with WorkerEngine(changed, tmp_path / "work", log, 20.0, lambda *_: None) as engine:
        if op != "load":
            engine.load()
        with pytest.raises(EngineError) as caught:
            OPERATIONS[op](engine)
    error = caught.value
    assert error.exit_code is ExitCode.ENGINE
    assert error.message.startswith(
        f"the reference engine (fake engine) returned an invalid reply to {op}: "
    )
    assert len(error.message) < 700
    assert error.log == log


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op != "weight_sync"])
def test_the_same_operations_without_a_fault(tmp_path: Path, op: str) -> None:
    """The table would prove nothing if the operations failed by themselves."""
    whole = malformed({"op": "none"})
    with WorkerEngine(whole, tmp_path / "work", tmp_path / "l", 20.0, lambda *_: None) as engine:
        engine.load()
        assert OPERATIONS[op](engine)


@pytest.mark.parametrize(
    ("op", "case", "expected"),
    [
        ("load", {"reply": "Traceback"}, "invalid reply to load: invalid JSON"),
        ("decode", {"reply": result(texts=[])}, "reply to decode: 0 texts for"),
        ("generate", {"rows": ["{}"]}, "row 2: `sample_id` is missing; expected, for each request"),
        (
            "generate",
            {"rows": [json.dumps(SAMPLED)]},
            "row 2 is about 'p/1', which was not requested",
        ),
    ],
)
def test_on_the_command_line(tmp_path: Path, op: str, case: dict[str, Any], expected: str) -> None:
    variables = {"PYTHONPATH": str(MALFORMED), "MALFORMED": json.dumps({"op": op, "at": 2, **case})}
    config = fake_config(tmp_path, reference_settings={})
    with config.open("a") as file:
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in variables.items())
        file.write("\n[reference.env]\n" + "".join(lines))
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert_fails(done, 3, expected, "the reference engine (fake engine) returned an", ".log")
    assert not list(only_run(tmp_path).glob("reference*.parquet"))
    assert_tidy(tmp_path)


def test_a_worker_that_closes_its_replies(tmp_path: Path) -> None:
    script = tmp_path / "python"
    program = "import os, sys, time; os.close(int(sys.argv[3])); time.sleep(60)"
    script.write_text(f"#!{sys.executable}\n{program}\n")
    script.chmod(0o755)
    silent = spec(script)
    with (
        WorkerEngine(silent, tmp_path / "work", tmp_path / "l", 20.0, lambda *_: None) as engine,
        pytest.raises(EngineError, match="stopped responding during load"),
    ):
        engine.load()


def test_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from parity_check.engines import replies

    monkeypatch.setattr(replies, "LONGEST_REPLY", 1 << 16)
    script = tmp_path / "python"
    script.write_text(
        f"#!{sys.executable}\nimport os, sys\nwhile 1: os.write(int(sys.argv[3]), b'x' * 999)\n"
    )
    script.chmod(0o755)
    endless = spec(script)
    with (
        WorkerEngine(endless, tmp_path / "work", tmp_path / "l", 20.0, lambda *_: None) as engine,
        pytest.raises(EngineError, match="a line of more than 65,536 bytes"),
    ):
        engine.load()


def test_the_table_is_long_enough() -> None:
    assert sum(1 for _ in cases()) >= 100
    assert "MALFORMED" not in os.environ
