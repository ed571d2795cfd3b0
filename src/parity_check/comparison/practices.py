"""Good practices of a trainer that uses a rollout engine's logprobs, each as a check.

A check passes or fails only if the configuration or the traces show it. Otherwise it is unknown:
nothing is assumed about the training loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from parity_check.measure.results import Measurement
from parity_check.traces.engine import EngineDescription

Status: TypeAlias = Literal["pass", "fail", "unknown"]
Logprobs: TypeAlias = Literal["recompute", "bypass"]
ASK = 'set objective.logprobs to "recompute" or "bypass"'


@dataclass(frozen=True, slots=True)
class Practice:
    """One check: name, outcome and evidence."""

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
    lost = [each for each in measured.invalid if each.engine == "behaviour"]
    if lost:
        kinds = ", ".join(f"{each.count:,} {each.kind.replace('_', ' ')}" for each in lost)
        return Practice(name, "fail", f"{kinds} among {total:,} sampled tokens")
    mode = rollout.settings["logprobs_mode"].in_force
    if mode != "processed_logprobs" and sampling["temperature"] not in (0.0, 1.0):
        return Practice(
            name,
            "fail",
            f"the rollout engine returns {mode} at temperature {sampling['temperature']:g}, which "
            "belong to a different distribution than the one it sampled from",
        )
    return Practice(
        name,
        "pass",
        f"all {total:,} sampled tokens have the logprob that was returned while sampling "
        f"({mode} in force)",
    )


def _recomputed(logprobs: Logprobs | None, floor: Measurement | None) -> Practice:
    name = "old-logprobs-recomputed"
    if logprobs is None:
        return Practice(name, "unknown", f"depends on the loss: {ASK}")
    if logprobs == "bypass":
        return Practice(
            name, "fail", 'objective.logprobs = "bypass": the rollout logprobs are the old logprobs'
        )
    if floor is None:
        return Practice(name, "pass", 'objective.logprobs = "recompute"; the trainer was not rerun')
    return Practice(
        name,
        "pass",
        'objective.logprobs = "recompute"; rerun with a different batch shape, the trainer has a '
        f"mean |Δ| of {floor['mean_abs_log_ratio'].value:.2g} nats to itself",
    )


def _apart(logprobs: Logprobs | None, measured: Measurement, floor: Measurement | None) -> Practice:
    name = "mismatch-apart-from-ratio"
    mismatch = f"a mismatch with a k3 of {measured['k3_kl'].value:.2g} nats"
    if logprobs is None:
        return Practice(name, "unknown", f"{mismatch}; the loss decides where it goes: {ASK}")
    if logprobs == "bypass":
        return Practice(name, "fail", f"{mismatch} enters the policy ratio from the first step")
    own = "" if floor is None else f" (the trainer's own k3 is {floor['k3_kl'].value:.2g})"
    return Practice(
        name, "pass", f"{mismatch} enters the importance weight; the policy ratio starts at 1{own}"
    )


def _ess(measured: Measurement, gated: frozenset[str]) -> Practice:
    name = "ess-tracked"
    found = f"{100 * measured['ess'].value:.4g} % of {measured.tokens:,} tokens"
    if "ess" in gated:
        return Practice(name, "pass", f"{found}; gates.ess has a limit")
    return Practice(name, "fail", f"{found}; no limit would catch a drop: set gates.ess")
