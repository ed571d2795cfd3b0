"""Rules of the semantic layer: the returned number has a different meaning."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis import gaps, masks, penalties, support
from parity_check.diagnosis.case import TRUNCATING, Case, Match, percent
from parity_check.diagnosis.evidence import Floats
from parity_check.diagnosis.findings import Confidence

SCALED = 0.01
"""Slopes closer to 1 than this are numeric noise; a temperature off by less is not detected."""
SAME_SCALE = 0.02
"""How close a slope must be to T or 1/T."""
SAME_LOGITS = 0.1
"""Largest relative distance of the gaps from scaled ones if both engines have the same logits."""
EXPLAINS = 0.3
"""A cause must remove at least this share of E|Δ|."""
PENALISED = 0.02
"""Nats. A smaller contrast between seen and new ids is noise."""
PENALTY_FITS = 0.5
"""Smallest share of the within-row variance that a penalty explains if it is the cause."""
MOSTLY = 0.5
"""A penalty that leaves more of E|Δ| is uncertain."""
LARGEST = 2.1
"""No engine takes a larger penalty than 2."""
NEUTRAL = {
    **TRUNCATING, "presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0,
}  # fmt: skip
ONE_SIGNED = 0.9
"""Smallest share of the offsets with the same sign if support is truncated."""
COMMON = 0.25
"""Largest spread within a row, relative to its offset, if only the normaliser differs."""
VISIBLE_OFFSET = 0.05
"""Nats, for single logprobs: kernels do not move many tokens by more."""
FEWEST_VISIBLE = 20
FEWEST_ALONE = 64
"""Tokens without alternatives."""
ONE_SIDED = 0.99
LARGEST_OFFSET = 2.0
"""Nats. A kept mass below 0.13 is no usual truncation."""
TRUNCATED_ROWS = 0.02
"""Smallest share of rows with a visible offset if support is truncated on one side."""


def raw_logprobs(case: Case) -> Match | None:
    """The scale between the engines is T or 1/T, or one trace says that it is raw."""
    raw: list[Role] = [role for role in ROLES if case.engines[role].distribution == "raw"]
    temperature = case.temperature()
    if temperature == 1.0 and len(raw) == 1:
        return _raw_by_setting(case, raw[0])
    if not case.evidence.has_alternatives and len(raw) == 1 and temperature != 1.0:
        return _stated_raw(case, raw[0])
    scaled = _scaled(case)
    if scaled is None:
        return None
    found, match = scaled
    implied = _implied(found)
    if len(raw) != 1:
        raw = [
            role
            for role in ROLES
            if temperature != 1.0
            and abs(implied[role] / temperature - 1.0) < SAME_SCALE
            and not case.processes(role)
        ]
    if len(raw) != 1:
        return None
    [role] = raw
    agrees = abs(implied[role] / temperature - 1.0) < SAME_SCALE
    stated = case.engines[role].distribution == "raw"
    return Match(
        role,
        "high" if agrees and stated else "medium",
        (
            *match.evidence,
            f"implied temperature {implied[role]:.3f}, requested {temperature:g}",
            f"logprobs_mode in force in the {role}: "
            f"{case.engines[role].settings.get('logprobs_mode', 'unknown')}",
        ),
        after=match.after,
        words={
            "sampled": f"at temperature {temperature:g}",
            "implied": f"the implied temperature is {implied[role]:.3f}",
        },
    )


def _raw_by_setting(case: Case, role: Role) -> Match | None:
    """At T = 1, raw logprobs lack the penalties and the truncation: one setting explains both."""
    applied = {
        name: value
        for name, value in case.sampling.items()
        if name in NEUTRAL and value != NEUTRAL[name]
    }
    found = [each for look in (penalty, truncated_support) if (each := look(case)) is not None]
    if not applied or not found:
        return None
    [first, *_] = found
    names = ", ".join(f"{name} {value:g}" for name, value in applied.items())
    return Match(
        role,
        "high",
        (
            *first.evidence,
            f"logprobs_mode in force: {case.engines[role].settings.get('logprobs_mode', 'raw')} in "
            f"the {role}; {names} was requested",
        ),
        after=first.after,
        words={"sampled": f"with {names}", "implied": "they are those before any of it"},
    )


def temperature_twice(case: Case) -> Match | None:
    """The scale is T or 1/T, although both engines return processed logprobs."""
    scaled = _scaled(case)
    temperature = case.temperature()
    if scaled is None or temperature == 1.0 or not all(map(case.processes, ROLES)):
        return None
    found, match = scaled
    # At T² instead of T, an engine's gaps are 1/T times those of the other.
    scales: dict[Role, float] = {"candidate": found.slope, "reference": 1.0 / found.slope}
    roles = [r for r in ROLES if abs(scales[r] * temperature - 1.0) < SAME_SCALE]
    if len(roles) != 1:
        return None
    [role] = roles
    return Match(
        role,
        "medium",
        (
            *match.evidence,
            f"this is 1/T for T = {temperature:g}, in the {role}; both engines were proved to "
            "return processed logprobs, so neither is raw",
        ),
        after=match.after,
        words={"temperature": f"{temperature:g}", "squared": f"{temperature**2:.3g}"},
    )


def _stated_raw(case: Case, role: Role) -> Match:
    """The match from the traces' own metadata, if there are no alternatives to measure."""
    return Match(
        role,
        "medium",
        (
            f"the trace metadata say that the {role}'s logprobs are raw and the {OTHER[role]}'s "
            "processed; without alternatives the temperature cannot be measured",
        ),
        words={
            "sampled": f"at temperature {case.temperature():g}",
            "implied": "from the trace metadata, not measured",
        },
        settles=True,
    )


