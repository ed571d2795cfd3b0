"""Prompts from anywhere: read whole, or refused by their line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.support import call_cli, fake_config
from hostile.support import DEEP, HUGE, ask, refusal
from parity_check.traces.prompts import Prompt, read_prompts

pytestmark = pytest.mark.timeout(60, func_only=True)

LINES = {
    "an integer of 5,000 digits": f'{{"prompt_token_ids": [{HUGE}]}}',
    "an id of 5,000 digits": f'{{"prompt": "a", "prompt_id": {HUGE}}}',
    "an integer beyond 64 bits": '{"prompt_token_ids": [99999999999999999999]}',
    "an id beyond 31 bits": '{"prompt_token_ids": [2147483648]}',
    "lists nested deeply": '{"prompt": ' + "[" * DEEP + "]" * DEEP + "}",
    "objects nested deeply": '{"messages": [' + '{"a":' * DEEP + "1" + "}" * DEEP + "]}",
    "messages nested a little too deeply": '{"messages": [' + '{"a":' * 80 + "1" + "}" * 80 + "]}",
    "brackets that never close": "[" * DEEP,
    "a lone surrogate in the prompt": '{"prompt": "\\ud800"}',
    "a lone surrogate in an id": '{"prompt": "a", "prompt_id": "\\ud800"}',
    "a lone surrogate in a group": '{"prompt": "a", "prompt_group": "\\udfff"}',
    "a lone surrogate in a message": '{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "a lone surrogate in a message's key": '{"messages": [{"\\ud800": "user"}]}',
    "an id that is a list": '{"prompt": "a", "prompt_id": [1]}',
    "an id that is an object": '{"prompt": "a", "prompt_id": {"a": 1}}',
    "an id that is a boolean": '{"prompt": "a", "prompt_id": true}',
    "an id that is not finite": '{"prompt": "a", "prompt_id": NaN}',
    "an id that is empty": '{"prompt": "a", "prompt_id": ""}',
    "a group that is a list": '{"prompt": "a", "prompt_group": ["math"]}',
    "an id that is too long": json.dumps({"prompt": "a", "prompt_id": "x" * 5000}),
    "a key twice": '{"prompt": "a", "prompt": "b"}',
    "ids that are floats": '{"prompt_token_ids": [1.0, 2.0]}',
    "ids that are booleans": '{"prompt_token_ids": [true]}',
    "ids that are a string": '{"prompt_token_ids": "12"}',
    "ids that are an object": '{"prompt_token_ids": {"a": 1}}',
    "ids that are null": '{"prompt_token_ids": [null]}',
    "messages that are a string": '{"messages": "hi"}',
    "messages of strings": '{"messages": ["hi"]}',
    "a message with a number that JSON has not": '{"messages": [{"role": "a", "x": Infinity}]}',
    "a prompt that is an object": '{"prompt": {"a": 1}}',
    "a prompt that is true": '{"prompt": true}',
    "a prompt that is a number": '{"prompt": 1.5}',
    "an array": "[1]",
    "a string": '"a"',
    "null": "null",
    "a number": "1",
    "not a number": "NaN",
    "a control character": '{"prompt": "a\x01"}',
    "a NUL byte": "\x00",
    "half an escape": '{"prompt": "\\u12"}',
    "trailing text": '{"prompt": "a"} {"prompt": "b"}',
}


@pytest.mark.parametrize("case", LINES)
def test_a_line_that_is_no_prompt(tmp_path: Path, case: str) -> None:
    fake_config(tmp_path, workload={"prompts": "p.jsonl"})
    (tmp_path / "p.jsonl").write_text('{"prompt": "fine"}\n' + LINES[case] + "\n")
    done = ask("compare", "-c", "parity.toml", cwd=tmp_path)
    assert "p.jsonl, line 2: " in done.stderr


FILES = {
    "not UTF-8": b'{"prompt": "\xff"}\n',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "compressed": b"\x1f\x8b\x08\x00" + bytes(50),
    "zeros": bytes(10_000),
    "surrogates as bytes": b'{"prompt": "\xed\xa0\x80"}',
    "Parquet": b"PAR1" + bytes(40) + b"PAR1",
    "empty": b"",
    "blank": b"\n\n\r\n",
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "json", "txt"])
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_holds_no_prompts(tmp_path: Path, case: str, suffix: str) -> None:
    name = f"p.{suffix}"
    fake_config(tmp_path, workload={"prompts": name})
    (tmp_path / name).write_bytes(FILES[case])
    assert name in ask("compare", "-c", "parity.toml", cwd=tmp_path).stderr


def not_utf8() -> pa.Table:
    raw = pa.array([b"\xff"], pa.binary())
    return pa.table({"prompt": pa.Array.from_buffers(pa.string(), 1, raw.buffers())})


TABLES: dict[str, Any] = {
    "integers": {"prompt": [1]},
    "timestamps": {"prompt": pa.array([0], pa.timestamp("s"))},
    "impossible timestamps": {"prompt": pa.array([2**62], pa.timestamp("us"))},
    "bytes": {"prompt": [b"\xff"]},
    "strings that are not UTF-8": not_utf8,
    "lists of floats": {"prompt_token_ids": [[1.5]]},
    "unsigned ids": {"prompt_token_ids": pa.array([[2**63]], pa.list_(pa.uint64()))},
    "a list of nulls": {"prompt_token_ids": pa.array([[None]], pa.list_(pa.int32()))},
    "a map": {"messages": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32()))},
    "decimals as ids": {"prompt": ["a"], "prompt_id": pa.array([1]).cast(pa.decimal128(30, 2))},
    "a group of timestamps": {"prompt": ["a"], "prompt_group": pa.array([0], pa.timestamp("s"))},
    "two columns of one name": lambda: pa.Table.from_arrays(
        [pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"]
    ),
    "no columns": lambda: pa.table({}),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_holds_no_prompts(tmp_path: Path, case: str) -> None:
    fake_config(tmp_path, workload={"prompts": "p.parquet"})
    tree = TABLES[case]
    pq.write_table(tree() if callable(tree) else pa.table(tree), tmp_path / "p.parquet")
    assert "p.parquet" in ask("compare", "-c", "parity.toml", cwd=tmp_path).stderr


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "loop", "huge"])
def test_prompts_that_are_no_file(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 42)
    config = fake_config(tmp_path, workload={"prompts": path.name})
    done = call_cli("compare", "-c", config, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    reason = "a folder, but not one that" if kind == "directory" else "cannot read the prompts "
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "name",
    ["", ".", "a" * 300, "b/" * 2500, "nul\0byte", "~nobody/p.jsonl", "~/p.jsonl", "\ud800"],
    ids=lambda value: ascii(value)[:30],
)
def test_prompts_of_an_impossible_name(tmp_path: Path, name: str) -> None:
    fake_config(tmp_path)
    ask("compare", "-c", "parity.toml", "--set", f"workload.prompts={name}", cwd=tmp_path)


@pytest.mark.parametrize(
    "workload",
    [
        {"samples_per_prompt": 10**9},
        {"samples_per_prompt": 10**9, "num_prompts": 1, "max_tokens": 1},
        {"max_tokens": 10**9},
        {"repeats": 10**9},
        {"samples_per_prompt": 10**18, "max_tokens": 10**18},
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["compare", "record", "weight-sync"])
def test_more_tokens_than_anybody_waits_for(
    tmp_path: Path, command: str, workload: dict[str, int]
) -> None:
    fake_config(tmp_path, workload=workload)
    more = ["--engine", "reference", "-o", "t.parquet"] if command == "record" else []
    done = ask(command, "-c", "parity.toml", *more, cwd=tmp_path)
    assert "starting" not in done.stderr
    if command != "weight-sync":
        assert "tokens" in done.stderr or "repeats" in done.stderr


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "a", "\ud800"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
ROWS = st.dictionaries(
    st.sampled_from(["prompt", "prompt_token_ids", "messages", "prompt_id", "prompt_group"]),
    JSON | st.lists(st.integers(0, 300), max_size=3),
    max_size=4,
)


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)
@given(rows=st.lists(ROWS | JSON, max_size=3))
def test_whatever_is_a_prompt_can_be_written_and_encoded(tmp_path: Path, rows: list[Any]) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    message = refusal(lambda: read_prompts(str(path)))
    if message is not None:
        assert "p.jsonl" in message
        return
    for prompt in read_prompts(str(path)):
        assert isinstance(prompt, Prompt)
        f"{prompt.prompt_id}{prompt.group}{prompt.text}".encode()
        json.dumps(prompt.messages, ensure_ascii=False, allow_nan=False).encode()
        assert all(0 <= token < 2**31 for token in prompt.token_ids or [])
