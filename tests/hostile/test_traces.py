"""Traces that are none, or no longer: refused with file, place and what was expected."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Run
from helpers.support import call_cli
from hostile.support import CONTROL, DEEP, USAGE, VERDICTS, ask, with_column, with_header
from parity_check.traces.trace import VOCABULARY_KEY, TraceHeader, trace_schema

pytestmark = pytest.mark.timeout(60, func_only=True)

ABSENT = object()
WRONG = {
    "null": None,
    "a list": [],
    "an integer": 7,
    "a string": "text",
    "a table": {"a": {"b": []}},
    "a boolean": True,
    "absent": ABSENT,
    "huge": 10**400,
}
FIELDS = TraceHeader.__dataclass_fields__
ENGINE = ("label", "version", "family", "device", "packages", "settings", "config", "environment")


@dataclass(frozen=True)
class Pair:
    """Two traces of one run, as paths."""

    behaviour: Path
    evaluating: Path


@pytest.fixture
def pair(drifting_run: Run, tmp_path: Path) -> Pair:
    names = ("candidate.parquet", "candidate-replayed-by-reference.parquet")
    return Pair(*(Path(shutil.copy(drifting_run.path / name, tmp_path)) for name in names))


def compare(pair: Pair, trace: Path, **options: Any) -> Any:
    """The hostile trace as the one that evaluates."""
    return ask("compare", pair.behaviour.name, trace.name, cwd=trace.parent, **options)


def put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The tree with one value changed, or left out."""
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    if value is ABSENT:
        inner.pop(path[-1], None)
    else:
        inner[path[-1]] = value
    return tree


