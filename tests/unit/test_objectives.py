"""Clip counts against a slow reference written from the frameworks' published definitions."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parity_check.errors import ConfigError
from parity_check.measure.measure import measure
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.objectives import OBJECTIVES, choose_objective

POSITIVE = 0.3  # share of positive advantages: not a half, so that the sides cannot be confused


def samples(seed: int, noise: float, bias: float = 0.0) -> list[list[tuple[float, float]]]:
    """Ragged samples of (behaviour, evaluating) float32 logprobs."""
    rng = np.random.default_rng(seed)
    made = []
    for length in rng.integers(0, 60, 80):
        behaviour = -rng.exponential(1.0, length) - 0.01
        moved = -np.abs(behaviour + bias + noise * rng.standard_t(3, length)) - 1e-3
        made.append(
            list(
                zip(
                    behaviour.astype(np.float32).tolist(),
                    moved.astype(np.float32).tolist(),
                    strict=True,
                )
            )
        )
    return made


def paired(made: list[list[tuple[float, float]]]) -> PairedChunk:
    flat = np.array([pair for sample in made for pair in sample], np.float32).reshape(-1, 2)
    lengths = [len(sample) for sample in made]
    cluster = (np.arange(len(made)) // 4).astype(np.int32)
    return PairedChunk(
        flat[:, 0].copy(), flat[:, 1].copy(), np.r_[0, np.cumsum(lengths)], cluster, cluster
    )


# --- The reference: each framework's line, for one ratio and one advantage -------------------


def ppo(low: float, high: float) -> Callable[[float, int], bool]:
    """verl, slime, TRL: pg_losses2 > pg_losses1."""

    def clipped(ratio: float, advantage: int) -> bool:
        return -advantage * min(max(ratio, low), high) > -advantage * ratio

    return clipped


def band(low: float, high: float) -> Callable[[float, int], bool]:
    """PipelineRL, verl and slime CISPO: clamped != ratio. IcePop, masks: not low <= r <= high."""

    def outside(ratio: float, _advantage: int) -> bool:
        return min(max(ratio, low), high) != ratio

    return outside


def dual_clip(ratio: float, advantage: int) -> bool:
    """verl pg_clipfrac_lower: max(loss1, loss2) > loss3, times (advantage < 0); c = 3."""
    losses = -advantage * ratio, -advantage * min(max(ratio, 0.8), 1.2)
    return max(losses) > -advantage * 3.0 and advantage < 0


def cispo_trl(ratio: float, advantage: int) -> bool:
    """TRL: (coef_1 > epsilon_high) & (advantages > 0)."""
    return ratio > 5.0 and advantage > 0


def geo_mean(ratio: float, advantage: int) -> bool:
    """verl geo_mean pg_clipfrac: (kl != clamp(kl, -eps, eps)) * (advantages > 0)."""
    log = math.log(ratio)
    return log != min(max(log, -0.4), 0.4) and advantage > 0


def two_sided(ratio: float, advantage: int) -> bool:
    """TRL: coef_1 = clamp(coef_1, max=delta), where the advantage leaves it the smaller term."""
    return ratio > 4.0 and advantage < 0


def above(cap: float) -> Callable[[float, int], bool]:
    """TIS: clamp(max=cap) != w. TRL sequence_mask: w > clip_max."""
    return lambda ratio, _advantage: ratio > cap


# name: (the line, the ratio of a sample's tokens, the weighting)
REFERENCE: dict[str, tuple[Callable[[float, int], bool], str, str]] = {
    "ppo": (ppo(0.8, 1.2), "token", "token"),
    "grpo": (ppo(0.8, 1.2), "token", "token"),
    "grpo-slime": (ppo(0.8, 1.2), "token", "sequence"),
    "ppo-pipelinerl": (band(0.98, 1.02), "token", "sequence"),
    "dapo": (ppo(0.8, 1.28), "token", "token"),
    "dual-clip": (dual_clip, "token", "token"),
    "gspo": (ppo(1 - 3e-4, 1 + 4e-4), "mean", "sequence"),
    "gspo-verl": (ppo(1 - 3e-4, 1 + 4e-4), "mean", "token"),
    "gspo-pipelinerl": (band(1 - 3e-3, 1 + 4e-3), "mean", "sequence"),
    "reinforce-pipelinerl": (above(1.02), "token", "sequence"),
    "grpo-trl": (ppo(0.8, 1.2), "token", "token"),
    "gspo-trl": (ppo(1 - 3e-4, 1 + 4e-4), "mean", "sequence"),
    "delta-trl": (two_sided, "token", "token"),
    "token-mask-trl": (above(3.0), "token", "token"),
    "tis-sequence-trl": (above(3.0), "sum", "sequence"),
    "tis-openrlhf": (band(0.5, 5.0), "token", "token"),
    "cispo": (band(0.0, 6.0), "token", "token"),
    "cispo-trl": (cispo_trl, "token", "token"),
    "gmpo": (geo_mean, "token", "token"),
    "tis-token": (above(2.0), "token", "token"),
    "tis-sequence": (above(2.0), "sum", "sequence"),
    "mis": (above(3.0), "sum", "sequence"),
    "icepop": (band(0.5, 5.0), "token", "token"),
    "geometric-mask": (band(1 / 1.001, 1 / 0.999), "mean", "sequence"),
}


def slow_share(
    name: str, made: list[list[tuple[float, float]]], advantage: int
) -> tuple[float, int]:
    """Numerator and denominator of the framework's number when every advantage has this sign."""
    clipped, kind, weighting = REFERENCE[name]
    numerator, denominator = 0.0, 0
    for sample in made:
        deltas = [evaluating - behaviour for behaviour, evaluating in sample]
        if not deltas:
            continue
        if kind == "token":
            hits = sum(clipped(math.exp(delta), advantage) for delta in deltas)
        else:
            log = math.fsum(deltas) / (len(deltas) if kind == "mean" else 1)
            hits = len(deltas) * clipped(math.exp(log), advantage)
        if weighting == "token":
            numerator, denominator = numerator + hits, denominator + len(deltas)
        else:
            numerator, denominator = numerator + hits / len(deltas), denominator + 1
    return numerator, denominator


