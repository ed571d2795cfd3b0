"""Two traces, token by token: paired when equal, refused by name at the first difference."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from helpers.described import described
from parity_check.errors import TraceMismatchError
from parity_check.measure.measure import measure
from parity_check.traces.pairing import (
    Clusters,
    Index,
    check_headers,
    check_siblings,
    pair,
)
from parity_check.traces.prefixes import Alike, Prefixes
from parity_check.traces.trace import SampleBatch, TraceHeader


def batch(**changes: Any) -> SampleBatch:
    """Two samples, of two prompts: tokens 10, 11, 12 and 20, 21."""
    whole = SampleBatch(
        sample_ids=["p/0", "q/0"],
        prompt_ids=["p", "q"],
        prompt_groups=["g", "g"],
        prompt_starts=np.array([0, 1, 2]),
        prompt_token_ids=np.int32([1, 2]),
        starts=np.array([0, 3, 5]),
        token_ids=np.int32([10, 11, 12, 20, 21]),
        logprobs=np.float32([-1, -2, -3, -4, -5]),
        nulls=0,
        top_token_ids=np.int32([[10], [11], [12], [20], [21]]),
        top_logprobs=np.float32([[-1], [-2], [-3], [-4], [-5]]),
    )
    return replace(whole, **changes)


def header(**changes: Any) -> TraceHeader:
    first = TraceHeader(
        run_id="r",
        created_utc="",
        command="",
        sampled_by="reference",
        evaluated_by="reference",
        engine=described(),
        model={"name": "m", "weights_fingerprint": "w"},
        sampling={"temperature": 1.0},
        logprob_path="decode",
        logprob_distribution="processed",
        host={},
        config={},
        token_digest="a" * 64,
    )
    return replace(first, **changes)


def test_equal_tokens_are_paired() -> None:
    right = batch(logprobs=np.float32([-1, -2, -3, -4, -6]), nulls=1)
    groups = Index()
    [chunk] = pair([batch()], [right], "prompt", groups)
    assert chunk.behaviour_logprob.tolist() == [-1, -2, -3, -4, -5]
    assert chunk.evaluating_logprob.tolist() == [-1, -2, -3, -4, -6]
    assert (chunk.behaviour_nulls, chunk.evaluating_nulls) == (0, 1)
    assert chunk.cluster.tolist() == [0, 1]
    assert list(groups.names) == ["g"]


def test_clusters_are_prompts_groups_or_samples() -> None:
    twice, two = batch(prompt_ids=["p", "p"]), batch()
    for whole, cluster_by, expected in (
        (twice, "prompt", [0, 0]),
        (twice, "sample", [0, 1]),
        (two, "group", [0, 0]),
    ):
        [chunk] = pair([whole], [whole], cluster_by, Index())
        assert chunk.cluster.tolist() == expected


@pytest.mark.parametrize(
    ("cluster_by", "clusters", "prompts"), [("prompt", 4, 4), ("sample", 8, 4), ("group", 1, 4)]
)
def test_prompts_are_counted_whatever_is_independent(
    cluster_by: str, clusters: int, prompts: int
) -> None:
    names = [f"p{number // 2}" for number in range(8)]
    whole = batch(
        sample_ids=[f"s{number}" for number in range(8)], prompt_ids=names, prompt_groups=["g"] * 8,
        prompt_starts=np.arange(9), prompt_token_ids=np.arange(8, dtype=np.int32),
        starts=np.arange(9), token_ids=np.zeros(8, np.int32),
        logprobs=np.full(8, -1.0, np.float32), top_token_ids=None, top_logprobs=None,
    )  # fmt: skip
    measured = measure(pair([whole], [whole], cluster_by, Index()), sampled_by="reference")
    assert (measured.clusters, measured.prompts) == (clusters, prompts)


def test_a_prompt_without_a_value_in_the_column_is_a_cluster_of_its_own() -> None:
    labelled = batch(labels=["x", None])
    also = batch(
        sample_ids=["r/0", "s/0"],
        prompt_ids=["r", "s"],
        prompt_token_ids=np.int32([3, 4]),
        labels=["x", None],
    )
    chunks = list(pair([labelled, also], [labelled, also], "family", Index()))
    assert [chunk.cluster.tolist() for chunk in chunks] == [[0, 1], [0, 2]]


def prompts(*beginnings: tuple[int, int], length: int = 40, common: int = 0) -> SampleBatch:
    """A sample of each prompt: `common` tokens, then (seed, how many) more, then its own."""
    rows = []
    for number, (seed, shared) in enumerate(beginnings):
        own = np.random.default_rng(1000 + number).integers(0, 9999, length)
        own[:common] = 7
        own[common : common + shared] = np.random.default_rng(seed).integers(0, 9999, shared)
        rows.append(own)
    names = [f"p{number}" for number in range(len(rows))]
    size = len(rows)
    return SampleBatch(
        sample_ids=names, prompt_ids=names, prompt_groups=["g"] * size,
        prompt_starts=np.arange(size + 1) * length,
        prompt_token_ids=np.concatenate(rows).astype(np.int32),
        starts=np.arange(size + 1), token_ids=np.arange(size, dtype=np.int32),
        logprobs=np.full(size, -1.0, np.float32), nulls=0, top_token_ids=None, top_logprobs=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("whole", "clusters", "expected"),
    [
        (prompts((1, 36), (1, 36), (2, 0), (3, 0)), [0, 1, 2, 3], (2, 4)),
        (prompts((1, 36), (1, 36), (2, 0), (3, 0)), [0, 0, 1, 2], (0, 4)),
        (prompts((1, 12), (1, 12), (2, 0), (3, 0)), [0, 1, 2, 3], (0, 4)),
        (prompts((1, 0), (2, 0), (3, 0), common=36), [0, 1, 2], (0, 3)),
        (prompts((1, 20), (1, 20), (2, 0), (3, 0), common=12), [0, 1, 2, 3], (2, 4)),
        (prompts((1, 9), (1, 9), length=10), [0, 1], (0, 2)),
    ],
    ids=["family", "clustered", "short", "template", "template and family", "short prompts"],
)
def test_prompts_that_begin_alike_are_found_where_they_are_counted_apart(
    whole: SampleBatch, clusters: list[int], expected: tuple[int, int]
) -> None:
    prefixes = Prefixes()
    for _ in range(2):  # further samples of the same prompts add nothing
        prefixes.add(whole, np.array(clusters, np.int32))
    assert (prefixes.alike().prompts, prefixes.alike().of) == expected


def test_clusters_are_numbered_across_batches() -> None:
    more = np.int32([2, 3])
    later = batch(sample_ids=["q/1", "r/0"], prompt_ids=["q", "r"], prompt_token_ids=more)
    chunks = list(pair([batch(), later], [batch(), later], "prompt", Index()))
    assert [chunk.cluster.tolist() for chunk in chunks] == [[0, 1], [1, 2]]


def test_prompts_of_the_same_tokens_are_one_cluster() -> None:
    """A wrong column, or a file that repeats its prompts: many ids add no evidence."""
    copies = batch(sample_ids=["r/0", "s/0"], prompt_ids=["r", "s"])
    whole = [batch(), copies]
    for cluster_by, expected in (("prompt", [[0, 1], [0, 1]]), ("sample", [[0, 1], [2, 3]])):
        chunks = list(pair(whole, whole, cluster_by, Index()))
        assert [chunk.cluster.tolist() for chunk in chunks] == expected
    clusters = Clusters("prompt")
    for each in whole:
        clusters.number(each)
    assert clusters.count() == 2


def test_the_values_of_a_column_are_taken_as_they_are() -> None:
    """The same prompts in two sessions are two sessions."""
    sessions = [batch(labels=["one", "one"]), batch(prompt_ids=["r", "s"], labels=["two", None])]
    clusters = Clusters("session")
    assert [clusters.number(each).tolist() for each in sessions] == [[0, 0], [1, 2]]
    assert clusters.count() == 3


def test_prompts_without_tokens_are_known_by_their_ids() -> None:
    none: dict[str, Any] = {"prompt_starts": np.zeros(3, int), "prompt_token_ids": np.int32([])}
    assert Clusters("prompt").number(batch(**none)).tolist() == [0, 1]


def test_the_turns_of_a_prompt_are_one_cluster() -> None:
    turns = batch(sample_ids=["p/1", "p/2"], prompt_ids=["p", "p"])
    clusters = Clusters("prompt")
    assert clusters.number(turns).tolist() == [0, 0]


def test_alternatives_are_paired_on_both_sides_or_on_neither() -> None:
    without = batch(top_token_ids=None, top_logprobs=None)
    [chunk] = pair([batch()], [without], "prompt", Index())
    assert chunk.behaviour_top_ids is None
    assert chunk.evaluating_top_ids is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sample_ids": ["p/0", "x/0"]},
            "sample q/0 is paired with sample x/0: different samples or order",
        ),
        ({"sample_ids": ["p/0"]}, "sample q/0 is paired with sample None"),
        ({"starts": np.array([0, 2, 5])}, "sample p/0: 3 tokens against 2"),
        (
            {"token_ids": np.int32([10, 11, 12, 20, 99])},
            "sample q/0, token 1: id 21 against id 99",
        ),
        (
            {"token_ids": np.int32([99, 11, 12, 20, 99])},
            "sample p/0, token 0: id 10 against id 99",
        ),
        ({"prompt_token_ids": np.int32([1, 3])}, "the prompts' token ids differ"),
        ({"prompt_starts": np.array([0, 0, 2])}, "the prompts' token ids differ"),
    ],
)
def test_the_first_difference_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TraceMismatchError, match=message):
        list(pair([batch()], [batch(**changes)], "prompt", Index()))


def test_a_longer_trace_is_refused() -> None:
    for left, right in ((1, 2), (2, 1)):
        with pytest.raises(TraceMismatchError, match="one trace has more samples than the other"):
            list(pair([batch()] * left, [batch()] * right, "prompt", Index()))


def replayed(**changes: Any) -> TraceHeader:
    return header(evaluated_by="candidate", replayed_from="a" * 64, **changes)


def test_a_replay_of_the_trace_is_accepted() -> None:
    check_headers(header(), replayed())


@pytest.mark.parametrize(
    ("evaluating", "message"),
    [
        (header(), "was not replayed from this behaviour trace: its token digest is none"),
        (header(replayed_from="b" * 64), "its token digest is bbbbbbbbbbbb, expected aaaaaaaaaa"),
        (
            replayed(model={"name": "m", "weights_fingerprint": "x"}),
            "the traces are of different models: weights_fingerprint: w ≠ x",
        ),
        (
            replayed(model={"name": "m", "weights_fingerprint": "w", "adapter_sha256": "b"}),
            "the traces are of different models: adapter_sha256: None ≠ b",
        ),
        (
            replayed(model={"name": "n", "weights_fingerprint": "w"}),
            "the traces are of different models: name: m ≠ n",
        ),
        (replayed(logprob_path="prefill"), "differ in logprob path: decode ≠ prefill"),
        (
            replayed(logprob_distribution="raw"),
            "differ in logprob distribution: processed ≠ raw",
        ),
        (replayed(sampling={"temperature": 0.7}), "differ in temperature: 1.0 ≠ 0.7"),
        (replayed(sampling={}), "differ in temperature: 1.0 ≠ None"),
    ],
)
def test_traces_that_cannot_be_compared(evaluating: TraceHeader, message: str) -> None:
    with pytest.raises(TraceMismatchError, match=message):
        check_headers(header(), evaluating)


def test_a_trainer_may_score_by_prefill_what_was_decoded() -> None:
    trainer = replayed(logprob_path="prefill", engine=described(evaluates_by="prefill"))
    check_headers(header(), trainer)
    check_siblings(trainer, header())


def test_raw_against_processed_may_be_what_is_asked() -> None:
    check_headers(header(), replayed(logprob_distribution="raw"), same_distribution=False)


def prompts_of(*ids: list[int]) -> SampleBatch:
    """A sample of one token for each of these prompts."""
    names = [f"p{number}" for number in range(len(ids))]
    return batch(
        sample_ids=[f"{name}/0" for name in names], prompt_ids=names, prompt_groups=names,
        prompt_starts=np.cumsum([0, *map(len, ids)]),
        prompt_token_ids=np.concatenate(ids).astype(np.int32),
    )  # fmt: skip


@pytest.mark.parametrize(("shared", "found"), [(120, 4), (90, 4), (40, 0)])
def test_prompts_that_share_more_than_half_are_found_at_any_length(shared: int, found: int) -> None:
    """Two families of two prompts of 140 tokens, next to another prompt."""
    own = iter(range(1000, 10_000))
    family = [[kind] * shared for kind in (1, 2) for _ in range(2)]
    ids = [prefix + [next(own) for _ in range(140 - shared)] for prefix in family]
    ids.append([next(own) for _ in range(140)])
    prefixes = Prefixes()
    prefixes.add(prompts_of(*ids), np.arange(5, dtype=np.int32))
    assert (prefixes.alike().prompts, prefixes.alike().of) == (found, 5)


def found_in(*prompts: list[int]) -> Alike:
    """Of prompts that are all counted apart, added in parts."""
    prefixes = Prefixes()
    for at in range(0, len(prompts), 10):
        part = prompts_of(*prompts[at : at + 10])
        names = [f"p{at + number}" for number in range(len(part.prompt_ids))]
        clusters = np.arange(at, at + len(names), dtype=np.int32)
        prefixes.add(replace(part, prompt_ids=names), clusters)
    return prefixes.alike()


def families(size: int, number: int, system: list[int], own: Iterator[int]) -> list[list[int]]:
    """So many families, one after the other: a system prompt, 40 tokens of the family, 20 own."""
    return [
        system + [50_000 + family] * 40 + [next(own) for _ in range(20)]
        for family in range(number)
        for _ in range(size)
    ]


def singles(number: int, system: list[int], own: Iterator[int]) -> list[list[int]]:
    return [system + [next(own) for _ in range(60)] for _ in range(number)]


@pytest.mark.parametrize("system", [[], list(range(400)), list(range(397))], ids=len)
@pytest.mark.parametrize(("size", "number"), [(6, 2), (6, 17), (100, 4), (64, 6), (2, 60)])
def test_families_are_found_under_a_beginning_that_all_have(
    size: int, number: int, system: list[int]
) -> None:
    own = itertools.count(100_000)
    every = families(size, number, system, own)
    assert found_in(*every) == Alike(len(every), len(every), size)
    mixed = every + singles(30, system, own)
    for prompts in (mixed, random.Random(1).sample(mixed, len(mixed))):
        alike = found_in(*prompts)
        assert alike == Alike(size * number, len(mixed), size)


@pytest.mark.parametrize("without", [0, 1, 30])
def test_a_beginning_that_most_have_makes_no_family(without: int) -> None:
    own = itertools.count(100_000)
    prompts = singles(80, list(range(400)), own) + singles(without, [], own)
    assert found_in(*prompts) == Alike(0, 80 + without, 0)


def test_two_system_prompts_may_be_two_families() -> None:
    own = itertools.count(100_000)
    prompts = singles(50, [7] * 400, own) + singles(50, [8] * 400, own)
    assert found_in(*prompts) == Alike(100, 100, 50)


def test_prompts_without_tokens_share_none() -> None:
    prefixes = Prefixes()
    prefixes.add(prompts_of([], [], []), np.arange(3, dtype=np.int32))
    assert prefixes.alike() == Alike(0, 0, 0)


def test_one_prompt_under_many_names_is_found() -> None:
    assert found_in(*[[1, 2, 3]] * 6) == Alike(6, 6, 6)


def test_a_sample_that_is_there_twice_is_refused() -> None:
    with pytest.raises(TraceMismatchError, match="sample p/0 is in the trace twice"):
        list(pair([batch(), batch()], [batch(), batch()], "prompt", Index()))
