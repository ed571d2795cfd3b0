"""What of one disagreement is already in another: identities that hold for any three engines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.errors import TraceMismatchError
from parity_check.measure.decomposition import Decomposition, decompose
from parity_check.measure.metrics import F32, PairedChunk

TOKENS = 6
LOGPROBS = st.floats(-20.0, 0.0, width=32)
ENGINES = st.lists(
    st.lists(st.tuples(LOGPROBS, LOGPROBS, LOGPROBS), min_size=TOKENS, max_size=TOKENS),
    min_size=8,
    max_size=12,
).map(lambda prompts: np.array(prompts, dtype=np.float32).transpose(2, 0, 1))


def chunk(behaviour: F32, evaluating: F32, prompts: int) -> PairedChunk:
    return PairedChunk(
        behaviour_logprob=behaviour.reshape(-1),
        evaluating_logprob=evaluating.reshape(-1),
        starts=np.arange(prompts + 1) * (behaviour.size // prompts),
        cluster=np.arange(prompts, dtype=np.int32),
        group=np.zeros(prompts, dtype=np.int32),
    )


def split(trainer: F32, reference: F32, candidate: F32, **options: Any) -> Decomposition:
    """Logprobs [prompts, tokens] of three engines."""
    prompts = len(trainer)
    chunks = (chunk(candidate, trainer, prompts), chunk(candidate, reference, prompts))
    return decompose([chunks], "trainer", sampled_by="candidate", level=0.95, **options)


@given(ENGINES)
def test_the_means_and_the_shares_add_up(logprobs: F32) -> None:
    found = split(*logprobs)
    legs = (found.already, found.added)
    assert sum(leg.mean.value for leg in legs) == pytest.approx(found.whole.mean.value, abs=1e-12)
    if found.whole.share is None:
        assert (logprobs[0] == logprobs[2]).all()
    else:
        assert found.whole.share.value == pytest.approx(1.0)
        assert sum(leg.share.value for leg in legs if leg.share) == pytest.approx(1.0)


@given(ENGINES)
def test_the_other_way_round_only_the_signs_change(logprobs: F32) -> None:
    one = split(*logprobs)
    trainer, reference, candidate = logprobs
    other = split(candidate, reference, trainer)
    assert other.whole.mean.value == pytest.approx(-one.whole.mean.value, abs=1e-12)
    assert other.already.mean.value == pytest.approx(-one.added.mean.value, abs=1e-12)
    assert other.already.rms.value == pytest.approx(one.added.rms.value)
    if one.added.share is not None and other.already.share is not None:
        assert other.already.share.value == pytest.approx(one.added.share.value)


def noisy(*errors: float, prompts: int = 400) -> list[F32]:
    """Engines with independent errors of these standard deviations."""
    source = np.random.default_rng(0)
    truth = -source.exponential(1.0, (prompts, 20)) - 2.0
    return [(truth + source.normal(0, error, truth.shape)).astype(np.float32) for error in errors]


def test_three_engines_that_err_alike_share_half_and_half() -> None:
    found = split(*noisy(0.1, 0.1, 0.1))
    assert found.already.share is not None
    assert found.already.share.value == pytest.approx(0.5, abs=0.03)
    assert found.already.share.ci_low is not None
    assert found.already.share.ci_high is not None
    assert found.already.share.ci_low < 0.5 < found.already.share.ci_high


@pytest.mark.parametrize(
    ("errors", "expected"), [((0.2, 0.0, 0.0), 1.0), ((0.0, 0.0, 0.2), 0.0), ((0.2, 0.0, 0.1), 0.8)]
)
def test_the_share_is_where_the_error_is(errors: tuple[float, ...], expected: float) -> None:
    found = split(*noisy(*errors))
    assert found.already.share is not None
    assert found.already.share.value == pytest.approx(expected, abs=0.02)


def test_tokens_that_one_engine_has_no_logprob_for_are_left_out_of_all_three() -> None:
    trainer, reference, candidate = noisy(0.1, 0.1, 0.1)
    reference[0, :5] = [np.nan, -np.inf, -9999.0, 3.0, np.inf]
    found = split(trainer, reference, candidate)
    assert found.tokens == trainer.size - 5
    assert found.already.mean.n == found.whole.mean.n == found.tokens


def test_equal_engines_have_no_share() -> None:
    [trainer] = noisy(0.1)
    found = split(trainer, trainer - np.float32(0.5), trainer)
    assert found.whole.share is None
    assert found.added.mean.value == pytest.approx(-0.5)


def test_chunks_of_later_clusters_are_added() -> None:
    engines = noisy(0.1, 0.2, 0.3, prompts=20)
    trainer, reference, candidate = engines
    halves = []
    for first, last in ((0, 10), (10, 20)):
        part = [each[first:last] for each in engines]
        number = np.arange(first, last, dtype=np.int32)
        halves.append(
            (
                replace(chunk(part[2], part[0], 10), cluster=number),
                replace(chunk(part[2], part[1], 10), cluster=number),
            )
        )
    whole = split(trainer, reference, candidate)
    parts = decompose(halves, "trainer", sampled_by="candidate", level=0.95)
    assert parts == whole


def test_nothing_usable_is_refused() -> None:
    nothing = np.full((8, 2), np.nan, dtype=np.float32)
    with pytest.raises(TraceMismatchError, match="no token has a usable logprob on all three"):
        split(nothing, nothing, nothing)
