"""Rules of the inference path: same meaning, different execution path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis import forms, grid, places
from parity_check.diagnosis.case import Case, Match, listed, percent
from parity_check.diagnosis.evidence import BLOCK, Flags
from parity_check.diagnosis.findings import Confidence

ON_GRID = 0.8
"""Above this share of gaps on a grid, a head ran in 16 bits."""
OFF_GRID = 0.3
"""Below this share, it did not."""
FLOOR_SHARE = 0.2
"""An A/A floor below this share of E|Δ| is not the cause."""
SMALLEST_FLOOR = 1e-5
"""Nats. A smaller floor comes from the order of float32 sums."""
FLOOR_RATIO = 3.0
LARGE_FLOOR = 0.02
"""Nats. A larger floor is a finding even if the other engine's is as large."""
CACHE_RATIO = 3.0
JUMP_RATIO = 3.0
"""Ratio of |Δ| across an onset, and of all tokens after it to all before: growth is not a jump."""
CLEAR = 6.0
"""Smallest contrast between places that counts, in standard errors."""
SAME_BUILD_NOISE = 1e-4
"""Nats. Equal builds with equal weights differ by less than this in E|Δ|, beyond their floors."""
KERNEL_RMS = 0.06
"""Nats. The largest RMS Δ that bfloat16 and different kernels explain (0.039 on a 7B model with two
bfloat16 heads, Fast-LLM#525)."""
FEW_TOKENS = 0.01
HELD_BY_FEW = 0.9
UNSEEN: Mapping[bool, tuple[str, ...]] = {
    True: (),
    False: (
        "the traces have no alternatives, so a temperature, a penalty or truncated support on one "
        "side cannot be ruled out",
    ),
}
BOUNDARIES = (16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048)
"""Sizes of tiles, pages and chunks, in tokens."""
FEWEST_LENGTHS = 3
"""Prompts of one length cannot tell the context from the place in the completion."""
FIRST = 4
"""Tokens at the start of a completion that a wrong prefix already changes."""
FORMATS = ("dtype", "quantization", "kv_cache_dtype")


def lm_head_precision(case: Case) -> Match | None:
    """The top-k gaps × T of one engine lie on a grid, those of the other do not."""
    if any(forms.rounding(case.evidence, role) for role in ROLES):
        return None  # the logprobs themselves lie on a grid
    found = {}
    for role in ROLES:
        raw = case.engines[role].distribution == "raw"
        temperature = 1.0 if raw else case.temperature()
        found[role] = grid.grid(case.evidence.own[role], temperature)
    on = [role for role in ROLES if (each := found[role]) and each.share > ON_GRID]
    off = [role for role in ROLES if (each := found[role]) and each.share < OFF_GRID]
    if len(on) != 1 or len(off) != 1:
        return None
    [role] = on
    step, plain = found[role], found[OTHER[role]]
    assert step is not None
    assert plain is not None
    temperature = 1.0 if case.engines[role].distribution == "raw" else case.temperature()
    rounding = step.step / 4.0 / temperature * grid.exposure(case.evidence.own[role])
    size = case.evidence.size()
    removed = 1.0 - np.sqrt(max(0.0, 1.0 - min(1.0, rounding / size) ** 2)) if size else 0.0
    dtype = case.engines[role].config.get("dtype", "16 bits")
    return Match(
        role,
        "high",
        (
            f"{percent(step.share)} of {step.gaps:,} top-k gaps × T of the {role} are multiples of "
            f"2^-{step.exponent}; {percent(plain.share)} of the {OTHER[role]}'s "
            f"({percent(grid.FALSE_POSITIVES)} by chance)",
            f"lm_head_dtype in force: {_in_force(case, 'lm_head_dtype')}",
            f"rounding to that grid changes a logprob by about {rounding:.2g} nats",
        ),
        share=float(removed),
        words={"dtype": str(dtype)},
    )


def _in_force(case: Case, key: str) -> str:
    values = (case.engines[role].settings.get(key, "unknown") for role in ROLES)
    return ", ".join(f"{value} in the {role}" for role, value in zip(ROLES, values, strict=True))


def prefix_cache(case: Case) -> Match | None:
    """Δ only on requests that a prefix cache may have served, with caching on."""
    caching = _caching(case)
    if not caching:
        return None
    role = caching[-1]
    block = int(case.engines[role].config.get("block_size") or BLOCK)
    evidence = case.evidence
    found = [
        _apart(case, evidence.shared_prefix >= block, f"share {block} tokens or more with another"),
        # A request that is not in the trace may have filled the cache.
        _apart(case, evidence.prompt_length > block, f"fill a block of {block} tokens"),
    ]
    best = max((each for each in found if each), key=lambda each: each[0].score, default=None)
    if best is None:
        return None
    return replace(
        best[1],
        engine=role,
        confidence="high" if len(caching) == 1 else "medium",
        evidence=(
            *best[1].evidence,
            f"enable_prefix_caching in force: {_in_force(case, 'enable_prefix_caching')}",
        ),
    )


