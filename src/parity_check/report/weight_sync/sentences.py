"""What a weight-sync report says in words and rows: shared by the renderers that people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from parity_check.report import numbers
from parity_check.report.sentences import MARKS
from parity_check.weight_sync.checks import Check
from parity_check.weight_sync.observed import Update
from parity_check.weight_sync.report import WeightSyncReport
from parity_check.weight_sync.timeline import EngineResult, TimelineStep

Row = tuple[str, ...]

ROWS_A_PHASE = 6
PHASES = {
    "in_flight": "in flight",
    "reissued": "re-issued after it",
    "fresh": "new after it",
}
HANDLINGS = {
    "kept": "keep the requests and their KV",
    "recomputed": "keep the requests, recompute their KV",
    "drained": "let the requests finish first",
    "aborted": "abort the requests",
    "unclear": "none of the known ways",
}
AS_V0_DID = """\
[candidate.settings]
enable_prefix_caching = false
async_scheduling = false

[weight_sync]
mode = "keep"
clear_cache = false"""
IN_A_TRAINER = (
    'In a trainer: pause_generation(mode="keep", clear_cache=False), then the collective RPC that '
    "loads the weights, then resume_generation()."
)


def verdict_line(report: WeightSyncReport) -> str:
    """The last line: the verdict, how many checks stand behind it, the exit code."""
    checks = report.checks
    drifting = [check for check in checks if check.verdict == "drift"]
    unsettled = [check for check in checks if check.verdict == "inconclusive"]
    outcome = f"all {len(checks)} checks passed"
    if drifting:
        outcome = f"{len(drifting)} of {len(checks)} checks failed"
        outcome += f", {len(unsettled)} not settled" if unsettled else ""
    elif unsettled:
        outcome = f"{len(unsettled)} of {len(checks)} checks not settled, none failed"
    mark = MARKS[report.verdict]
    return f"{mark} {report.verdict.upper()}  {outcome}  (exit {int(report.exit_code)})"


def engine_line(report: WeightSyncReport, result: EngineResult) -> str:
    """Which engine, and what it was told to do with the requests that were under way."""
    engine = report.engine(result.role)
    caching = engine.settings["enable_prefix_caching"].in_force
    cleared = "caches cleared" if result.clear_cache else "no cache cleared"
    if engine.family == "v0":
        cleared = "at its step boundary, no cache cleared"
    return (
        f"{result.role}: {engine.label}, {engine.family.upper()}, {engine.device}; prefix caching "
        f"{'on' if caching else 'off'}; declared: {HANDLINGS[result.declared]}, {cleared}"
    )


def scenario(report: WeightSyncReport) -> str:
    """What was run, in one line."""
    settings = report.config["weight_sync"]
    workload = report.config["workload"]
    counts = report.requests
    names = ", then ".join(checkpoint["name"] for checkpoint in report.checkpoints)
    return (
        f"{counts['in_flight']} requests of {workload['max_tokens']} tokens in flight; after "
        f"{settings['update_after_tokens']} tokens {report.model['name']} becomes {names}; then "
        f"{counts['reissued']} of the prompts again and {counts['fresh']} new ones; temperature "
        f"{workload['temperature']:g}"
    )


def update_lines(result: EngineResult) -> Iterator[str]:
    """What each update did, a sentence each."""
    for update in result.updates:
        yield _update(update)


def _update(update: Update) -> str:
    resets = {True: "done", False: "refused"}
    answers = ", ".join(resets[answer] for answer in update.cache_resets) or "not asked for"
    return (
        f"paused {update.paused_s:.3f} s (standstill {update.standstill_s:.3f} s, loading "
        f"{update.load_s:.3f} s with {update.loader}); {update.requests_in_flight} requests in "
        f"flight, {update.requests_held} held with {update.tokens_held} tokens; cache reset: "
        f"{answers}; preempted: {update.preempted}"
    )


def magnitudes(result: EngineResult) -> str:
    """What the numbers of the checks are to be held against."""
    parts = [
        f"the update itself moves a token's logprob by {result.effect.value:.5f} on average",
        f"the engine differs from itself by {numbers.magnitude(result.floor.value)} before it",
    ]
    if result.separation is not None:
        parts.append(f"keeping the KV and recomputing it differ by {result.separation.value:.5f}")
    return "mean |Δ|, nats: " + "; ".join(parts)


def check_rows(checks: Sequence[Check]) -> list[Row]:
    """A header, then a row a check."""
    return [
        ("check", "engine", "value", "limit", "unit", "verdict"),
        *map(_check_row, checks),
    ]


def _check_row(check: Check) -> Row:
    return (
        check.name,
        check.engine,
        "–" if check.value is None else number(check.value),
        f"≤ {check.limit:.3g}",
        check.unit,
        f"{MARKS[check.verdict]} {check.verdict}",
    )


def reasons(checks: Sequence[Check]) -> Iterator[str]:
    """Why each check was judged so, and what to do where it is not parity."""
    for check in checks:
        advice = f" → {check.advice}" if check.advice else ""
        yield f"{MARKS[check.verdict]} {check.name} ({check.engine}): {check.reason}{advice}"


def timeline_rows(result: EngineResult) -> list[Row]:
    """A header, then rows of several steps: never across a change of version."""
    versions = len(result.timeline[0].to_cold)
    head = ("requests", "tokens", "version", "lag", *(f"|Δ| cold {v}" for v in range(versions)))
    rows: list[Row] = [(*head, "|Δ| kept KV")]
    for (phase, _), group in groupby(result.timeline, lambda step: (step.phase, step.version)):
        steps = list(group)
        size = -(-len(steps) // ROWS_A_PHASE) if phase == "in_flight" else len(steps)
        rows += [_timeline_row(steps[start : start + size]) for start in range(0, len(steps), size)]
    return rows


def _timeline_row(steps: Sequence[TimelineStep]) -> Row:
    tokens = sum(step.tokens for step in steps)

    def mean(values: Sequence[float]) -> float:
        return sum(v * s.tokens for v, s in zip(values, steps, strict=True)) / tokens

    kept = [step.to_kept for step in steps if step.to_kept is not None]
    return (
        PHASES[steps[0].phase],
        f"{steps[0].step}–{steps[-1].step}",
        f"{steps[0].version:g}",
        f"{mean([step.lag for step in steps]):g}",
        *(
            number(mean([step.to_cold[version] for step in steps]))
            for version in range(len(steps[0].to_cold))
        ),
        number(mean(kept)) if len(kept) == len(steps) else "–",
    )


def switches(result: EngineResult) -> str:
    """At which token the weights changed, and in how many requests."""
    counts = Counter(result.switches.values())
    told = [
        (f"before token {' and '.join(map(str, places))}" if places else "after the last token")
        + f" in {count} requests"
        for places, count in sorted(counts.items())
    ]
    return "the weights change " + ", ".join(told)


def lags(result: EngineResult) -> str:
    shares = [f"{100 * share:.1f} % at {lag}" for lag, share in enumerate(result.lags)]
    return "lag of the tokens in flight, in updates: " + ", ".join(shares)


def legend() -> Iterator[str]:
    yield (
        "Δ = logprob of an oracle − logprob that the engine returned, same token, nats. cold N: "
        "an engine started with weights N (0: before any update) that replays the tokens; kept KV: "
        "the weights of the moment over the KV that was there. Lag: updates that a token is behind "
        "when its request ends."
    )
    yield (
        "A distance is judged by its interval, clustered by prompt: inside the limit is parity, "
        "outside is drift (also by a sign test over the prompts), across is inconclusive."
    )


def number(value: float) -> str:
    """Five decimals; counts and zeros as they are."""
    return f"{value:g}" if value == int(value) else numbers.magnitude(value)
