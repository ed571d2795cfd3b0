"""Dumps of training runs that are damaged, or made to do harm."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import dumps
from helpers.support import call_cli
from hostile.support import DEEP, HUGE, ask, refusal
from parity_check.importers.formats import IMPORTERS
from parity_check.importers.turns import collect

pytestmark = pytest.mark.timeout(60, func_only=True)

GOOD: dict[str, dict[str, Any]] = {
    "prime-rl": dumps.prime_rl([1, 2], [3, 4], [-0.5, -0.25], [-0.5, -0.25]),
    "trl": {"prompt_ids": [1, 2], "completion_ids": [3, 4], "logprobs": [-0.5, -0.25]},
    "openai": {
        "model": "m",
        "choices": [
            {
                "index": 0,
                "text": "ab",
                "finish_reason": "stop",
                "prompt_token_ids": [1, 2],
                "token_ids": [3, 4],
                "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-0.5, -0.25]},
            }
        ],
    },
}
LINE_FORMATS = list(GOOD)
LINES = {
    "an integer of 5,000 digits": f'{{"completion_ids": [{HUGE}]}}',
    "nested deeply": "[" * DEEP,
    "objects nested deeply": '{"a":' * DEEP,
    "nested deeply and closed": '{"a": ' + "[" * DEEP + "]" * DEEP + "}",
    "an array": "[]",
    "null": "null",
    "a string": '"x"',
    "half": '{"completion_ids": [1, 2',
    "NUL": "\0",
    "a key twice": '{"logprobs": [1], "logprobs": [2]}',
}


@pytest.mark.parametrize("format", LINE_FORMATS)
@pytest.mark.parametrize("case", LINES)
def test_a_line_that_is_no_row(tmp_path: Path, format: str, case: str) -> None:
    dumps.write_lines(tmp_path / "d.jsonl", [GOOD[format], LINES[case]])
    done = ask("import", format, "d.jsonl", "-o", "t.parquet", cwd=tmp_path)
    assert "d.jsonl, line 2: " in done.stderr


def everywhere(tree: Any, value: Any) -> list[Any]:
    """The tree, with the value in the place of each of its parts in turn."""
    found = [value]
    if isinstance(tree, dict):
        for key, inner in tree.items():
            found += [{**tree, key: each} for each in everywhere(inner, value)]
    if isinstance(tree, list) and tree:
        found += [[each, *tree[1:]] for each in everywhere(tree[0], value)]
    return found


WRONG: dict[str, Any] = {
    "null": None,
    "a surrogate": "\ud800",
    "an integer beyond 64 bits": 2**80,
    "an integer beyond floats": 10**400,
    "a nested list": [[[1]]],
    "an object": {"a": {"b": 1}},
    "a string": "x",
    "infinity": float("inf"),
    "an escape": "\x1b[2J\n::error::x",
}


@pytest.mark.parametrize("format", LINE_FORMATS)
@pytest.mark.parametrize("case", WRONG)
def test_each_part_of_a_row_as_something_else(tmp_path: Path, format: str, case: str) -> None:
    for number, row in enumerate(everywhere(GOOD[format], WRONG[case])[1:]):
        directory = tmp_path / str(number)
        directory.mkdir()
        dumps.write_lines(directory / "d.jsonl", [row])
        ask("import", format, "d.jsonl", "-o", "t.parquet", cwd=directory, codes=(0, 2))


BYTES = {
    "empty": b"",
    "not UTF-8": b'{"completion_ids": "\xff"}\n',
    "zeros": bytes(5000),
    "compressed": b"\x1f\x8b\x08\x00" + bytes(40),
    "half a zip": b"PK\x03\x04" + bytes(30),
    "a pickle": pickle.dumps({"a": 1}),
    "half a pickle": pickle.dumps(list(range(1000)))[:50],
    "a deep pickle": b"\x80\x04" + b"(" * 100_000 + b"l" * 100_000 + b".",
    "deep lists": b"]" * 50_000 + b"a" * 49_999 + b".",
    "a pickle that is all memo": b"\x80\x04" + b"N" + b"\x94" * 50_000 + b".",
    "a long of 4 GiB": b"\x80\x04\x8b\xff\xff\xff\x7f" + bytes(10) + b".",
    "a frame of 2**63": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f" + b"N.",
    "a string of 2**60": b"\x80\x04\x8d" + bytes(7) + b"\x10" + b"a.",
    "an unknown opcode": b"\xfe.",
    "a persistent id": b"\x80\x02K\x01Q.",
}


@pytest.mark.parametrize("format", IMPORTERS)
@pytest.mark.parametrize("case", BYTES)
def test_a_file_of_other_bytes(tmp_path: Path, format: str, case: str) -> None:
    suffix = {"slime": "pt", "verl": "dp"}.get(format, "jsonl")
    (tmp_path / f"d.{suffix}").write_bytes(BYTES[case])
    done = ask("import", format, f"d.{suffix}", "-o", "t.parquet", cwd=tmp_path)
    assert f"d.{suffix}" in done.stderr


def repacked(path: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes], **how: Any) -> None:
    """The same archive, written member by member."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, raw in members:
            archive.writestr(info.filename, change(info, raw), **how)