def shared_prefix(case: Case) -> Match | None:
    """Δ only on prompts that share a prefix, with caching off."""
    if _caching(case) or case.dumped:
        return None
    evidence = case.evidence
    sharing = evidence.shared_prefix > 0
    found = _apart(case, sharing, f"share {BLOCK} tokens or more")
    if found is None:
        return None
    # Prompts that share a prefix are long: others as long must agree.
    short = evidence.prompt_length < evidence.prompt_length[sharing].min()
    as_long = replace(case, evidence=places.without_tokens(evidence, short[evidence.sample]))
    return found[1] if _apart(as_long, sharing, "") else replace(found[1], confidence="low")


def _caching(case: Case) -> list[Role]:
    return [
        role for role in ROLES if case.engines[role].settings.get("enable_prefix_caching") is True
    ]


def _apart(case: Case, samples: Flags, words: str) -> tuple[places.Contrast, Match] | None:
    """A match if |Δ| of these samples [S] is well above that of the others, from the start on."""
    found = places.contrast(case.evidence, samples)
    if found is None or found.ratio < CACHE_RATIO or found.score < CLEAR:
        return None
    if found.inside < SMALLEST_FLOOR:
        return None
    later = case.evidence.position >= FIRST
    first = places.contrast(places.without_tokens(case.evidence, later), samples)
    if first is None or first.ratio < CACHE_RATIO:
        return None  # it begins within the samples: their length tells them apart, not a prefix
    evened = places.contrast(case.evidence, samples, places.evened(case.evidence))
    if evened is None or evened.inside < places.LARGER * evened.outside:
        return None  # the model is less sure of these
    sentence = (
        f"mean |Δ| is {found.inside:.2g} nats in {found.samples} samples whose prompts {words}, "
        f"and {found.outside:.2g} in the {found.others} others"
    )
    after = places.without_tokens(case.evidence, samples[case.evidence.sample])
    return found, Match(None, "medium", (sentence,), after=after)


def batch_variance(case: Case) -> Match | None:
    """An engine differs from itself in a different batch."""
    size = case.evidence.size()
    floors = {role: case.engines[role].floor or 0.0 for role in ROLES}
    role = max(ROLES, key=lambda each: floors[each])
    floor = floors[role]
    if floor < SMALLEST_FLOOR or floor < FLOOR_SHARE * size:
        return None
    # Kernel noise on both engines is normal.
    both = floor < FLOOR_RATIO * floors[OTHER[role]]
    if both and floor < LARGE_FLOOR:
        return None
    moved = case.engines[role].floor_share or 0.0
    return Match(
        None if both else role,
        "high",
        (
            f"the {role} rerun in a different batch order: mean |Δ| {floor:.2g} nats, "
            f"{percent(moved)} of its tokens changed; the {OTHER[role]} rerun: "
            f"{floors[OTHER[role]]:.2g}; between the engines: {size:.2g}",
        ),
        share=min(1.0, floor / size) if size else 0.0,
        words={"whose": "Both engines'" if both else f"The {role}'s"},
    )


def other_weights(case: Case) -> Match | None:
    """The engines loaded different weights, as read from both."""
    read = case.weights()
    if read is None or not read[1] or case.evidence.size() < SAME_BUILD_NOISE:
        return None
    total, differing = read
    return Match(
        None,
        "high",
        (
            f"read from the engines: {len(differing):,} of {total:,} parameters have different "
            f"checksums: {listed(differing)}",
        ),
        share=1.0,
        words={"count": f"{len(differing):,} of {total:,}"},
        settles=True,
    )


def rope_base(case: Case) -> Match | None:
    """The engines have different RoPE bases."""
    if not case.other_model:
        return None
    bases = {role: case.engines[role].model["rope_theta"] for role in ROLES}
    trend = places.growth(case.evidence)
    values = ", ".join(f"{v:g} in the {r}" for r, v in bases.items())
    facts = [f"RoPE base in force: {values}"]
    if trend is not None:
        facts.append(f"rank correlation of |Δ| with the position: {trend:+.2f}")
    return Match(
        None,
        "high",
        tuple(facts),
        share=1.0,
        words={"bases": " and ".join(f"{value:g}" for value in bases.values())},
        settles=True,
    )


def numeric_format(case: Case) -> Match | None:
    """Weights, activations or the KV cache have different formats."""
    differing = {key: both for key in FORMATS if (both := case.differing(key)) is not None}
    if not differing or case.evidence.size() < SAME_BUILD_NOISE:
        return None
    [key, *_] = differing
    return Match(
        "candidate",
        "medium",
        tuple(
            f"{name} is {left} in the reference, {right} in the candidate"
            for name, (left, right) in differing.items()
        ),
        share=1.0,
        words={"key": key, "value": str(differing[key][0]), "keys": ", ".join(differing)},
        settles=True,
    )


