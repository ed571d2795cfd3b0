"""The result of one engine: timeline, lags and checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity_check.measure.gates import Verdict
from parity_check.measure.stats import Estimate
from parity_check.weight_sync.checks import (
    Check,
    if_arrived,
    in_flight_as_declared,
    lm_head_refreshed,
    no_stale_prefix,
    nothing_lost,
    separation,
    stale_parameters,
    unless_refused,
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
    """One token position in the requests of a phase: means over the requests that reach it.

    `version` and `lag` are integers if all requests switched together. `to_cold` is mean |Δ| to the
    cold engine of each version, `to_kept` to the new weights on the kept KV.
    """

    phase: Phase
    step: int
    tokens: int
    version: float
    lag: float
    to_cold: tuple[float, ...]
    to_kept: float | None


@dataclass(frozen=True, slots=True)
class EngineResult:
    """The result of the scenario on one engine."""

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
    timeline: tuple[TimelineStep, ...]
    updates: tuple[Update, ...]
    preemptions: int
    checks: tuple[Check, ...]


def judge(run: EngineRun, limit: float, level: float) -> EngineResult:
    """Run all checks of one engine. `limit` in nats, `level` of the intervals."""
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
        unless_refused(run, if_arrived(arrived, in_flight)),
        nothing_lost(run),
    )
    return EngineResult(
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
        timeline=timeline(run),
        updates=run.updates,
        preemptions=run.preemptions,
        checks=checks,
    )


def overall(checks: Iterable[Check]) -> Verdict:
    """Drift if any check drifts, else inconclusive if any is."""
    verdicts = {check.verdict for check in checks}
    if "drift" in verdicts:
        return "drift"
    return "inconclusive" if "inconclusive" in verdicts else "parity"


def timeline(run: EngineRun) -> tuple[TimelineStep, ...]:
    """Every position of every phase, in order."""
    phases: tuple[Phase, ...] = ("in_flight", "reissued", "fresh")
    return tuple(step for phase in phases for step in _steps(phase, run.of(phase)))


def _steps(phase: Phase, requests: Sequence[Request]) -> Iterable[TimelineStep]:
    longest = max((len(request.logprobs) for request in requests), default=0)
    distances = [(request, np.abs(request.cold - request.logprobs)) for request in requests]
    for step in range(longest):
        present = [(r, d) for r, d in distances if len(r.logprobs) > step]
        kept = [each[step] for r, _ in present if (each := r.to_kept()) is not None]
        yield TimelineStep(
            phase=phase,
            step=step,
            tokens=len(present),
            version=float(np.mean([r.versions[step] for r, _ in present])),
            lag=float(np.mean([r.lags[step] for r, _ in present])),
            to_cold=tuple(np.mean([d[:, step] for _, d in present], axis=0).tolist()),
            to_kept=float(np.mean(kept)) if kept else None,
        )