def encrypted(path: Path) -> None:
    """All members say that they are encrypted, in both places where a zip archive says so."""
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = raw.find(signature)
        while place >= 0:
            raw[place + offset] |= 1
            place = raw.find(signature, place + 4)
    path.write_bytes(raw)


def bomb(info: zipfile.ZipInfo, raw: bytes) -> bytes:
    return bytes(1 << 28) if info.filename.endswith("/data/0") else raw


ARCHIVES: dict[str, Callable[[Path], None]] = {
    "encrypted members": encrypted,
    "deflated members": lambda path: repacked(
        path, lambda _, raw: raw, compress_type=zipfile.ZIP_DEFLATED
    ),
    "a deflated bomb": lambda path: repacked(path, bomb, compress_type=zipfile.ZIP_DEFLATED),
    "LZMA members": lambda path: repacked(path, lambda _, raw: raw, compress_type=zipfile.ZIP_LZMA),
    "cut storages": lambda path: repacked(path, lambda info, raw: raw[: len(raw) // 2]),
    "a text as byte order": lambda path: repacked(
        path, lambda info, raw: b"\xff" if info.filename.endswith("byteorder") else raw
    ),
    "two pickles": lambda path: zipfile.ZipFile(path, "a").writestr("b/data.pkl", b"N."),
}  # fmt: skip


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_torch_does_not_write(tmp_path: Path, case: str) -> None:
    path = dumps.slime_dump(tmp_path / "d.pt", [dumps.slime_train([1, 2], [3, 4])])
    ARCHIVES[case](path)
    ask("import", "slime", "d.pt", "-o", "t.parquet", cwd=tmp_path)


@pytest.mark.parametrize("case", [*WRONG, "an integer of 5,000 digits", "bytes", "an array"])
@pytest.mark.parametrize("trained", [True, False])
def test_each_part_of_a_sample_as_something_else(tmp_path: Path, case: str, trained: bool) -> None:
    other = {"an integer of 5,000 digits": int("9" * 4000) ** 2, "bytes": b"\xff"}
    value = {**WRONG, **other, "an array": np.zeros((2, 2, 2), np.float32)}[case]
    make = dumps.slime_train if trained else dumps.slime_rollout
    good = make([1, 2], [3, 4])
    for key in good:
        directory = tmp_path / key
        directory.mkdir()
        dumps.slime_dump(directory / "d.pt", [{**good, key: value}], trained=trained)
        ask("import", "slime", "d.pt", "-o", "t.parquet", cwd=directory, codes=(0, 2))


@pytest.mark.parametrize("case", ["float ids", "negative ids", "huge ids", "3-d", "int8", "empty"])
def test_a_batch_of_another_shape(tmp_path: Path, case: str) -> None:
    tensors: dict[str, Any] = {
        "prompts": np.array([[1, 2]]),
        "responses": np.array([[3, 4]]),
        "attention_mask": np.ones((1, 4), np.int64),
        "response_mask": np.ones((1, 2), np.int64),
        "rollout_log_probs": np.full((1, 2), -0.5, np.float32),
    }
    tensors["responses"] = {
        "float ids": np.array([[3.5, 4]], np.float32),
        "negative ids": np.array([[-3, 4]]),
        "huge ids": np.array([[2**40, 4]]),
        "3-d": np.zeros((1, 2, 2), np.int64),
        "int8": np.array(3),
        "empty": np.zeros((0, 0), np.int64),
    }[case]
    dumps.verl_dump(tmp_path / "d.dp", tensors, {})
    ask("import", "verl", "d.dp", "-o", "t.parquet", cwd=tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "loop", "dangling"])
@pytest.mark.parametrize("format", IMPORTERS)
def test_a_dump_that_is_no_file(tmp_path: Path, format: str, kind: str) -> None:
    name = {"slime": "d.pt", "verl": "d.dp"}.get(format, "d.jsonl")
    path = tmp_path / name
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "loop": name, "dangling": "nowhere"}[kind])
    assert name in ask("import", format, name, "-o", "t.parquet", cwd=tmp_path).stderr


