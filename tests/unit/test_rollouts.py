"""Sequence statistics are of whole rollouts, however their turns lie in samples and chunks."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.described import described
from parity_check.measure.measure import measure
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.results import Measurement
from parity_check.traces.batch import batch_of
from parity_check.traces.pairing import Index, pair
from parity_check.traces.trace import Sample, Trace, TraceHeader, trace_schema, write_trace


def rollouts(seed: int, size: int = 24) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logprobs of both sides of each rollout."""
    rng = np.random.default_rng(seed)
    made = []
    for length in rng.integers(1, 40, size):
        behaviour = -rng.gamma(1.0, 1.0, length).astype(np.float32)
        moved = behaviour + 0.3 * rng.standard_t(3, length).astype(np.float32)
        made.append((behaviour, np.minimum(moved, -1e-6).astype(np.float32)))
    return made


def whole(made: list[tuple[np.ndarray, np.ndarray]]) -> PairedChunk:
    cluster = (np.arange(len(made)) // 2).astype(np.int32)
    return PairedChunk(
        np.concatenate([one for one, _ in made]),
        np.concatenate([other for _, other in made]),
        np.cumsum([0, *(len(one) for one, _ in made)]),
        cluster,
        np.zeros(len(made), np.int32),
    )


def in_turns(made: list[tuple[np.ndarray, np.ndarray]], seed: int) -> list[PairedChunk]:
    """The same rollouts, cut into turns at random, two turns a chunk."""
    rng = np.random.default_rng(seed)
    turns = []
    for number, (one, other) in enumerate(made):
        cuts = np.unique(rng.integers(0, len(one) + 1, 3))
        edges = np.unique([0, *cuts, len(one)])
        for turn, (first, last) in enumerate(pairwise(edges)):
            turns.append((number, turn, one[first:last], other[first:last]))
    chunks = []
    for start in range(0, len(turns), 2):
        part = turns[start : start + 2]
        numbers = np.array([number for number, *_ in part], np.int32)
        chunks.append(
            PairedChunk(
                np.concatenate([one for *_, one, _ in part]),
                np.concatenate([other for *_, other in part]),
                np.cumsum([0, *(len(one) for *_, one, _ in part)]),
                numbers // 2,
                np.zeros(len(part), np.int32),
                rollout=numbers,
                turn=np.array([turn for _, turn, *_ in part], np.int32),
            )
        )
    return chunks


def numbers(found: Measurement) -> dict[str, float]:
    return {
        **{each.name: each.value for each in found.estimates},
        **{clip.objective.name: clip.counted.value for clip in found.clips},
        **{f"{clip.objective.name} n": clip.counted.n for clip in found.clips},
        **{f"by length, {label}": clip.counted.value for label, clip in found.clips_by_length},
    }


@given(st.integers(0, 1000))
def test_turns_add_up_to_their_rollout(seed: int) -> None:
    made = rollouts(seed)
    one = measure([whole(made)], sampled_by="r")
    many = measure(in_turns(made, seed), sampled_by="r")
    assert numbers(many) == pytest.approx(numbers(one), rel=1e-9)
    assert many.rollouts == one.rollouts == one.samples == 24
    assert many.samples > 24
    assert (many.tokens, many.clusters) == (one.tokens, one.clusters)


def test_a_product_over_turns_is_not_a_product_a_turn() -> None:
    """What went wrong where turns were sequences: a long rollout looked like short ones."""
    made = [(np.full(40, -1.0, np.float32), np.full(40, -0.98, np.float32)) for _ in range(16)]
    chunks = in_turns(made, 3)
    apart = [dataclasses.replace(chunk, rollout=None, turn=None) for chunk in chunks]
    together = {c.objective.name: c.band.value for c in measure(chunks, sampled_by="r").clips}
    assert together["tis-sequence"] == 1.0
    assert {c.objective.name: c for c in measure(apart, sampled_by="r").clips}[
        "tis-sequence"
    ].band.value < 1.0


def test_the_breakdown_by_turn() -> None:
    made = rollouts(5)
    assert "turn" not in measure([whole(made)], sampled_by="r").breakdowns
    chunks = in_turns(made, 5)
    bins = measure(chunks, sampled_by="r").breakdowns["turn"]
    assert [each.label for each in bins][:2] == ["turn 1", "turn 2"]
    first = np.concatenate(
        [
            (chunk.evaluating_logprob - chunk.behaviour_logprob)[: chunk.starts[1]]
            for chunk in chunks
            if chunk.turn is not None and chunk.turn[0] == 0
        ]
        + [
            (chunk.evaluating_logprob - chunk.behaviour_logprob)[chunk.starts[1] :]
            for chunk in chunks
            if chunk.turn is not None and len(chunk.turn) == 2 and chunk.turn[1] == 0
        ]
    )
    assert bins[0].estimates[0].value == pytest.approx(float(first.mean(dtype=float)), abs=1e-6)
    assert sum(each.estimates[0].n for each in bins) == sum(len(one) for one, _ in made)


# --- in traces ------------------------------------------------------------------------------------


def sample(name: str, **fields: object) -> Sample:
    return Sample(
        **{
            "sample_id": name, "prompt_id": "p", "sample_index": 0, "prompt_group": "",
            "prompt_token_ids": [1], "completion_token_ids": [2, 3], "logprobs": [-1.0, -2.0],
            "top_token_ids": None, "top_logprobs": None, "finish_reason": None, "seed": None,
            "policy_version": None, "text": None, **fields,
        }
    )  # fmt: skip


def header() -> TraceHeader:
    return TraceHeader(
        run_id="r", created_utc="", command="", sampled_by="x", evaluated_by="x",
        engine=described(), model={}, sampling={}, logprob_path="unknown",
        logprob_distribution="unknown", host={}, config={},
    )  # fmt: skip


def test_a_trace_keeps_rollouts_and_turns(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    samples = [
        sample("r/turn-0", rollout_id="r", turn=0),
        sample("r/turn-1", rollout_id="r", turn=1),
    ]
    write_trace(path, samples, header(), {})
    assert list(Trace(path).samples()) == samples
    [batch] = Trace(path).batches()
    assert batch.rollout_ids == ["r", "r"]
    assert batch.turns is not None
    assert batch.turns.tolist() == [0, 1]
    [chunk] = pair([batch], [batch], "sample", Index())
    assert chunk.rollout is not None
    assert chunk.rollout.tolist() == [0, 0]
    assert chunk.cluster.tolist() == [0, 0], "turns of a rollout are one cluster"


def test_an_older_trace_has_samples_that_are_rollouts(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_trace(path, [sample("a"), sample("b")], header(), {})
    [batch] = Trace(path).batches()
    assert (batch.rollout_ids, batch.turns) == (None, None)
    [chunk] = pair([batch], [batch], "sample", Index())
    assert (chunk.rollout, chunk.cluster.tolist()) == (None, [0, 1])


def test_a_sample_without_a_rollout_among_others_is_one() -> None:
    rows = [
        {name: getattr(each, name) for name in [*trace_schema().names, "rollout_id", "turn"]}
        for each in (sample("a"), sample("b", rollout_id="r", turn=2))
    ]
    columns = [*trace_schema(), pa.field("rollout_id", pa.string()), pa.field("turn", pa.int32())]
    batch = batch_of(pa.Table.from_pylist(rows, schema=pa.schema(columns)))
    assert batch.rollout_ids == ["a", "r"]
    assert batch.turns is not None
    assert batch.turns.tolist() == [0, 2]