def onset(case: Case) -> Match | None:
    """|Δ| jumps at a fixed context length, within samples, and stays high."""
    found = places.onset(case.evidence)
    if found is None or found.score < CLEAR or found.after < SMALLEST_FLOOR:
        return None
    rise = found.after / max(found.before, places.SMALLEST)
    if min(found.jump, rise) < JUMP_RATIO:
        return None
    if found.jump_evened < places.LARGER:
        return None  # the model is less sure of its tokens from there on
    # Without samples on both sides, other prompts differ, not another length.
    if found.samples < places.FEWEST_SAMPLES or found.jump_within < JUMP_RATIO:
        return None
    boundaries = [size for size in BOUNDARIES if (found.context - 1) % size == 0]
    facts = [
        f"mean |Δ| is {found.before:.2g} nats below {found.context} tokens of context and "
        f"{found.after:.2g} from there on ({found.score:.0f} standard errors)",
        f"in three of four of the {found.samples} samples with tokens on both sides, |Δ| is at "
        f"least {found.jump_within:.1f} times as large in the {places.NEAR} tokens from there on "
        f"as in those before; their prompts have {found.lengths} different lengths",
    ]
    if boundaries:
        facts.append(f"{found.context - 1} is a multiple of {', '.join(map(str, boundaries))}")
    else:
        facts.append(
            f"{found.context - 1} is no multiple of {BOUNDARIES[0]}, as a tile, chunk or page is"
        )
    confidence: Confidence = "low"
    if boundaries:
        confidence = "high" if found.lengths >= FEWEST_LENGTHS else "medium"
    return Match(
        None,
        confidence,
        tuple(facts),
        after=places.without_tokens(case.evidence, found.tokens),
        words={"position": str(found.context)},
    )


def outlier_tokens(case: Case) -> Match | None:
    """A few tokens account for nearly all of the drift."""
    delta = case.evidence.delta
    size = np.abs(delta[np.isfinite(delta)])
    huge = int((size > 1.0).sum())
    held = places.held_by_the_largest(case.evidence, FEW_TOKENS)
    if huge < 5 or held < HELD_BY_FEW:
        return None
    return Match(
        None,
        "low",
        (
            f"{huge:,} of {len(size):,} tokens differ by more than 1 nat; the largest "
            f"{percent(FEW_TOKENS)} account for {percent(held)} of Σ|Δ|",
        ),
        after=places.without_tokens(case.evidence, np.abs(delta) > 1.0),
        words={
            "count": f"{huge:,}",
            "causes": ("expert routing, " if case.experts else "")
            + "stale state of a few requests, or mixed-up rows",
            "look": ("routed experts, " if case.experts else "") + "length near max_model_len",
        },
    )


def different_computation(case: Case) -> Match | None:
    """More than kernels explain, or any difference between equal builds."""
    evidence = case.evidence
    delta = evidence.delta[np.isfinite(evidence.delta)]
    if not len(delta):
        return None
    size, rms = evidence.size(), float(np.sqrt((delta**2).mean()))
    floor = max(case.engines[role].floor or 0.0 for role in ROLES)
    equal = case.equal_builds()
    least = SAME_BUILD_NOISE if equal else 0.0
    if size < least + 5.0 * floor or not (equal or rms > KERNEL_RMS):
        return None
    why = (
        "the engines have the same version and settings, so the kernels are the same"
        if equal
        else f"different kernels and precisions explain an RMS up to {KERNEL_RMS:g} nats"
    )
    return Match(
        None,
        "low",
        (
            f"mean |Δ| {size:.2g} nats, RMS {rms:.2g}, without a pattern of scale, offset, "
            f"alignment or position; {why}",
            "the dump does not say which weights or which context either side used: a rollout "
            "that is a few updates old is possible, and so are another prompt or model "
            "configuration"
            if case.dumped
            else _possible(case),
            *UNSEEN[evidence.has_alternatives],
        ),
        share=1.0,
        words={
            "why": "no pattern says why"
            if case.first_module is None
            else f"the first difference is in {case.first_module}"
        },
    )


def _possible(case: Case) -> str:
    read = case.weights()
    if read is not None and not read[1]:
        return (
            f"read from the engines: all {read[0]:,} parameters were loaded with equal checksums; "
            "possible are another model configuration (RoPE, attention, norms), another prompt, or "
            "an update after the start"
        )
    return (
        "the weights in memory could not be compared; possible are other weights, another model "
        "configuration (RoPE, attention, norms), or another prompt"
    )
