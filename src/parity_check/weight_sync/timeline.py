"""One engine through its weight updates: what it did, its checks, and the timeline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity_check.measure.gates import Verdict
from parity_check.measure.stats import Estimate
from parity_check.weight_sync.checks import (
    Check,
    if_arrived,
    if_reset,
    in_flight_as_declared,
    lm_head_refreshed,
    no_stale_prefix,
    nothing_lost,
    separation,
    stale_parameters,
    weights_arrived,
)
from parity_check.weight_sync.distance import Ruler
from parity_check.weight_sync.observed import (
    EngineRun,
    Handling,
    Phase,
    Request,
    Update,
    lag_shares,
)


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """One position in the requests of a phase: means over the requests that reached it.

    `version` and `lag` are whole numbers where all requests switched together. `to_cold` is mean
    |Δ| in nats to the cold engine of each version, `to_kept` to the new weights over the kept KV.
    """

    engine: str
    phase: Phase
    step: int
    tokens: int
    version: float
    lag: float
    to_cold: tuple[float, ...]
    to_kept: float | None


@dataclass(frozen=True, slots=True)
class EngineResult:
    """What one engine did in the scenario.

    `floor` is mean |Δ| to a cold engine before any update, `effect` the mean change of a token's
    logprob by the updates, `separation` the distance between keeping and recomputing the KV.
    `unchanged` parameters still hold the old weights, `wrong` ones neither the old nor the new.
    """

    role: str
    declared: Handling
    measured: Handling
    clear_cache: bool
    floor: Estimate
    effect: Estimate
    separation: Estimate | None
    switches: Mapping[str, tuple[int, ...]]
    lags: tuple[float, ...]
    unchanged: tuple[str, ...]
    wrong: tuple[str, ...]
    updates: tuple[Update, ...]
    preemptions: int


def judge(run: EngineRun, limit: float, level: float) -> tuple[EngineResult, tuple[Check, ...]]:
    """All checks of one engine. `limit` in nats, `level` of the intervals."""
    ruler = Ruler(run.role, limit, level)
    unchanged, wrong = stale_parameters(run)
    floor = ruler.measure(run.of("in_flight"), lambda r: r.to_cold(0)[r.versions == 0])
    effect = ruler.measure(
        run.of("fresh", "reissued"), lambda r: np.abs(r.cold[run.newest] - r.cold[0])
    )
    assert floor is not None
    assert effect is not None
    apart = separation(run, ruler)
    arrived = weights_arrived(run, ruler, floor, unchanged, wrong)
    measured, in_flight = in_flight_as_declared(run, ruler, floor)
    checks = (
        arrived,
        lm_head_refreshed(run),
        if_arrived(arrived, no_stale_prefix(run, ruler, floor)),
        if_reset(run, if_arrived(arrived, in_flight)),
        nothing_lost(run),
    )
    result = EngineResult(
        role=run.role,
        declared=run.declared,
        measured=measured,
        clear_cache=run.clear_cache,
        floor=floor.estimate,
        effect=effect.estimate,
        separation=None if apart is None else apart.estimate,
        switches={request.sample_id: request.switches for request in run.of("in_flight")},
        lags=lag_shares(run.of("in_flight"), run.newest),
        unchanged=unchanged,
        wrong=wrong,
        updates=run.updates,
        preemptions=run.preemptions,
    )
    return result, checks


def overall(checks: Iterable[Check]) -> Verdict:
    """The worst verdict: drift, then inconclusive. Without any check nothing was shown."""
    verdicts = {check.verdict for check in checks}
    if "drift" in verdicts:
        return "drift"
    return "parity" if verdicts == {"parity"} else "inconclusive"


def timeline(run: EngineRun) -> tuple[TimelineStep, ...]:
    """Every position of every phase, in order."""
    phases: tuple[Phase, ...] = ("in_flight", "reissued", "fresh")
    return tuple(step for phase in phases for step in _steps(run.role, phase, run.of(phase)))


def _steps(role: str, phase: Phase, requests: Sequence[Request]) -> Iterable[TimelineStep]:
    longest = max((len(request.logprobs) for request in requests), default=0)
    distances = [(request, np.abs(request.cold - request.logprobs)) for request in requests]
    for step in range(longest):
        present = [(r, d) for r, d in distances if len(r.logprobs) > step]
        kept = [each[step] for r, _ in present if (each := r.to_kept()) is not None]
        yield TimelineStep(
            engine=role,
            phase=phase,
            step=step,
            tokens=len(present),
            version=float(np.mean([r.versions[step] for r, _ in present])),
            lag=float(np.mean([r.lags[step] for r, _ in present])),
            to_cold=tuple(np.mean([d[:, step] for _, d in present], axis=0).tolist()),
            to_kept=float(np.mean(kept)) if kept else None,
        )
