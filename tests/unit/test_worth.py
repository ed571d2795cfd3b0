"""What samples and clusters of unequal length are worth against bursts that nobody saw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.measure import stats
from parity_check.measure.worth import SMALL_PART, Worth, burst_trials, worth


def test_equal_samples_are_worth_as_many_as_there_are() -> None:
    assert burst_trials(np.full(997, 64.0), np.full(997, 64.0), 0.95) == 997.0
    # Clusters of unequal numbers of equal samples: (Σn)² / Σn².
    sizes = np.array([128.0, 64.0, 64.0, 512.0])
    assert burst_trials(sizes, np.full(4, 64.0), 0.95) == stats.effective_clusters(sizes)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.sampled_from([0.9, 0.95, 0.9875]))
def test_what_stays_unseen_is_most_in_the_worst_of_the_longest(
    lengths: list[int], level: float
) -> None:
    """Every set of the longest samples is tried, by itself."""
    tail, worst = (1 - level) / 2, 0.0
    for least in lengths:
        longest = [each for each in lengths if each >= least]
        worth = sum(longest) ** 2 / sum(each**2 for each in longest)
        worst = max(worst, sum(longest) / sum(lengths) * (1 - tail ** (1 / worth)))
    sizes = np.array(lengths, float)
    trials = burst_trials(sizes, sizes, level)
    assert stats.unseen_share(float(trials), level) == pytest.approx(worst)
    many = burst_trials(np.stack([sizes, sizes[::-1]]), np.stack([sizes, sizes[::-1]]), level)
    assert many.tolist() == pytest.approx([float(trials)] * 2)


def test_further_samples_are_worth_their_share_of_the_longest() -> None:
    """In the end, all tokens over the longest sample: a fault of those alone is found last."""
    lengths = np.random.default_rng(2).integers(1, 400, 300).astype(float)
    lengths[:5] = 400.0
    found = worth(lengths, lengths, np.ones(300), np.ones(300), 0.95)
    assert found.lasting_samples == pytest.approx(lengths.sum() / 400, rel=0.01)
    assert found.lasting_samples < found.samples < 300
    equal = worth(np.full(9, 7.0), np.full(3, 21.0), np.full(3, 3.0), np.ones(3), 0.95)
    assert equal == Worth(9.0, 3.0, 9.0, 3.0)


@pytest.mark.parametrize(
    ("large", "prompts", "singles", "share"), [(24, 64, 3584, 0.30), (4, 8, 528, 0.057)]
)
def test_large_clusters_may_be_off_alone_unless_they_hold_little(
    large: int, prompts: int, singles: int, share: float
) -> None:
    """Equal samples, one of each prompt; the clusters are families of prompts, and single ones."""
    of = np.concatenate([np.full(large, float(prompts)), np.ones(singles)])
    tokens = 14.0 * of
    assert tokens[:large].sum() / tokens.sum() == pytest.approx(share, abs=0.005)
    found = worth(np.full(int(of.sum()), 14.0), tokens, of, of, 0.95)
    unseen = stats.unseen_share(found.clusters, 0.95)
    of_large = share * stats.unseen_share(float(large), 0.95)
    if share > SMALL_PART:
        assert unseen == pytest.approx(of_large, rel=0.1)
    else:
        assert unseen < of_large / 3
        assert found.clusters == pytest.approx(stats.effective_clusters(tokens))