@pytest.mark.parametrize(("noise", "bias"), [(0.01, 0.0), (0.3, 0.0), (1.5, 0.4)])
def test_every_objective_is_counted_as_its_framework_counts(noise: float, bias: float) -> None:
    made = samples(1, noise, bias)
    measured = measure([paired(made)], sampled_by="reference", positive_share=POSITIVE)
    clips = {clip.objective.name: clip for clip in measured.clips}
    assert set(clips) == set(OBJECTIVES) >= set(REFERENCE)
    for name in REFERENCE:
        clip = clips[name]
        positive, denominator = slow_share(name, made, 1)
        negative, _ = slow_share(name, made, -1)
        expected = POSITIVE * positive + (1 - POSITIVE) * negative
        assert clip.counted.n == denominator, name
        assert clip.counted.value * denominator == pytest.approx(expected, abs=1e-6), name


def test_the_random_data_exercises_every_counter() -> None:
    seen = set()
    for noise, bias in ((0.01, 0.0), (0.3, 0.0), (1.5, 0.4)):
        made = samples(1, noise, bias)
        seen |= {
            name
            for name in REFERENCE
            if sum(slow_share(name, made, sign)[0] for sign in (1, -1)) > 0
        }
    assert seen == set(REFERENCE)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_band_low_high_and_active_hang_together(name: str) -> None:
    measured = measure([paired(samples(2, 0.5))], sampled_by="reference", positive_share=POSITIVE)
    (clip,) = [clip for clip in measured.clips if clip.objective.name == name]
    both = clip.low.value + clip.high.value
    if clip.objective.level == "sequence-extreme":  # a sequence may be beyond both edges
        assert max(clip.low.value, clip.high.value) <= clip.band.value <= both
    else:
        assert clip.band.value == pytest.approx(both)
    assert clip.active.value == pytest.approx(
        POSITIVE * clip.high.value + (1 - POSITIVE) * clip.low.value
    )
    assert clip.counted.value <= clip.band.value + 1e-12


def test_a_ratio_exactly_on_the_edge_is_not_clipped() -> None:
    """Log edges and Δ that floats hold exactly: ±0.5 for GMPO, and a ratio of 1 at a cap of 1."""
    made = [[(-1.0, -0.5), (-1.0, -1.5), (-1.0, -1.0)] for _ in range(8)]
    gmpo = choose_objective("gmpo", 0.5, 0.5)
    clip = measure([paired(made)], sampled_by="r", objective=gmpo)["clip_fraction"]
    assert clip.value == 0.0
    capped = choose_objective("tis-token", None, 1.0)
    assert measure([paired(made)], sampled_by="r", objective=capped)["clip_fraction"].value == (
        pytest.approx(1 / 3)
    )