def wrong_temperature(case: Case) -> Match | None:
    """A scale that raw logprobs do not explain."""
    scaled = _scaled(case)
    if scaled is None or case.other_model:
        return None
    found, match = scaled
    temperature = case.temperature()
    # Gaps shrink with temperature: if the other side is at T, this one is at T over its slope.
    candidate, reference = temperature / found.slope, temperature * found.slope
    return Match(
        None,
        "medium",
        (
            *match.evidence,
            f"if the reference ran at the requested {temperature:g}, the candidate ran at "
            f"{candidate:.3f}; if the candidate ran at {temperature:g}, the reference ran at "
            f"{reference:.3f}",
        ),
        after=match.after,
        words={
            "temperature": f"{temperature:g}",
            "slope": f"{found.slope:.3f}",
        },
    )


def _implied(found: gaps.Scale) -> dict[Role, float]:
    """The temperature of the other side if this engine is raw."""
    return {"candidate": found.slope, "reference": 1.0 / found.slope}


def _scaled(case: Case) -> tuple[gaps.Scale, Match] | None:
    """The change of scale between the engines, if any; the match names no engine."""
    found = gaps.scale(case.evidence)
    if found is None or found.low <= 1.0 <= found.high or abs(found.slope - 1.0) < SCALED:
        return None
    if found.slope <= 0.0 or found.left > SAME_LOGITS:
        return None
    after = gaps.rescaled(case.evidence, found.slope)
    if after.size() > (1.0 - EXPLAINS) * case.evidence.size():
        return None
    sentence = (
        f"the candidate's top-k gaps are {found.slope:.4f} times the reference's "
        f"[{found.low:.4f}, {found.high:.4f}], n = {found.rows:,} positions; typically, they "
        f"differ from that by {percent(found.left)}"
    )
    return found, Match(None, "medium", (sentence,), after=after)