@pytest.mark.parametrize("name", ["", "a" * 300, "nul\0byte", "\udcff", "b/" * 2500], ids=ascii)
def test_a_dump_of_an_impossible_name(tmp_path: Path, name: str) -> None:
    ask("import", "trl", name, "-o", "t.parquet", cwd=tmp_path)
    dumps.write_lines(tmp_path / "d.jsonl", [GOOD["trl"]])
    ask("import", "trl", "d.jsonl", "-o", name, cwd=tmp_path)
    ask("import", "trl", "d.jsonl", "-o", "t.parquet", "--model", name or "/", cwd=tmp_path)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=4)
)  # fmt: skip
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["logprobs", "token_ids", "a"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@st.composite
def rows(draw: st.DrawFn, format: str) -> Any:
    """A row of a format in which some fields are anything."""
    row = dict(GOOD[format])
    for key in draw(st.lists(st.sampled_from(sorted(row)), max_size=3)):
        row[key] = draw(ANY)
    return row


@pytest.mark.parametrize("format", LINE_FORMATS)
@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)
@given(data=st.data())
def test_any_row_is_imported_or_refused(tmp_path: Path, format: str, data: st.DataObject) -> None:
    path = dumps.write_lines(
        tmp_path / "d.jsonl", data.draw(st.lists(rows(format) | ANY, min_size=1, max_size=2))
    )
    message = refusal(lambda: collect(IMPORTERS[format].read([path])))
    if message is not None:
        assert "d.jsonl" in message or "sequences" in message
        return
    imported = collect(IMPORTERS[format].read([path]))
    for sample in imported.behaviour:
        json.dumps([sample.sample_id, sample.prompt_id, sample.prompt_group, sample.text]).encode()
        f"{sample.sample_id}{sample.prompt_id}{sample.prompt_group}{sample.finish_reason}".encode()
        (sample.text or "").encode()


def test_a_statement_of_sampling_is_a_number(tmp_path: Path) -> None:
    dumps.write_lines(tmp_path / "d.jsonl", [GOOD["trl"]])
    for stated in ("temperature=" + HUGE, "temperature=[", "temperature", "temperature=nan", "=1",
                   "temperature=" + "[" * 5000, "top_k=" + HUGE[:4000], "\0=1"):  # fmt: skip
        ask("import", "trl", "d.jsonl", "-o", "t.parquet", "--sampling", stated, cwd=tmp_path)
    done = call_cli("import", "trl", "d.jsonl", "-o", "t.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
