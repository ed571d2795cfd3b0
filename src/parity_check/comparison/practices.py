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
        return Practice(name, "fail", f"invalid logprobs among {total:,} sampled tokens: {kinds}")
    mode = rollout.settings["logprobs_mode"].in_force
    if mode != "processed_logprobs" and sampling["temperature"] not in (0.0, 1.0):
        return Practice(
            name,
            "fail",
            f"the rollout engine returns {mode} at temperature {sampling['temperature']:g}: not "
            "the distribution that it sampled from",
        )
    return Practice(
        name,
        "pass",
        f"all {total:,} sampled tokens have the logprob returned while sampling ({mode} in force)",
    )


def _recomputed(logprobs: Logprobs | None, floor: Measurement | None) -> Practice:
    name = "old-logprobs-recomputed"
    if logprobs is None:
        return Practice(name, "unknown", f"not configured: {ASK}")
    if logprobs == "bypass":
        return Practice(
            name,
            "fail",
            'objective.logprobs = "bypass": the rollout\'s logprobs are used as old logprobs',
        )
    if floor is None:
        return Practice(
            name, "pass", 'objective.logprobs = "recompute"; the trainer had no A/A run'
        )
    return Practice(
        name,
        "pass",
        'objective.logprobs = "recompute"; rerun in a different batch shape, the trainer has a '
        f"mean |Δ| of {floor['mean_abs_log_ratio'].value:.2g} nats",
    )


def _apart(logprobs: Logprobs | None, measured: Measurement, floor: Measurement | None) -> Practice:
    name = "mismatch-apart-from-ratio"
    mismatch = f"a mismatch of k3 = {measured['k3_kl'].value:.2g} nats"
    if logprobs is None:
        return Practice(
            name, "unknown", f"{mismatch}; not known whether it enters the policy ratio: {ASK}"
        )
    if logprobs == "bypass":
        return Practice(name, "fail", f"{mismatch} enters the policy ratio from the first step")
    own = "" if floor is None else f" (the trainer's own noise: k3 {floor['k3_kl'].value:.2g})"
    return Practice(
        name, "pass", f"{mismatch} enters the importance weight; the policy ratio starts at 1{own}"
    )


def _ess(measured: Measurement, gated: frozenset[str]) -> Practice:
    name = "ess-tracked"
    found = f"{100 * measured['ess'].value:.4g} % of {measured.tokens:,} tokens"
    if "ess" in gated:
        return Practice(name, "pass", f"{found}, with a limit")
    return Practice(name, "fail", f"{found}, without a limit: set gates.ess")