def test_edges_below_one_count_unchanged_tokens() -> None:
    made = [[(-1.0, -1.0), (-1.0, -2.0)] for _ in range(8)]
    strict = choose_objective("tis-token", None, 0.5)
    measured = measure([paired(made)], sampled_by="r", objective=strict)
    assert measured["clip_fraction"].value == 0.5


def test_sequence_and_token_weighting_differ_when_lengths_do() -> None:
    made = [[(-1.0, -0.9)] * 50 if k % 2 else [(-1.0, -1.0)] * 10 for k in range(16)]
    shares = {
        clip.objective.name: clip.band.value
        for clip in measure([paired(made)], sampled_by="r").clips
    }
    assert shares["gspo"] == 0.5
    assert shares["gspo-verl"] == pytest.approx(50 / 60)
    assert shares["ppo-pipelinerl"] == 0.5


def test_bias_fills_gspo_with_length_and_noise_empties_it() -> None:
    rng = np.random.default_rng(3)
    noisy, biased = [], []
    for k in range(200):
        length = 32 if k % 2 else 2048
        base = np.full(length, -1.0)
        noise = 0.002 * rng.normal(size=length)
        noisy.append(list(zip(base, base + noise, strict=True)))
        biased.append(list(zip(base, base + noise + 6e-4, strict=True)))
    shares = {}
    for name, made in (("noise", noisy), ("bias", biased)):
        by_length = measure([paired(made)], sampled_by="r").clips_by_length
        shares[name] = [clip.band.value for _, clip in by_length]
    assert shares["noise"][0] > shares["noise"][1]
    assert shares["bias"][0] < shares["bias"][1]


def test_epsilon_is_a_distance_for_clips_and_an_edge_for_caps() -> None:
    gspo = choose_objective("gspo", 2e-2, 3e-2)
    assert (gspo.low, gspo.high) == (0.98, 1.03)
    assert gspo.source.startswith("config")
    icepop = choose_objective("icepop", 0.25, 4.0)
    assert (icepop.low, icepop.high) == (0.25, 4.0)
    assert choose_objective("cispo-trl", None, 3.0).high == 3.0
    assert choose_objective("gmpo", 0.2, 0.3).log_edges() == (-0.2, 0.3)
    dppo = choose_objective("dppo", 0.1, 0.3)
    assert (dppo.low, dppo.high, dppo.log_edges()) == (-0.1, 0.3, (-math.inf, math.inf))
    assert choose_objective("geometric-mask", 0.5, 4.0).log_edges() == pytest.approx(
        (-math.log(4.0), math.log(2.0))
    )


@given(st.floats(1e-6, 8.0))
def test_edges_of_a_divergence_are_where_it_has_that_value(value: float) -> None:
    for name, divergence in (
        ("rs-token-k2", lambda x: x * x / 2),
        ("rs-token-k3", lambda x: math.expm1(x) - x),
    ):
        low, high = choose_objective(name, None, value).log_edges()
        assert low < 0.0 < high
        assert (divergence(low), divergence(high)) == pytest.approx((value, value), rel=1e-4)


def test_without_an_epsilon_the_row_keeps_its_source() -> None:
    assert choose_objective("dapo") is OBJECTIVES["dapo"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("gsop",), "unknown objective 'gsop'", "did you mean gspo?"),
        (("zzz",), "unknown objective 'zzz'", "expected one of: ppo"),
        (("ppo", 0.0), "epsilon_low: must be > 0", None),
        (("ppo", None, math.nan), "epsilon_high: must be > 0", None),
        (("mis", 0.5), "mis has no low edge", None),
        (("icepop", 7.0), "is empty", None),
    ],
)
def test_bad_objectives_are_refused(arguments: tuple, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        choose_objective(*arguments)
    assert hint is None or str(caught.value.hint).startswith(hint)


def test_every_row_names_its_counter_and_source() -> None:
    for row in OBJECTIVES.values():
        fields = dataclasses.asdict(row)
        assert all(fields[name] for name in ("label", "counters", "source", "sentence")), row.name
        low, high = row.edges()
        assert low < 0 < high, row.name
        assert row.edges_in_words()