def penalty(case: Case) -> Match | None:
    """Ids in the context are shifted relative to new ids of the same row."""
    found = penalties.contrast(case.evidence)
    if found is None:
        return None
    seen, shift = found
    if abs(seen.shift) < PENALISED or seen.fits < PENALTY_FITS:
        return None
    after = penalties.without_penalty(case.evidence, shift)
    if after.size() > (1.0 - EXPLAINS) * case.evidence.size():
        return None
    role: Role = "candidate" if seen.shift < 0.0 else "reference"
    value = abs(seen.value)
    if seen.kind != "repetition_penalty":
        value *= case.temperature()
    if value > LARGEST:
        return None
    requested = case.sampling[seen.kind]
    evidence = [
        f"Δ of ids in the context minus Δ of new ids at the same position is {seen.shift:+.3f} "
        f"nats, n = {seen.rows:,} positions",
        f"a {seen.kind.replace('_', ' ')} of about {value:.2f} explains {percent(seen.fits)} of "
        f"the variance within positions; {requested:g} was requested",
    ]
    defaults = case.engines[role].model.get("sampling_defaults")
    if defaults:
        evidence.append(f"the checkpoint's generation_config.json sets {defaults}")
    off = 1.0 if seen.kind == "repetition_penalty" else 0.0
    stripped = requested != off
    remedy, flip = _penalty_remedy(case, role, stripped, seen.kind)
    confidence: Confidence = "high" if defaults and seen.kind in defaults else "medium"
    if after.size() > MOSTLY * case.evidence.size():
        confidence = "low"  # what is left may have shifted the same ids
    return Match(
        OTHER[role] if stripped else role,
        confidence,
        tuple(evidence),
        after=after,
        words={
            "penalised": role,
            "kind": seen.kind.replace("_", " "),
            "value": f"{value:.2f}",
            "requested": f"{requested:g} was requested",
            "remedy": remedy,
            "flip": flip,
        },
    )


def _penalty_remedy(case: Case, penalised: Role, stripped: bool, kind: str) -> tuple[str, str]:
    """The fix and the `ablate` option. `stripped`: the other engine did not apply the penalty."""
    other = case.engines[OTHER[penalised]]
    if stripped and other.distribution == "raw":
        return _processed(OTHER[penalised]), "--only logprobs_mode"
    if stripped and other.settings.get("async_scheduling") is True:
        return f"[{OTHER[penalised]}.settings] async_scheduling = false", "--only async_scheduling"
    role = OTHER[penalised] if stripped else penalised
    line = f'[{role}.engine_args] generation_config = "vllm"'
    return (
        f"{line}, and pass {kind} = {case.sampling[kind]:g} explicitly",
        "--flip generation_config=vllm",
    )


def _processed(role: Role) -> str:
    return f'[{role}.settings] logprobs_mode = "processed_logprobs"'


def truncation_order(case: Case) -> Match | None:
    """V0 and V1 truncate in a different order if top_p and min_p are both set."""
    both = case.sampling["top_p"] < 1.0 and case.sampling["min_p"] > 0.0
    families = {case.engines[role].family for role in ROLES}
    if not both or len(families) < 2 or not case.sampling["temperature"]:
        return None
    if any(case.engines[role].distribution == "raw" for role in ROLES):
        return None
    found = support.offset(case.evidence)
    cut = sum(case.engines[role].defects.get("negative_infinity", 0) for role in ROLES)
    visible = found is not None and found.share > TRUNCATED_ROWS and found.spread < COMMON
    if not (visible or cut):
        return None
    role: Role = "candidate" if case.engines["candidate"].family == "v1" else "reference"
    evidence = [
        f"top_p {case.sampling['top_p']:g} and min_p {case.sampling['min_p']:g} are both set, and "
        "one engine is V0, the other V1",
        f"{cut:,} tokens that one engine sampled are outside the other's support (logprob -inf)",
    ]
    if found is not None:
        evidence.append(_offset_sentence(found))
    return Match(role, "high", tuple(evidence), after=support.without_offset(case.evidence, None))


