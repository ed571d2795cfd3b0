"""What pictures show is what was measured: bins, hexagons, quantiles, gaps, worst samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from helpers.support import chunk_of
from parity_check.comparison.pictures import spread
from parity_check.comparison.pictures.collect import QUANTILES, Collector, Pictures
from parity_check.comparison.pictures.gaps import EXPONENTS, GapCounter
from parity_check.comparison.pictures.hexagons import ROW, WIDTH, Lattice
from parity_check.comparison.pictures.samples import MOST_TOKENS, SHADES, shown_tokens
from parity_check.measure.measure import measure
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.objectives import OBJECTIVES

FLOATS = arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-50.0, 50.0))


@given(FLOATS)
def test_a_value_lies_in_its_bin(values: np.ndarray) -> None:
    bins = spread.bins_of(values)
    assert bins.min() >= 0
    assert bins.max() < spread.BINS
    middles = spread.middles()[bins]
    small = np.abs(values) < spread.SIZES[0]
    assert (middles[small] == 0.0).all()
    assert (np.sign(middles[~small]) == np.sign(values[~small])).all()
    np.testing.assert_allclose(middles[~small], values[~small], rtol=0.02)


@given(FLOATS)
def test_quantiles_and_shares_are_those_of_the_values(values: np.ndarray) -> None:
    counts = np.bincount(spread.bins_of(values), minlength=spread.BINS)
    expected = np.quantile(values, QUANTILES, method="inverted_cdf")
    np.testing.assert_allclose(spread.quantiles(counts, QUANTILES), expected, rtol=0.02, atol=1e-8)
    above = [(np.abs(values) >= 1.001 * size).mean() for size in spread.SIZES]
    below = [(np.abs(values) >= 0.999 * size).mean() for size in spread.SIZES]
    shares = spread.shares_above(counts)
    assert (shares[:-1] >= above[:-1]).all()
    assert (shares[:-1] <= below[:-1]).all()
    rows, sizes = spread.coarser(counts, 8)
    assert rows.sum() == len(values)
    assert len(rows) == 2 * (len(sizes) - 1) + 1


@given(st.lists(st.tuples(st.floats(-19.9, 0.0), st.floats(-19.9, 0.0)), min_size=1, max_size=40))
def test_a_point_is_counted_at_the_nearest_hexagon(points: list[tuple[float, float]]) -> None:
    lattice = Lattice()
    x, y = np.array(points).T
    lattice.add(x, y)
    found = lattice.found()
    assert found.counts.sum() == len(points)
    reach = np.hypot(found.x[:, None] - x, found.y[:, None] - y).min(axis=0)
    corner = WIDTH / np.sqrt(3.0)
    assert (reach <= corner + 1e-9).all()
    assert pytest.approx(WIDTH * 3**0.5) == ROW


def collected(chunk: PairedChunk, objective: str = "grpo") -> tuple[Collector, Pictures]:
    scales = {"reference": 1.0, "candidate": 1.0}
    collector = Collector("reference", OBJECTIVES[objective], scales)
    collector.add(chunk)
    return collector, collector.pictures()


def random_chunk(samples: int = 40, length: int = 90) -> PairedChunk:
    rng = np.random.default_rng(7)
    rows = [
        [(-x, min(0.0, -x + 0.1 * d)) for x, d in zip(*pair, strict=True)]
        for pair in zip(
            rng.exponential(1.0, (samples, length)), rng.normal(size=(samples, length)), strict=True
        )
    ]
    return chunk_of(rows)


@pytest.mark.parametrize("objective", ["grpo", "gspo", "mis", "cispo", "gspo-pipelinerl"])
def test_pictures_count_every_token_and_sequence_once(objective: str) -> None:
    chunk = random_chunk()
    _, found = collected(chunk, objective)
    n, samples = len(chunk.behaviour_logprob), len(chunk.starts) - 1
    assert found.tokens == n
    assert found.log_ratio.sum() == n
    assert sum(each.n for each in found.by_position) == n
    assert sum(each.n for each in found.by_probability) == n
    assert found.logprobs.counts.sum() == n
    total = found.ratios.counts.sum() + found.ratios.below + found.ratios.above
    assert total == (n if OBJECTIVES[objective].level == "token" else samples)
    assert len(found.ratios.edges) == len(found.ratios.counts) + 1
    middle = len(found.ratios.counts) // 2
    assert found.ratios.edges[middle] < 0.0 < found.ratios.edges[middle + 1]
    assert found.sequences.n == samples
    delta = chunk.evaluating_logprob.astype(float) - chunk.behaviour_logprob
    means = np.sort(delta.reshape(samples, -1).mean(axis=1))
    np.testing.assert_allclose(found.sequences.means, means, atol=1e-12)


def test_products_of_ratios_that_no_float_holds_are_beyond_the_histogram() -> None:
    _, found = collected(chunk_of([[(-1.0, -3.0)] * 2000, [(-1.0, -1.0)] * 10]), "mis")
    assert (found.ratios.below, found.ratios.above) == (1, 0)
    assert np.isfinite(np.exp(found.ratios.edges)).all()


def test_the_bins_are_those_of_the_report() -> None:
    chunk = random_chunk()
    _, found = collected(chunk)
    measured = measure([chunk], sampled_by="reference").breakdowns["behaviour_probability"]
    assert [each.n for each in found.by_probability] == [each.estimates[0].n for each in measured]


def test_unusable_logprobs_are_left_out() -> None:
    chunk = chunk_of([[(-1.0, -1.5), (float("nan"), -1.0), (-9999.0, -1.0), (-0.5, -0.5)]])
    collector, found = collected(chunk)
    assert found.tokens == 2
    assert [each.low for each in found.by_position] == [0, 3]
    [worst] = collector.worst()
    tokens = shown_tokens(worst, [5, 6, 7, 8], {5: "a", 6: "b", 7: "c"})
    assert [token.log_ratio for token in tokens] == [-0.5, None, None, 0.0]
    assert [token.text for token in tokens] == ["a", "b", "c", "\ufffd"]
    assert [token.shade for token in tokens] == [-3, 0, 0, 0]


def test_the_worst_samples_are_those_with_the_largest_squares() -> None:
    sizes = [0.1, 0.7, 0.3, 0.0, 0.5]
    chunk = chunk_of([[(-2.0, -2.0 + size)] * 3 for size in sizes])
    collector, _ = collected(chunk)
    assert [each.number for each in collector.worst()] == [1, 4, 2, 0]
    assert collector.squares() == pytest.approx(3 * sum(size**2 for size in sizes), rel=1e-6)


def test_a_long_sample_is_cut_around_its_largest_difference() -> None:
    pairs = [(-1.0, -1.0)] * 1000
    pairs[900] = (-1.0, -3.0)
    collector, _ = collected(chunk_of([pairs]))
    tokens = shown_tokens(collector.worst()[0], [0] * 1000, {})
    assert len(tokens) == MOST_TOKENS
    assert tokens[0].position <= 900 <= tokens[-1].position
    assert [token.shade for token in tokens if token.position == 900] == [-len(SHADES)]


def with_alternatives(reference: np.ndarray, candidate: np.ndarray) -> PairedChunk:
    n, k = reference.shape
    ids = np.tile(np.arange(k, dtype=np.int32), (n, 1))
    return PairedChunk(
        behaviour_logprob=np.full(n, -1.0, np.float32),
        evaluating_logprob=np.full(n, -1.0, np.float32),
        starts=np.array([0, n]),
        cluster=np.zeros(1, np.int32),
        group=np.zeros(1, np.int32),
        behaviour_top_ids=ids,
        behaviour_top_logprobs=reference.astype(np.float32),
        evaluating_top_ids=ids[:, ::-1].copy(),
        evaluating_top_logprobs=candidate.astype(np.float32)[:, ::-1].copy(),
        token_ids=ids[:, 0].copy(),
    )


def test_gaps_show_the_temperature_and_the_grid_of_one_engine() -> None:
    rng = np.random.default_rng(3)
    logits = np.round(rng.normal(0.0, 4.0, (500, 5)) * 16) / 16  # as bf16 leaves them
    raw = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    moved = rng.normal(0.0, 4.0, (500, 5)) / 0.7
    processed = moved - np.log(np.exp(moved).sum(axis=1, keepdims=True))
    counter = GapCounter("candidate", {"reference": 0.7, "candidate": 1.0})
    counter.add(with_alternatives(raw, raw / 0.7))
    found = counter.found()
    assert found is not None
    assert found.pairs == 500 * 4
    assert found.slope == pytest.approx(0.7, abs=1e-3)
    fine = EXPONENTS.index(4)
    assert found.on_grid["candidate"][fine] > 0.99
    counter = GapCounter("reference", {"reference": 0.7, "candidate": 1.0})
    counter.add(with_alternatives(processed, raw))
    other = counter.found()
    assert other is not None
    assert other.on_grid["reference"][fine] < 0.1
    assert other.on_grid["candidate"][fine] > 0.99


def test_no_alternatives_no_gaps() -> None:
    assert collected(random_chunk(2, 3))[1].gaps is None