PLACES = [(name,) for name in FIELDS] + [("engine", name) for name in ENGINE]
PLACES += [("engine", "settings", "logprobs_mode"), ("engine", "model")]
PLACES += [("engine", "settings", "logprobs_mode", "in_force"), ("engine", "config", "dtype")]
PLACES += [("sampling", "temperature"), ("sampling", "top_k"), ("config", "reference")]
PLACES += [("config", "run"), ("config", "reference", "engine_args"), ("model", "name")]


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_a_header_field_of_another_kind(pair: Pair, place: tuple[str, ...], kind: str) -> None:
    path = pair.evaluating
    with_header(path, path, lambda header: put(header, place, WRONG[kind]))
    done = compare(pair, path, codes=(USAGE, *VERDICTS))
    if done.returncode == USAGE and "differ" not in done.stderr:
        assert path.name in done.stderr or "trace" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "metadata"),
        ("[]", "metadata"),
        ("null", "metadata"),
        ("{", "metadata"),
        ("[" * DEEP, "metadata"),
        ('{"schema_version": 1, "engine": ' + '{"a":' * DEEP, "metadata"),
        ('{"schema_version": ' + "9" * 5000 + "}", "metadata"),
        ('{"schema_version": "1"}', "trace schema"),
        ('{"schema_version": 99}', "trace schema"),
        ('{"schema_version": 1}', "field required"),
        ("\ud800", "metadata"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_header_that_is_no_header(pair: Pair, text: str, expected: str) -> None:
    path = pair.evaluating
    assert expected in compare(pair, with_header(path, path, lambda _: text)).stderr


@pytest.mark.parametrize(
    "vocabulary",
    [b"", b"[]", b"null", b'{"a": "b"}', b'{"1": null}', b'{"1": 2}', b"\xff", b"{" * DEEP,
     b'{"-1": "x"}', b'{"' + b"9" * 5000 + b'": "x"}'],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_a_vocabulary_of_another_kind(pair: Pair, vocabulary: bytes) -> None:
    for path in (pair.behaviour, pair.evaluating):
        table = pq.read_table(path)
        metadata = {**table.schema.metadata, VOCABULARY_KEY: vocabulary}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    compare(pair, pair.evaluating, codes=(USAGE,))


OTHER_TYPES: dict[str, Callable[[int], pa.Array[Any]]] = {
    "strings": lambda n: pa.array(["text"] * n),
    "integers": lambda n: pa.array([1] * n, pa.int64()),
    "floats": lambda n: pa.array([0.5] * n, pa.float64()),
    "booleans": lambda n: pa.array([True] * n),
    "bytes": lambda n: pa.array([b"\xff\x00"] * n),
    "timestamps": lambda n: pa.array([0] * n, pa.timestamp("ns")),
    "lists of strings": lambda n: pa.array([["a", "b"]] * n),
    "lists of doubles": lambda n: pa.array([[0.5, 0.5]] * n, pa.list_(pa.float64())),
    "lists of lists of strings": lambda n: pa.array([[["a"], ["b"]]] * n),
    "structs": lambda n: pa.array([{"a": 1}] * n),
}


@pytest.mark.parametrize("kind", OTHER_TYPES)
@pytest.mark.parametrize("name", trace_schema().names)
def test_a_column_of_another_type(pair: Pair, name: str, kind: str) -> None:
    path = pair.evaluating
    column = OTHER_TYPES[kind](pq.read_metadata(path).num_rows)
    if column.type == trace_schema().field(name).type:
        column = column.cast(pa.int16() if kind == "integers" else pa.binary())
    done = compare(pair, with_column(path, path, name, column))
    assert f"{path.name}: column {name} is " in done.stderr


def not_utf8(count: int) -> pa.Array[Any]:
    raw = pa.array([b"\xff\xfe"] * count, pa.binary())
    return pa.Array.from_buffers(pa.string(), count, raw.buffers())


def ids_with(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda rows: [[value, *row[1:]] for row in rows]


COLUMNS: dict[str, tuple[str, Callable[[list[Any]], Any]]] = {
    "sample ids that are not UTF-8": ("sample_id", lambda rows: not_utf8(len(rows))),
    "groups that are not UTF-8": ("prompt_group", lambda rows: not_utf8(len(rows))),
    "texts that are not UTF-8": ("text", lambda rows: not_utf8(len(rows))),
    "a sample id that is null": ("sample_id", lambda rows: [None, *rows[1:]]),
    "a group that is null": ("prompt_group", lambda rows: [None, *rows[1:]]),
    "a prompt that is null": ("prompt_token_ids", lambda rows: [None, *rows[1:]]),
    "a completion that is null": ("completion_token_ids", lambda rows: [None, *rows[1:]]),
    "logprobs that are null": ("logprobs", lambda rows: [None, *rows[1:]]),
    "an index that is null": ("sample_index", lambda rows: [None, *rows[1:]]),
    "a token id that is null": ("completion_token_ids", ids_with(None)),
    "a negative token id": ("completion_token_ids", ids_with(-1)),
    "a negative prompt id": ("prompt_token_ids", ids_with(-5)),
    "alternatives of another length": ("top_token_ids", lambda rows: [row[1:] for row in rows]),
    "alternatives of another width": (
        "top_token_ids",
        lambda rows: [[each[1:] for each in row] for row in rows],
    ),
    "alternatives without logprobs": ("top_logprobs", lambda rows: [None] * len(rows)),
    "an alternative that is null": (
        "top_token_ids",
        lambda rows: [[[None, *each[1:]] for each in row] for row in rows],
    ),
    "alternatives of a token that are null": (
        "top_token_ids",
        lambda rows: [[None, *row[1:]] for row in rows],
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_a_column_with_values_of_another_kind(pair: Pair, case: str) -> None:
    name, change = COLUMNS[case]
    for path in (pair.behaviour, pair.evaluating):
        column = pq.read_table(path).column(name)
        changed = change(column.to_pylist())
        array = changed if isinstance(changed, pa.Array) else pa.array(changed, column.type)
        with_column(path, path, name, array)
    done = compare(pair, pair.evaluating)
    assert name in done.stderr or "sample" in done.stderr or "UTF8" in done.stderr


def test_fewer_samples_than_the_header_counts(pair: Pair) -> None:
    for path in (pair.behaviour, pair.evaluating):
        table = pq.read_table(path)
        pq.write_table(table.slice(0, table.num_rows - 2), path)
    assert "samples" in compare(pair, pair.evaluating).stderr


# --- files that are no files ----------------------------------------------------------------------


def fifo(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def directory(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.mkdir()
    return path


def device(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")
    return path


def dangling(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")
    return path


def loop(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)
    return path


NO_FILES = (fifo, directory, device, dangling, loop)


@pytest.mark.parametrize("make", NO_FILES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("side", [0, 1])
def test_a_trace_that_is_no_file(
    pair: Pair, make: Callable[[Path], Path], side: int, tmp_path: Path
) -> None:
    path = (pair.behaviour, pair.evaluating)[side]
    make(path)
    done = ask("compare", pair.behaviour.name, pair.evaluating.name, cwd=tmp_path)
    assert path.name in done.stderr


@pytest.mark.parametrize(
    "name", ["", "a" * 300, "b/" * 2500, "nul\0byte", "~nobody/t.parquet", "\udcff.parquet"],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_a_trace_of_an_impossible_name(pair: Pair, name: str, tmp_path: Path) -> None:
    ask("compare", pair.behaviour.name, name, cwd=tmp_path)
    ask("compare", name, pair.behaviour.name, cwd=tmp_path)


# --- damage ---------------------------------------------------------------------------------------


def numbers(report: str) -> Any:
    tree = json.loads(report)
    return {name: tree[name] for name in ("metrics", "gates", "verdict", "workload", "engines")}


@pytest.fixture
def expected(pair: Pair, tmp_path: Path) -> Any:
    done = call_cli("compare", pair.behaviour, pair.evaluating, "--format=json", cwd=tmp_path)
    return numbers(done.stdout)


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_changes_no_number(pair: Pair, expected: Any, share: float, bit: int) -> None:
    """A trace of its own keeps checksums of everything that is read; other bytes mean nothing."""
    whole = pair.evaluating.read_bytes()
    cwd = pair.evaluating.parent
    damaged = bytearray(whole)
    damaged[int(share * len(whole))] ^= 1 << bit
    broken = pair.evaluating.with_name("damaged.parquet")
    broken.write_bytes(damaged)
    arguments = ("compare", pair.behaviour.name, broken.name, "--format=json")
    done = ask(*arguments, cwd=cwd, codes=(USAGE, *VERDICTS))
    if done.returncode != USAGE:
        assert numbers(done.stdout) == expected


@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True
)
@given(share=st.floats(0, 1, exclude_max=True), tail=st.binary(max_size=12))
def test_a_trace_that_is_cut_short(pair: Pair, share: float, tail: bytes) -> None:
    whole = pair.evaluating.read_bytes()
    broken = pair.evaluating.with_name("cut.parquet")
    broken.write_bytes(whole[: int(share * len(whole))] + tail)
    compare(pair, broken)


def test_a_trace_without_checksums_is_noticed(pair: Pair, tmp_path: Path) -> None:
    """As another program writes it: compared, and the report says what was not verified."""
    before = call_cli("compare", pair.behaviour, pair.evaluating, cwd=tmp_path).stdout
    pq.write_table(pq.read_table(pair.evaluating), pair.evaluating)
    after = ask("compare", pair.behaviour.name, pair.evaluating.name, cwd=tmp_path, codes=VERDICTS)
    assert "no checksums" not in " ".join(before.split())
    assert f"{pair.evaluating.name} has no checksums" in " ".join(after.stdout.split())


# --- names that are commands to a terminal or a workflow ------------------------------------------

NAMES = {
    "a stop command": "::stop-commands::x",
    "an error on a second line": "a\n::error::b",
    "an old command": "##[error]b",
    "a terminal's escape": "\x1b[2Ja\x1b]52;c;aGk=\x07",
    "a carriage return": "a\rb",
    "another direction": "a\u202eb",
    "a line separator": "a\u2028::error::b",
}
FORMATS = ("text", "json", "markdown", "html", "junit", "github")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_a_name_in_every_report(pair: Pair, name: str, format: str) -> None:
    for path in (pair.behaviour, pair.evaluating):
        table = pq.read_table(path)
        for column in ("sample_id", "prompt_id", "prompt_group"):
            values = [NAMES[name] + each for each in table.column(column).to_pylist()]
            with_column(path, path, column, pa.array(values))
    for path in (pair.behaviour, pair.evaluating):
        with_header(
            path,
            path,
            lambda header: {
                **header,
                "run_id": NAMES[name],
                "model": {**header["model"], "name": NAMES[name]},
                "engine": {**header["engine"], "label": NAMES[name], "version": NAMES[name]},
            },
        )
    one, other = pair.behaviour, pair.evaluating
    done = call_cli("compare", one, other, f"--format={format}", cwd=one.parent)
    assert done.returncode in VERDICTS, done.stderr
    assert not CONTROL.search(done.stdout), ascii(done.stdout)
    lines = done.stdout.splitlines()
    commands = [line for line in lines if line.lstrip().startswith("::") or "##[" in line]
    if format == "github":
        assert all(line.startswith(("::error title=", "::warning title=", "::notice title="))
                   for line in lines)  # fmt: skip
    else:
        assert not commands