def truncated_support(case: Case) -> Match | None:
    """Slope 1, and an offset of one sign common to all ids of a row."""
    if not case.evidence.has_alternatives:
        return _truncated_without_alternatives(case)
    found = support.offset(case.evidence)
    if found is None or found.share < TRUNCATED_ROWS or found.spread > COMMON:
        return None
    if not max(found.positive, 1.0 - found.positive) > ONE_SIGNED:
        return None
    truncated: Role = "candidate" if found.positive > 0.5 else "reference"
    whole = OTHER[truncated]
    if masks.leaves_out_likelier(case.evidence, truncated):
        return None
    active = {k: case.sampling[k] for k, off in TRUNCATING.items() if case.sampling[k] != off}
    sign = 1.0 if truncated == "candidate" else -1.0
    mass = support.kept_mass(case.evidence, whole, case.sampling) if active else None
    predicted = None if mass is None else -sign * np.log(mass)
    after = support.without_offset(case.evidence, predicted)
    if after.size() > (1.0 - EXPLAINS) * case.evidence.size():
        return None
    evidence = [_offset_sentence(found)]
    if predicted is not None:
        evidence.append(_agreement(case, predicted))
    names = ", ".join(f"{name} {value:g}" for name, value in active.items())
    return Match(
        whole if active else truncated,
        "high" if active else "medium",
        tuple(evidence),
        after=after,
        words={
            "truncated": truncated,
            "whole": whole,
            "what": names or "a truncation that was not requested",
            "remedy": _remedy(case, whole, truncated, active),
        },
    )


def _truncated_without_alternatives(case: Case) -> Match | None:
    """One side's logprobs are larger by no more than a kept mass can make them, never smaller."""
    delta = case.evidence.delta[np.isfinite(case.evidence.delta)]
    visible = delta[np.abs(delta) > VISIBLE_OFFSET]
    if len(delta) < FEWEST_ALONE or len(visible) < max(FEWEST_VISIBLE, TRUNCATED_ROWS * len(delta)):
        return None
    positive = float((visible > 0.0).mean())
    if max(positive, 1.0 - positive) < ONE_SIDED or np.abs(visible).max() > LARGEST_OFFSET:
        return None
    truncated: Role = "candidate" if positive > 0.5 else "reference"
    whole = OTHER[truncated]
    active = {k: case.sampling[k] for k, off in TRUNCATING.items() if case.sampling[k] != off}
    zeros = int((case.evidence.returned[truncated] == 0.0).sum())
    names = ", ".join(f"{name} {value:g}" for name, value in active.items())
    return Match(
        whole if active else truncated,
        "medium",
        (
            f"the {truncated}'s logprobs are larger at {percent(max(positive, 1.0 - positive))} of "
            f"the {len(visible):,} tokens that differ visibly, by at most "
            f"{np.abs(visible).max():.3f} nats (a kept mass of "
            f"{np.exp(-np.abs(visible).max()):.3f}); {zeros:,} of its logprobs are exactly 0",
        ),
        share=1.0,
        words={
            "truncated": truncated,
            "whole": whole,
            "what": names or "a truncation that was not stated",
            "remedy": _remedy(case, whole, truncated, active),
        },
        settles=True,
    )


def _remedy(case: Case, whole: Role, truncated: Role, active: dict[str, Any]) -> str:
    if case.engines[whole].distribution == "raw" or active:
        return _processed(whole)
    return f'[{truncated}.engine_args] generation_config = "vllm"'


def _offset_sentence(found: support.Offset) -> str:
    """The size, agreement and sign of the offsets, as text."""
    sign = max(found.positive, 1.0 - found.positive)
    return (
        f"all ids of a position differ by the same offset: mean {found.mean:+.4f} nats (kept mass "
        f"{np.exp(-abs(found.mean)):.3f}), {percent(found.of_variance)} of Var(Δ); visible at "
        f"{percent(found.share)} of {found.rows:,} positions, {percent(sign)} of their sum with "
        "the same sign"
    )


def _agreement(case: Case, predicted: Floats) -> str:
    """How well the offsets agree with those recomputed from the other engine's alternatives."""
    measured = gaps.row_constant(case.evidence)
    both = np.isfinite(measured) & np.isfinite(predicted)
    if not both.any():
        return "too few recorded alternatives to recompute the kept mass"
    apart = float(np.median(np.abs(measured[both] - predicted[both])))
    return (
        f"recomputed from the other engine's alternatives at {both.sum():,} positions, the kept "
        f"mass gives the same offset to within {apart:.4f} nats (median)"
    )
