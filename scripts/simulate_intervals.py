"""Simulate how often the printed intervals cover the truth, and how often a verdict is wrong.

    python scripts/simulate_intervals.py > scripts/simulated_intervals.md

Prints the tables that `make_reference.py` puts into docs/reference/metrics.md. The method and its
constants were chosen with other seeds. `tests/unit/test_coverage.py` runs the same generators with
fewer runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from parity_check.config.models import LOOKS
from parity_check.measure.gates import GateResult, judge_all, overall
from parity_check.measure.limits import PROFILES, Limit, choose_limits
from parity_check.measure.measure import measure
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.objectives import OBJECTIVES
from parity_check.measure.stats import (
    FEWEST_CLUSTERS,
    UNSEEN_CLUSTER,
    UNSEEN_TOKEN,
    Floats,
    effective_clusters,
    exact_interval,
    long_tailed_interval,
    share_interval,
    skewed_interval,
    variation_sums,
)
from parity_check.measure.worth import burst_trials

LEVEL = 0.95
NOISE = 0.05
TAIL = 2.5 * NOISE
METRICS = ("mean Δ", "k3", "tail share", "ESS")
Draw: TypeAlias = Callable[[np.random.Generator, int, int], "Cells"]
"""Draws `runs` of `clusters` each."""


@dataclass(frozen=True)
class Cells:
    """Sums of every cluster of many runs, all [runs, clusters]."""

    tokens: Floats
    delta: Floats
    k3: Floats
    tail: Floats
    ratio: Floats
    squared_ratio: Floats
    samples: Floats
    bursts: Floats

    def truth(self) -> dict[str, float]:
        """The ratios of sums over all runs."""
        whole = Cells(*(getattr(self, name).reshape(1, -1) for name in self.__dataclass_fields__))
        return {name: float(seen.value[0]) for name, seen in whole.seen().items()}

    def first(self, clusters: int) -> Cells:
        """The same runs when they had only so many clusters."""
        return Cells(*(getattr(self, name)[:, :clusters] for name in self.__dataclass_fields__))

    def seen(self, level: float = LEVEL) -> dict[str, Seen]:
        """What reports would print for the runs; ESS as 1 / ESS - 1, as it is judged."""
        n = self.tokens
        worth = burst_trials(n, n / self.samples, level)
        tokens, clusters = (
            exact_interval(0.0, trials, level)[1] for trials in (n.sum(axis=-1), worth)
        )
        allowed = {
            name: np.maximum(tokens * size, clusters * UNSEEN_CLUSTER.get(name, 0.0))
            for name, size in UNSEEN_TOKEN.items()
        }
        variation = variation_sums(n, self.ratio, self.squared_ratio)
        shares = (
            share_interval(self.tail, n, level, n.sum(axis=-1)),
            share_interval(self.bursts, self.samples, level, worth),
        )
        return {
            "mean Δ": Seen(_mean(self.delta, n), *skewed_interval(self.delta, n, level)),
            "k3": Seen(
                _mean(self.k3, n), *long_tailed_interval(self.k3, n, level), allowed["k3_kl"]
            ),
            "tail share": Seen(_mean(self.tail, n), *shares[0]),
            "ESS": Seen(
                _mean(variation, n),
                *long_tailed_interval(variation, n, level),
                allowed["ess"],
            ),
            "burst share": Seen(_mean(self.bursts, self.samples), *shares[1]),
        }

    def judged(self) -> NDArray[np.bool_]:
        """The runs with clusters enough for an interval."""
        judged: NDArray[np.bool_] = effective_clusters(self.tokens) >= FEWEST_CLUSTERS - 1e-9
        return judged


@dataclass(frozen=True)
class Seen:
    """One metric of many runs: its value, the ends of its interval, what unseen tokens add."""

    value: Floats
    low: Floats
    high: Floats
    unseen: Floats | float = 0.0

    def of(self, runs: NDArray[np.bool_]) -> Seen:
        """Only these runs."""
        parts = (self.value, self.low, self.high, self.unseen)
        return Seen(*(np.broadcast_to(part, runs.shape)[runs] for part in parts))


def _mean(sums: Floats, weights: Floats) -> Floats:
    mean: Floats = sums.sum(axis=-1) / weights.sum(axis=-1)
    return mean


def normal(
    rng: np.random.Generator, tokens: NDArray[np.int64], offset: Floats, noise: float
) -> Cells:
    """Tokens N(offset, noise²), their sums drawn at once; exponentials to second order in Δ."""
    n = tokens.astype(float)
    z = rng.normal(size=n.shape)
    rest = np.where(tokens > 1, rng.chisquare(np.maximum(tokens - 1, 1)), 0.0)
    own = noise * np.sqrt(n) * z
    delta = n * offset + own
    squares = n * offset**2 + 2 * offset * own + noise**2 * (z * z + rest)
    beyond = ndtr((-TAIL - offset) / noise) + ndtr((-TAIL + offset) / noise)
    return Cells(
        n, delta, squares / 2, rng.binomial(tokens, beyond).astype(float),
        n + delta + squares / 2, n + 2 * delta + 2 * squares, np.ones_like(n), np.zeros_like(n),
    )  # fmt: skip


def equal(rng: np.random.Generator, runs: int, clusters: int) -> Cells:
    """2 × 64 tokens a prompt, correlation within a prompt 0.3."""
    offset = NOISE * math.sqrt(0.3) * rng.normal(size=(runs, clusters))
    return normal(rng, np.full((runs, clusters), 128), offset, NOISE * math.sqrt(0.7))


def ragged(rng: np.random.Generator, runs: int, clusters: int) -> Cells:
    """1 to 4,000 tokens a prompt, evenly in their logarithm, correlation 0.3."""
    # About a quarter of such prompts is their effective number.
    shape = (runs, round(clusters / 0.2415))
    tokens = np.exp(rng.uniform(0.0, math.log(4001), shape)).astype(np.int64)
    offset = NOISE * math.sqrt(0.3) * rng.normal(size=shape)
    return normal(rng, tokens, offset, NOISE * math.sqrt(0.7))


def families(rng: np.random.Generator, runs: int, clusters: int) -> Cells:
    """Families of 8 prompts with a prefix in common (effect 0.2, the prompt's 0.1), as clusters."""
    shape = (runs, clusters, 8)
    offset = math.sqrt(0.2) * rng.normal(size=(runs, clusters, 1)) + math.sqrt(0.1) * rng.normal(
        size=shape
    )
    return _summed(normal(rng, np.full(shape, 128), NOISE * offset, NOISE * math.sqrt(0.7)))


def _summed(cells: Cells) -> Cells:
    return Cells(*(getattr(cells, name).sum(axis=-1) for name in cells.__dataclass_fields__))


def rare(rng: np.random.Generator, runs: int, clusters: int, noise: float = 0.005) -> Cells:
    """2 × 64 tokens a prompt: 99.9 % with this noise, 0.1 % off by 3 nats up or down."""
    shape = (runs, clusters)
    clean = normal(rng, np.full(shape, 128), np.zeros(shape), noise)
    up, down = (rng.binomial(128, 0.0005, shape).astype(float) for _ in "ud")
    high, low = math.exp(3.0), math.exp(-3.0)
    return replace(
        clean,
        delta=clean.delta + 3.0 * (up - down),
        k3=clean.k3 + (high - 4.0) * up + (low + 2.0) * down,
        tail=up + down,
        ratio=clean.ratio + (high - 1.0) * up + (low - 1.0) * down,
        squared_ratio=clean.squared_ratio + (high**2 - 1.0) * up + (low**2 - 1.0) * down,
    )


def identical_but_for_rare(rng: np.random.Generator, runs: int, clusters: int) -> Cells:
    """The same without noise: a sample without such a token is bit-identical."""
    return rare(rng, runs, clusters, noise=1e-30)


def bursts(
    rng: np.random.Generator, runs: int, clusters: int, share: float = 0.01, whole: bool = False
) -> Cells:
    """2 × 64 tokens a prompt; a `share` of the samples, or of the `whole` prompts, is N(0, 1)."""
    shape = (runs, clusters, 2)
    clean = normal(rng, np.full(shape, 64), np.zeros(shape), 0.005)
    off = rng.random((*shape[:2], 1) if whole else shape) < share
    off = np.broadcast_to(off, shape)
    delta = rng.normal(size=(int(off.sum()), 64))
    ratio = np.exp(delta)
    found = {name: getattr(clean, name).copy() for name in clean.__dataclass_fields__}
    for name, values in (
        ("delta", delta),
        ("k3", ratio - 1 - delta),
        ("tail", np.abs(delta) > 1),
        ("ratio", ratio),
        ("squared_ratio", ratio**2),
        ("bursts", np.full(delta.shape, 1 / 64)),
    ):
        found[name][off] = values.sum(axis=-1)
    return _summed(Cells(**found))


def whole_prompts(rng: np.random.Generator, runs: int, clusters: int) -> Cells:
    """The same, 1 % of the prompts with both samples."""
    return bursts(rng, runs, clusters, whole=True)


def mixture(degrees: int) -> Draw:
    """90 % normal and 10 % Student's t, an offset a sample and a prompt, 2 × 8 to 56 tokens."""

    def draw(rng: np.random.Generator, runs: int, clusters: int) -> Cells:
        lengths = rng.integers(8, 57, (runs, clusters, 2))
        ends = lengths.cumsum()
        tokens = int(ends[-1])
        heavy = rng.random(tokens) < 0.1
        noise = np.where(
            heavy, 0.05 * rng.standard_t(degrees, tokens), 0.01 * rng.normal(size=tokens)
        )
        offset = rng.normal(0, 2e-3, (runs, clusters, 1)) + rng.normal(0, 2e-3, lengths.shape)
        delta = noise + np.repeat(offset.ravel(), lengths.ravel())
        starts = np.concatenate([[0], ends[1:-1:2]])

        def summed(values: NDArray[np.floating]) -> Floats:
            sums: Floats = np.add.reduceat(values, starts).reshape(runs, clusters)
            return sums

        ratio = np.exp(delta)
        return Cells(
            lengths.sum(axis=2).astype(float), summed(delta), summed(ratio - 1 - delta),
            summed((np.abs(delta) > 0.03).astype(float)), summed(ratio), summed(ratio**2),
            np.full((runs, clusters), 2.0), np.zeros((runs, clusters)),
        )  # fmt: skip

    return draw


WITHOUT_VARIANCE = (mixture(6), mixture(4))
"""Under Student's t the mean of r² does not exist, and ESS has no truth."""
ROWS: Mapping[str, Draw] = {
    "2 × 64 tokens a prompt, correlation 0.3": equal,
    "1 to 4,000 tokens a prompt, correlation 0.3": ragged,
    "families of 8 prompts, clustered by family": families,
    "0.1 % of the tokens ± 3 nats": rare,
    "bit-identical but for 0.1 % ± 3 nats": identical_but_for_rare,
    "1 % of the samples off as a whole": bursts,
    "1 % of the prompts off as a whole": whole_prompts,
    "Student's t6 tails": WITHOUT_VARIANCE[0],
    "Student's t4 tails": WITHOUT_VARIANCE[1],
}

LOOKED_AT = {label: ROWS[label] for label in list(ROWS)[:6]}

IN_BURSTS = (bursts, whole_prompts)
"""Data whose events come together: the share of tokens in the tail is not promised."""


def promised(draw: Draw) -> tuple[str, ...]:
    """The metrics whose intervals are to hold for this data."""
    if draw in IN_BURSTS:
        return ("k3", "ESS", "burst share")
    if draw is identical_but_for_rare:
        # A mean has no allowance for tokens that no cluster shows, and here nothing else varies.
        return METRICS[1:]
    return METRICS[:-1] if draw in WITHOUT_VARIANCE else METRICS


@dataclass(frozen=True)
class Rates:
    """Of one metric, as shares of the runs with clusters enough.

    `covered` by the interval without what is allowed for unseen tokens, and `allowed` with it;
    called parity `at` a limit that is the truth and at `twice` the limit; called drift at `half`
    the limit.
    """

    covered: float
    allowed: float
    at: float
    twice: float
    half: float


def rates(draw: Draw, clusters: int, runs: int, seed: int) -> dict[str, Rates]:
    """Simulate one generator at one effective number of clusters, by metric."""
    rng = np.random.default_rng(seed)
    truth = draw(rng, 40, 2000).truth()
    cells = draw(rng, runs, clusters)
    judged = cells.judged()
    found = {}
    for name, each in cells.seen().items():
        seen, true = each.of(judged), truth[name]
        most = seen.high + seen.unseen
        wrong = [
            verdicts[which]
            for verdicts, which in zip(judgements(name, seen, true), (0, 0, 1), strict=True)
        ]
        covered = [(seen.low <= true) & (true <= end) for end in (seen.high, most)]
        found[name] = Rates(*(float(np.mean(each)) for each in (*covered, *wrong)))
    return found


def judgements(
    name: str, seen: Seen, true: float, spread: float | None = None
) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """(parity, drift) of every run: at the limit, at twice the limit, at half of it.

    Runs of mean Δ are moved: by a limit of two standard deviations (`spread`), by twice it, by half
    of it. For the other metrics the limit is the truth, half of it, and twice it.
    """
    most = seen.high + seen.unseen
    if name == "mean Δ":
        limit = 2.0 * (float(np.std(seen.value)) if spread is None else spread)
        return [
            (
                (np.abs(seen.low + by) <= limit) & (np.abs(most + by) <= limit),
                (seen.low + by > limit) | (most + by < -limit),
            )
            for by in (limit, 2 * limit, limit / 2)
        ]
    return [(most <= limit, seen.low > limit) for limit in (true, true / 2, 2 * true)]


@dataclass(frozen=True)
class LookRates:
    """Of one metric over all looks at runs that grow, as shares of the runs.

    Called parity `at` the limit and at `twice` the limit, called drift at `half` the limit.
    """

    at: float
    twice: float
    half: float


def look_rates(
    draw: Draw, clusters: int, runs: int, seed: int, correct: bool = True
) -> dict[str, LookRates]:
    """Runs of 1, 2, 4 and 8 times `clusters` prompts, judged until the first decision.

    With `correct`, each look is judged at the confidence that `num_prompts = "enough"` uses.
    """
    rng = np.random.default_rng(seed)
    truth = draw(rng, 40, 2000).truth()
    ends = [clusters * 2**look for look in range(LOOKS)]
    cells = draw(rng, runs, ends[-1])
    # A generator of unequal prompts draws more of them than their effective number.
    each = cells.tokens.shape[1] // ends[-1]
    looks = [cells.first(each * end) for end in ends]
    level = 1.0 - (1.0 - LEVEL) / LOOKS if correct else LEVEL
    printed = [look.seen(level) for look in looks]
    found = {}
    for name, true in truth.items():
        spread = float(np.std(printed[1][name].value))
        verdict = np.zeros((3, runs), dtype=np.int8)  # 0 open, 1 parity, 2 drift
        for look, seen in zip(looks, printed, strict=True):
            judged = look.judged()
            for row, (parity, drift) in enumerate(judgements(name, seen[name], true, spread)):
                here = np.where(parity, 1, np.where(drift, 2, 0)) * judged
                verdict[row] = np.where(verdict[row] == 0, here, verdict[row])
        at, twice, half = verdict
        shares = (at == 1, twice == 1, half == 2)
        found[name] = LookRates(*(float(np.mean(share)) for share in shares))
    return found


def chunk(
    delta: Floats, length: int | NDArray[np.int64], clusters: NDArray[np.int32], seed: int
) -> PairedChunk:
    """Samples of one length, or of these, with these Δ, tokens in order."""
    behaviour = -np.random.default_rng(seed).exponential(1.0, len(delta)).astype(np.float32) - 8.0
    return PairedChunk(
        behaviour, (behaviour + delta).astype(np.float32),
        np.concatenate([[0], np.cumsum(np.broadcast_to(length, len(clusters)))]), clusters,
        np.zeros_like(clusters),
    )  # fmt: skip


def rare_up(
    rng: np.random.Generator, tokens: int, size: float, k3: float, other: bool = False
) -> Floats:
    """Δ of clean tokens and of rare ones, `size` nats up, that carry this k3.

    As the `other` engine samples them, whose ratios are the inverse: e^size as many, as far down.
    """
    share = k3 / (math.expm1(size) - size)
    delta = 0.005 * rng.normal(size=tokens)
    off = rng.random(tokens) < share * (math.exp(size) if other else 1.0)
    return np.where(off, -size if other else size, delta)


PROMPTS_THAT_DECIDE = 2500
"""Of 2 × 64 tokens: enough for every gate of the standard profile to reach parity."""
METRICS_OF_BURSTS = {
    "burst_fraction": "share of samples with a burst",
    "burst_cluster_fraction": "share of prompts with a burst",
    "k3_kl": "k3",
    "tail_fraction": "tail fraction",
}


def unseen_parity(
    size: float, times: float, prompts: int, runs: int, seed: int, both: bool = False
) -> float:
    """How often every gate says parity while rare tokens put k3 at `times` its standard limit.

    `prompts` of 2 × 64 tokens, standard profile; one sampling direction is judged, or `both`.
    """
    rng = np.random.default_rng(seed)
    limits = choose_limits("standard", OBJECTIVES["grpo"])
    prompt = np.repeat(np.arange(prompts, dtype=np.int32), 2)
    called = 0
    for run in range(runs):
        results = [
            result
            for other in (False, True)[: 1 + both]
            for result in judge_all(
                measure(
                    [
                        chunk(
                            rare_up(rng, 128 * prompts, size, times * 1e-3, other), 64, prompt, run
                        )
                    ],
                    sampled_by="candidate" if other else "reference",
                ),
                limits,
            )
        ]
        called += overall(results) == "parity"
    return called / runs


def identical_parity(share: float, tokens: int, profile: str, runs: int, seed: int) -> float:
    """How often every gate says parity of engines that are bit-identical but for rare tokens.

    This `share` of the tokens is 3 nats up. One direction, samples of 64 tokens, two a prompt.
    """
    rng = np.random.default_rng(seed)
    limits = choose_limits(profile, OBJECTIVES["grpo"])
    prompt = np.repeat(np.arange(tokens // 128, dtype=np.int32), 2)
    called = 0
    for run in range(runs):
        delta = np.where(rng.random(64 * len(prompt)) < share, 3.0, 0.0)
        seen = measure([chunk(delta, 64, prompt, run)], sampled_by="reference")
        called += overall(judge_all(seen, limits)) == "parity"
    return called / runs


def burst_parity(
    metric: str, times: float, shape: tuple[int, int], of: int, runs: int, seed: int
) -> float:
    """How often every gate says parity while bursts put a metric at `times` its standard limit.

    `shape` is prompts and samples each, of 64 tokens. Bursts are N(0, 1), of `of` samples at a
    time: 1, or all of a prompt. One direction.
    """
    rng = np.random.default_rng(seed)
    limits = choose_limits("standard", OBJECTIVES["grpo"])
    [limit] = [each.value for each in limits if each.metric == metric]
    of_a_burst = {"tail_fraction": 2 * ndtr(-1.0), "k3_kl": math.expm1(0.5)}
    share = times * limit / of_a_burst.get(metric, 1.0)
    prompts, each = shape
    prompt = np.repeat(np.arange(prompts, dtype=np.int32), each)
    called = 0
    for run in range(runs):
        off = np.repeat(rng.random(prompts * each // of) < share, 64 * of)
        delta = np.where(off, 1.0, 0.005) * rng.normal(size=len(off))
        seen = measure([chunk(delta, 64, prompt, run)], sampled_by="reference")
        called += overall(judge_all(seen, limits)) == "parity"
    return called / runs


def large_burst_parity(mean: float, times: float, both: bool, runs: int, seed: int) -> float:
    """The same for k3 and whole prompts whose Δ is N(`mean`, |`mean`| / 4), one sample each.

    One direction, or `both`: each engine fails by itself.
    """
    rng = np.random.default_rng(seed)
    limits = choose_limits("standard", OBJECTIVES["grpo"])
    many = mean + abs(mean) / 4 * rng.normal(size=10**6)
    share = times * 1e-3 / float((np.expm1(many) - many).mean())
    prompt = np.arange(PROMPTS_THAT_DECIDE, dtype=np.int32)
    called = 0
    for run in range(runs):
        results: list[GateResult] = []
        for side in ("reference", "candidate")[: 1 + both]:
            off = np.repeat(rng.random(len(prompt)) < share, 64)
            noise = rng.normal(size=len(off))
            delta = np.where(off, mean + abs(mean) / 4 * noise, 0.005 * noise)
            seen = measure([chunk(delta, 64, prompt, run)], sampled_by=side)
            results.extend(judge_all(seen, limits))
        called += overall(results) == "parity"
    return called / runs


@dataclass(frozen=True)
class Unequal:
    """Samples of two lengths, one a prompt: how many there are, and of how many tokens each."""

    long: tuple[int, int]
    short: tuple[int, int]

    def lengths(self) -> NDArray[np.int64]:
        """Of every sample, the long ones first."""
        return np.concatenate([np.full(*each) for each in (self.long, self.short)])

    def __str__(self) -> str:
        (long, of_long), (short, of_short) = self.long, self.short
        return f"{long:,} samples of {of_long} and {short:,} of {of_short} tokens"


UNEQUAL = (
    Unequal((80, 300), (2_800, 20)),
    Unequal((130, 200), (1_300, 20)),
    Unequal((240, 400), (480, 20)),
)
"""Enough for the relaxed profile; the long ones have 30, 50 and 91 % of the tokens."""


def long_samples_parity(samples: Unequal, times: float, runs: int, seed: int) -> float:
    """How often every gate says parity while only long samples fail, k3 at `times` its limit.

    Relaxed profile, one direction, N(0, 1) noise in the samples that fail.
    """
    rng = np.random.default_rng(seed)
    limits = choose_limits("relaxed", OBJECTIVES["grpo"])
    [limit] = [each.value for each in limits if each.metric == "k3_kl"]
    lengths = samples.lengths()
    prompt = np.arange(len(lengths), dtype=np.int32)
    long = prompt < samples.long[0]
    share = times * limit / math.expm1(0.5) * lengths.sum() / lengths[long].sum()
    called = 0
    for run in range(runs):
        off = np.repeat(long & (rng.random(len(prompt)) < share), lengths)
        delta = np.where(off, 1.0, 0.005) * rng.normal(size=len(off))
        seen = measure([chunk(delta, lengths, prompt, run)], sampled_by="reference")
        called += overall(judge_all(seen, limits)) == "parity"
    return called / runs


def short_parity(times: float, runs: int, seed: int, allowance: bool = True) -> float:
    """How often every gate says parity while tokens 3 nats up put 1 / ESS - 1 at `times` its limit.

    One direction of 2,460 prompts of 27 tokens: enough for every other gate of the standard
    profile, and half of what ESS asks for. Without its `allowance`, ESS is judged as it is seen.
    """
    rng = np.random.default_rng(seed)
    limits = choose_limits("standard", OBJECTIVES["grpo"])
    share = times * (1.0 / 0.99 - 1.0) / UNSEEN_TOKEN["ess"]
    prompt = np.arange(2460, dtype=np.int32)
    kept, UNSEEN_TOKEN["ess"] = UNSEEN_TOKEN["ess"], UNSEEN_TOKEN["ess"] if allowance else 0.0
    called = 0
    for run in range(runs):
        delta = 0.005 * rng.normal(size=27 * len(prompt))
        delta[rng.random(len(delta)) < share] = 3.0
        seen = measure([chunk(delta, 27, prompt, run)], sampled_by="reference")
        called += overall(judge_all(seen, limits)) == "parity"
    UNSEEN_TOKEN["ess"] = kept
    return called / runs


def family_wise(prompts: int, runs: int, seed: int, scale: float = 1.0) -> float:
    """How often a run of both directions is called drift with every limit at `scale` × the truth.

    Tokens have heavy tails and offsets of their prompts, so that no metric is 0.
    """
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts, dtype=np.int32), 2)

    def direction(size: int) -> Floats:
        offset = np.repeat(0.02 * rng.normal(size=size), 128)
        heavy = rng.random(128 * size) < 0.02
        return offset + 0.003 + np.where(heavy, 0.6, 0.03) * rng.normal(size=128 * size)

    many = np.repeat(np.arange(8192, dtype=np.int32), 2)
    truth = measure([chunk(direction(8192), 64, many, 0)], sampled_by="reference")
    limits = [
        replace(limit, value=_scaled(limit, truth[limit.metric].value, scale))
        for limit in choose_limits("standard", OBJECTIVES["grpo"])
        if limit.metric not in ("burst_fraction", "impossible_fraction")
    ]
    called = 0
    for run in range(runs):
        results = [
            result
            for role in ("reference", "candidate")
            for result in judge_all(
                measure([chunk(direction(prompts), 64, prompt, run)], sampled_by=role), limits
            )
        ]
        called += overall(results) == "drift"
    return called / runs


@dataclass(frozen=True)
class Noise:
    """Δ of 2 × 64 tokens a prompt, nats: a bias, offsets of prompts, tokens with wider noise."""

    bias: float
    offset: float
    noise: float
    wide: float = 0.0
    wide_share: float = 0.0

    def delta(self, rng: np.random.Generator, prompts: int) -> Floats:
        size = np.where(rng.random(128 * prompts) < self.wide_share, self.wide, self.noise)
        offset = np.repeat(self.offset * rng.normal(size=prompts), 128)
        return self.bias + offset + size * rng.normal(size=128 * prompts)


UNSETTLED: Mapping[str, Noise] = {
    "no drift": Noise(0.0, 3e-3, 0.03),
    "half the limit on mean Δ": Noise(5e-4, 6e-3, 0.03),
    "a third of it, heavy tails": Noise(3e-4, 0.01, 0.03, 0.2, 5e-3),
}
MOST_PROMPTS = 20_000


def settled(noise: Noise, prompts: int, runs: int, seed: int) -> float:
    """How often new runs, with as many prompts as an inconclusive run asks for, settle every gate.

    Standard profile, one direction. Runs that ask for more than MOST_PROMPTS are left out.
    """
    rng = np.random.default_rng(seed)
    limits = choose_limits("standard", OBJECTIVES["grpo"])

    def judged(size: int, run: int) -> tuple[GateResult, ...]:
        prompt = np.repeat(np.arange(size, dtype=np.int32), 2)
        tokens = chunk(noise.delta(rng, size), 64, prompt, run)
        return judge_all(measure([tokens], sampled_by="reference"), limits)

    asked = done = 0
    for run in range(runs):
        needed = [
            gate.prompts_needed or MOST_PROMPTS + 1
            for gate in judged(prompts, run)
            if gate.verdict == "inconclusive"
        ]
        if max(needed) <= MOST_PROMPTS:
            asked += 1
            done += overall(judged(max(needed), run)) != "inconclusive"
    return done / asked


def _scaled(limit: Limit, truth: float, scale: float) -> float:
    if limit.kind == "lower":
        return 1.0 - scale * (1.0 - truth)
    return scale * abs(truth - limit.target)


def tables(runs: int, seed: int) -> Iterator[str]:
    """The Markdown of the documentation."""
    yield f"| data | effective prompts | {' | '.join(METRICS)} | burst share |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    errors = []
    for label, draw in ROWS.items():
        for clusters in (12, 24, 96):
            found = rates(draw, clusters, runs, seed)
            cells = [
                "–" if name == "ESS" and draw in WITHOUT_VARIANCE else _covered(found[name])
                for name in METRICS
            ]
            cells.append(_covered(found["burst share"]) if draw in IN_BURSTS else "–")
            yield f"| {label} | {clusters} | {' | '.join(cells)} |"
            kept = promised(draw)
            worst = [
                max(getattr(found[name], error) for name in kept)
                for error in ("at", "twice", "half")
            ]
            errors.append(f"| {label} | {clusters} | {' | '.join(map(_percent, worst))} |")
    yield ""
    yield "| data | effective prompts | parity at the limit | at twice it | drift at half of it |"
    yield "|---|---:|---:|---:|---:|"
    yield from errors
    yield ""
    yield (
        "| data, judged at up to 4 looks of 12, 24, 48 and 96 | parity at the limit | at twice it "
        "| drift at half of it |"
    )
    yield "|---|---:|---:|---:|"
    for correct in (True, False):
        for label, draw in LOOKED_AT.items():
            found = look_rates(draw, 12, runs, seed, correct)
            kept = promised(draw)
            worst = [max(getattr(found[n], e) for n in kept) for e in ("at", "twice", "half")]
            told = label if correct else f"{label}, each look at 95 %"
            yield f"| {told} | {' | '.join(map(_percent, worst))} |"
    yield ""
    few = max(20, runs // 20)
    yield "| every gate of a run | verdict | share of runs |"
    yield "|---|---|---:|"
    for size, times, both in (
        (3.0, 0.0, False), (3.0, 2.0, False), (6.0, 5.0, False), (6.0, 5.0, True),
    ):  # fmt: skip
        share = unseen_parity(size, times, PROMPTS_THAT_DECIDE, few, seed, both)
        what = f"k3 at {times:g} × its limit by tokens {size:g} nats up" if times else "clean"
        where = "both engines sample" if both else "one engine samples"
        yield f"| {what}, {PROMPTS_THAT_DECIDE:,} prompts, {where} | parity | {_percent(share)} |"
    for profile, tokens, times in (
        ("strict", 1024, 2.0), ("standard", 12_800, 2.0), ("standard", 320_000, 2.0),
        ("standard", 320_000, 0.0),
    ):  # fmt: skip
        limit = PROFILES[profile]["tail_fraction"][0]
        called = identical_parity(times * limit, tokens, profile, 4 * few, seed)
        rest = f"but for tokens at {times:g} × the tail limit" if times else "without exception"
        what = f"bit-identical {rest}, {profile}, {tokens:,} tokens, one engine samples"
        yield f"| {what} | parity | {_percent(called)} |"
    for metric, times, (prompts, each), of in (
        ("burst_fraction", 0.0, (2500, 1), 1),
        ("burst_fraction", 1.0, (2500, 1), 1), ("burst_fraction", 2.0, (2500, 1), 1),
        ("burst_cluster_fraction", 1.0, (2500, 2), 2),
        ("burst_cluster_fraction", 2.0, (2500, 2), 2),
        ("k3_kl", 1.0, (2500, 1), 1), ("k3_kl", 2.0, (2500, 1), 1),
        ("k3_kl", 1.0, (2500, 2), 2), ("k3_kl", 2.0, (2500, 2), 2),
        ("k3_kl", 2.0, (95, 26), 1), ("k3_kl", 2.0, (95, 26), 26),
        ("tail_fraction", 2.0, (2500, 1), 1), ("tail_fraction", 2.0, (2500, 2), 2),
        ("tail_fraction", 2.0, (95, 26), 26),
    ):  # fmt: skip
        called = burst_parity(metric, times, (prompts, each), of, 4 * few, seed)
        what = "samples" if of == 1 else "prompts"
        told = f"{METRICS_OF_BURSTS[metric]} at {times:g} × its limit by whole {what} off"
        size = f"{prompts:,} prompts × {each} × 64 tokens, one engine samples"
        yield f"| {told if times else 'clean'}, {size} | parity | {_percent(called)} |"
    for mean in (-3.0, -8.0):
        for both in (False, True):
            called = large_burst_parity(mean, 2.0, both, 4 * few, seed)
            who = "both engines sample" if both else "one engine samples"
            told = f"k3 at 2 × its limit by whole prompts off with a mean Δ of {mean:g}"
            size = f"{PROMPTS_THAT_DECIDE:,} prompts × 1 × 64 tokens"
            yield f"| {told}, {size}, {who} | parity | {_percent(called)} |"
    for samples in UNEQUAL:
        for times in (0.0, 1.0, 2.0):
            called = long_samples_parity(samples, times, 4 * few, seed)
            told = f"k3 at {times:g} × its limit by some of the long ones" if times else "clean"
            size = f"relaxed, {samples}, one engine samples"
            yield f"| {told}, {size} | parity | {_percent(called)} |"
    for times in (0.0, 1.0, 2.0):
        for allowance in (False, True):
            share = short_parity(times, 4 * few, seed, allowance)
            what = f"1 / ESS - 1 at {times:g} × its limit" if times else "clean"
            how = "with" if allowance else "without"
            told = f"{what}, 66,000 tokens, one engine samples, ESS {how} its allowance"
            yield f"| {told} | parity | {_percent(share)} |"
    for scale in (1.0, 2.0):
        share = family_wise(96, few, seed, scale)
        told = "exactly at" if scale == 1.0 else "at half of"
        yield f"| {told} the limit of all 12 gates, 96 prompts | drift | {_percent(share)} |"
    for what, noise in UNSETTLED.items():
        share = settled(noise, 96, 2 * few, seed)
        told = f"{what}, as many prompts as a first run of 96 asks for"
        yield f"| {told} | parity or drift | {_percent(share)} |"


def _covered(found: Rates) -> str:
    if found.allowed - found.covered < 5e-4:
        return _percent(found.covered)
    return f"{_percent(found.covered)} ({_percent(found.allowed)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=20261126)
    options = parser.parse_args()
    for line in tables(options.runs, options.seed):
        print(line, flush=True)


if __name__ == "__main__":
    main()
