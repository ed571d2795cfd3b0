"""The good practices of a trainer that learns from a rollout engine's logprobs, each a check.

A check fails where the configuration or the traces say so, passes where they show it, and is
unknown where neither can tell: nothing is assumed of a training loop that is not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from parity_check.measure.results import Measurement
from parity_check.traces.engine import EngineDescription

Status: TypeAlias = Literal["pass", "fail", "unknown"]
Logprobs: TypeAlias = Literal["recompute", "bypass"]
ASK = 'say objective.logprobs = "recompute" or "bypass"'


@dataclass(frozen=True, slots=True)
class Practice:
    """One check: its name, its outcome, and what that rests on."""

    name: str
    status: Status
    evidence: str


def practices(
    measured: Measurement,
    *,
    rollout: EngineDescription,
    sampling: Mapping[str, Any],
    logprobs: Logprobs | None,
    floor: Measurement | None,
    gated: frozenset[str],
) -> Iterator[Practice]:
    """The checks of one trainer against the engine that sampled.

    `measured` is the trainer on the rollouts, `rollout` the engine that sampled them, `floor` the
    trainer against itself, and `gated` names the metrics that have a limit.
    """
    yield _kept(measured, rollout, sampling)
    yield _recomputed(logprobs, floor)
    yield _apart(logprobs, measured, floor)
    yield _ess(measured, gated)


def _kept(
    measured: Measurement, rollout: EngineDescription, sampling: Mapping[str, Any]
) -> Practice:
    name = "behaviour-logprobs-kept"
    total = measured.tokens + measured.excluded
    lost = [each for each in measured.hygiene if each.engine == "behaviour"]
    if lost:
        told = ", ".join(f"{each.count:,} {each.kind.replace('_', ' ')}" for each in lost)
        return Practice(name, "fail", f"of {total:,} sampled tokens: {told}")
    mode = rollout.settings["logprobs_mode"].in_force
    if mode != "processed_logprobs" and sampling["temperature"] not in (0.0, 1.0):
        return Practice(
            name,
            "fail",
            f"the rollout engine returns {mode} at temperature {sampling['temperature']:g}: they "
            "belong to another distribution than the one that it sampled from",
        )
    return Practice(
        name,
        "pass",
        f"each of {total:,} sampled tokens carries the logprob that was returned while sampling "
        f"({mode} in force)",
    )


def _recomputed(logprobs: Logprobs | None, floor: Measurement | None) -> Practice:
    name = "old-logprobs-recomputed"
    if logprobs is None:
        return Practice(name, "unknown", f"only the loss knows: {ASK}")
    if logprobs == "bypass":
        return Practice(
            name, "fail", 'objective.logprobs = "bypass": the rollout\'s logprobs stand for the old'
        )
    if floor is None:
        return Practice(
            name, "pass", 'objective.logprobs = "recompute"; the trainer was not repeated'
        )
    return Practice(
        name,
        "pass",
        'objective.logprobs = "recompute"; the trainer repeats itself in another batch shape to a '
        f"mean |Δ| of {floor['mean_abs_log_ratio'].value:.2g} nats",
    )


def _apart(logprobs: Logprobs | None, measured: Measurement, floor: Measurement | None) -> Practice:
    name = "mismatch-apart-from-ratio"
    mismatch = f"a k3 of {measured['k3_kl'].value:.2g} nats of mismatch"
    if logprobs is None:
        return Practice(name, "unknown", f"{mismatch}, in the ratio or beside it: {ASK}")
    if logprobs == "bypass":
        return Practice(name, "fail", f"{mismatch} is in the policy ratio from the first step")
    own = "" if floor is None else f" (k3 {floor['k3_kl'].value:.2g} of the trainer's own)"
    return Practice(
        name, "pass", f"{mismatch} is in the importance weight; the policy ratio starts at 1{own}"
    )


def _ess(measured: Measurement, gated: frozenset[str]) -> Practice:
    name = "ess-tracked"
    found = f"{100 * measured['ess'].value:.4g} % of {measured.tokens:,} tokens"
    if "ess" in gated:
        return Practice(name, "pass", f"{found}, and it has a limit here")
    return Practice(name, "fail", f"{found}, but no limit would notice it fall: set gates.ess")
