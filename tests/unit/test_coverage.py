"""Do the printed intervals cover the truth as often as they say? Seeded simulations.

Tokens are a mixture of normal and t4 noise with an offset of their own for each sample and each
prompt, samples have unequal lengths, two to a prompt. Run with `-s` to see the table.
"""

import numpy as np
import pytest

from parity_check.gates import Limit, judge
from parity_check.stats import Estimate, effective_sample_size, mean_estimate

pytestmark = pytest.mark.slow

SIMULATIONS = 2000
CLUSTERS = (16, 64, 256)
LIMIT = 1e-3
LABELS = {"sampled_by": "reference", "level": 0.95}


def simulate(rng: np.random.Generator, clusters: int, bias: float) -> dict[str, np.ndarray]:
    """Per-cluster sums of one run."""
    lengths = rng.integers(8, 57, (clusters, 2))
    ends = lengths.cumsum()
    tokens = int(ends[-1])
    heavy = rng.random(tokens) < 0.1
    noise = np.where(heavy, 0.05 * rng.standard_t(4, tokens), 0.01 * rng.normal(size=tokens))
    offset = rng.normal(0, 2e-3, (clusters, 1)) + rng.normal(0, 2e-3, (clusters, 2))
    delta = bias + noise + np.repeat(offset.ravel(), lengths.ravel())
    starts = np.concatenate([[0], ends[1:-1:2]])
    return {
        "n": lengths.sum(axis=1).astype(float),
        "mean Δ": np.add.reduceat(delta, starts),
        "mean Δ²": np.add.reduceat(delta**2, starts),
        "|Δ| > 0.03": np.add.reduceat((np.abs(delta) > 0.03).astype(float), starts),
    }


def covers(estimate: Estimate, truth: float) -> bool:
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    return estimate.ci_low <= truth <= estimate.ci_high


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(20261121)
    truths = {name: 0.0 for name in ("mean Δ", "mean Δ²", "|Δ| > 0.03")}
    large = [simulate(rng, 20_000, 0.0) for _ in range(20)]
    tokens = sum(run["n"].sum() for run in large)
    for name in ("mean Δ²", "|Δ| > 0.03"):
        truths[name] = sum(run[name].sum() for run in large) / tokens
    print("\nclusters  " + "  ".join(f"{name:>12}" for name in truths) + "  false parity")
    for clusters in CLUSTERS:
        hits, parity = dict.fromkeys(truths, 0), 0
        for _ in range(SIMULATIONS):
            run = simulate(rng, clusters, 0.0)
            for name, truth in truths.items():
                hits[name] += covers(
                    mean_estimate(name, "", run[name], run["n"], **LABELS), truth
                )
            # At the limit itself, parity is wrong.
            shifted = run["mean Δ"] + LIMIT * run["n"]
            estimate = mean_estimate("mean_log_ratio", "nats", shifted, run["n"], **LABELS)
            limit = Limit("mean_log_ratio", LIMIT, "two_sided", "test")
            parity += judge(estimate, limit).verdict == "parity"
        shares = {name: count / SIMULATIONS for name, count in hits.items()}
        print(
            f"{clusters:8d}  "
            + "  ".join(f"{share:12.1%}" for share in shares.values())
            + f"  {parity / SIMULATIONS:12.1%}"
        )
        assert 0.93 <= shares["mean Δ"] <= 0.97
        assert parity / SIMULATIONS <= 0.035
