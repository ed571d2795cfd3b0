"""A weight update with known numbers, for the tests of its checks and of its report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from parity_check.comparison.report import EngineReport, Setting
from parity_check.report.document import Head
from parity_check.weight_sync.checks import reference_analogue
from parity_check.weight_sync.observed import EngineRun, Handling, Request, Update, Weights
from parity_check.weight_sync.report import WeightSyncReport
from parity_check.weight_sync.timeline import judge, timeline

TOKENS, AFTER, REQUESTS = 20, 8, 8
LIMIT, LEVEL = 1e-3, 0.95
EFFECT, STALE = 0.05, 0.01
HEAD = np.linspace(-1.0, 1.0, 16)
OLD = Weights({"a": "old", "b": "old", "same": "same"}, HEAD, "float32")
NEW = Weights({"a": "new", "b": "new", "same": "same"}, HEAD + 0.5, "float32")


def request(
    phase: Any,
    number: int,
    *,
    switches: tuple[int, ...] = (AFTER,),
    kept: bool = True,
    stale: float = 0.0,
    tokens: int = TOKENS,
) -> Request:
    """Errors of one size and either sign; `stale` is added to what the engine returned."""
    source = np.random.default_rng(number)
    old = -source.random(tokens) - 1.0
    signs = source.choice((-1.0, 1.0), tokens)
    new, over_old_kv = old + EFFECT * signs, old + (EFFECT - STALE) * signs
    in_flight = phase == "in_flight"
    after = np.arange(tokens) >= (switches[0] if switches else tokens)
    returned = np.where(after, over_old_kv if kept else new, old) if in_flight else new
    return Request(
        sample_id=f"p{number}/{phase}",
        prompt_id=f"p{number}",
        phase=phase,
        prompt_tokens=300,
        wanted=TOKENS,
        finish_reason="length",
        cached_tokens=0,
        started=0 if in_flight else 1,
        switches=switches if in_flight else (),
        logprobs=returned + (0.0 if in_flight else stale),
        cold=np.stack([old, new]),
        kept=np.where(after, over_old_kv, old) if in_flight else None,
    )


def a_run(handling: Handling = "kept", *, kept: bool = True, **changes: Any) -> EngineRun:
    requests = [
        request(phase, number + (100 if phase == "fresh" else 0), kept=kept)
        for phase in ("in_flight", "reissued", "fresh")
        for number in range(REQUESTS)
    ]
    update = Update("next", "reload_weights", 8, 8, 64, (), 0, 0.0, 0.1, 0.1)
    fields: dict[str, Any] = {
        "role": "candidate",
        "family": "v1",
        "declared": handling,
        "clear_cache": handling == "recomputed",
        "prefix_caching": False,
        "block_size": 128,
        "requests": tuple(requests),
        "updates": (update,),
        "preemptions": 0,
        "before": OLD,
        "after": NEW,
        "cold": (OLD, NEW),
    }
    return EngineRun(**{**fields, **changes})


def changed(run: EngineRun, phase: str, **changes: Any) -> EngineRun:
    """The run with fields of one phase's requests replaced; a callable gets the request."""
    requests = tuple(
        replace(r, **{k: v(r) if callable(v) else v for k, v in changes.items()})
        if r.phase == phase
        else r
        for r in run.requests
    )
    return replace(run, requests=requests)


def a_report(**runs: EngineRun) -> WeightSyncReport:
    """The report of engines by role, with nothing in it that changes from day to day."""
    judged = [judge(run, LIMIT, LEVEL) for run in runs.values()]
    results = [result for result, _ in judged]
    checks = [check for _, found in judged for check in found]
    if len(results) == 2:
        measured = {result.role: result.measured for result in results}
        checks.append(reference_analogue(*runs.values(), measured))
    return WeightSyncReport(
        head=Head(
            kind="weight-sync",
            run_id="20260101-000000-abcd",
            created_utc="2026-01-01T00:00:00+00:00",
            command="parity-check weight-sync -c parity.toml",
            parity_check="0.1.0",
            config={
                "workload": {"max_tokens": TOKENS, "temperature": 0.8},
                "weight_sync": {"update_after_tokens": AFTER, "limit": LIMIT},
            },
            model={"name": "tiny"},
            host={},
        ),
        checkpoints=({"name": "tiny-next"},),
        engines=tuple(_engine(run) for run in runs.values()),
        requests={"in_flight": REQUESTS, "reissued": REQUESTS, "fresh": REQUESTS},
        results=tuple(results),
        timeline=tuple(step for run in runs.values() for step in timeline(run)),
        checks=tuple(checks),
        artifacts=("report.json", "config.toml"),
    )


def _engine(run: EngineRun) -> EngineReport:
    caching = Setting(run.prefix_caching, run.prefix_caching, "canned")
    return EngineReport(
        role=run.role,
        label="vllm 0.18.1" if run.family == "v1" else "vllm 0.8.5",
        version="0.18.1" if run.family == "v1" else "0.8.5",
        family=run.family,
        device="cpu",
        packages={},
        settings={"enable_prefix_caching": caching},
        config={},
        environment={},
        logprob_path="decode",
        entropy=None,
    )


REFERENCE = a_run(role="reference", family="v0")
UPDATES: dict[str, WeightSyncReport] = {
    "parity": a_report(reference=REFERENCE, candidate=a_run()),
    "stale": a_report(
        candidate=changed(
            a_run(prefix_caching=True),
            "reissued",
            logprobs=lambda r: r.cold[1] + STALE,
            cached_tokens=256,
        )
    ),
    "recomputed": a_report(reference=REFERENCE, candidate=a_run("recomputed", kept=False)),
}
"""What the golden files show."""
