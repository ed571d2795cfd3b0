"""A weight-sync report as a document: what was run, the timeline, the checks, what V0 did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

from parity_check import words
from parity_check.comparison.document.engines import name
from parity_check.comparison.report import EngineReport
from parity_check.report import numbers
from parity_check.report.document import (
    Block,
    Bullets,
    Check,
    Checks,
    Code,
    Column,
    Coverage,
    Document,
    Figure,
    Heading,
    Judged,
    Legend,
    PageOnly,
    Panel,
    Row,
    Section,
    Sentence,
    Table,
)
from parity_check.report.repeat import repeat
from parity_check.weight_sync import checks, pictures
from parity_check.weight_sync.observed import Handling, Update
from parity_check.weight_sync.record import record
from parity_check.weight_sync.report import WeightSyncReport
from parity_check.weight_sync.timeline import EngineResult, TimelineStep

ROWS_A_PHASE = 6
HANDLINGS: dict[Handling, str] = {
    "kept": "keep the requests and their KV",
    "recomputed": "keep the requests, recompute their KV",
    "drained": "let the requests finish first",
    "aborted": "abort the requests",
    "unclear": "unknown",
}
LIKE_V0 = """\
[candidate.settings]
enable_prefix_caching = false
async_scheduling = false

[weight_sync]
mode = "keep"
clear_cache = false"""
FIX: tuple[Block, ...] = (
    Sentence("With these settings, V1 behaves like the V0 wrapper:"),
    Code(LIKE_V0, "Settings with which V1 behaves like V0"),
    Sentence(
        'In a trainer, call `pause_generation(mode="keep", clear_cache=False)`, then the '
        "collective RPC that loads the weights, then `resume_generation()`."
    ),
)
LEGEND = (
    "Δ = logprob of a replay − logprob that the engine returned for the same token, in nats. "
    "cold N: the tokens replayed by an engine started with weights N (0: before any update). "
    "kept KV: replayed by the new weights over the KV that was already computed. Lag: how many "
    "updates a token is behind when its request ends.",
    "A distance is judged by its interval, clustered by prompt: inside the limit is parity, "
    "outside is drift (also by a sign test over the prompts), straddling it is inconclusive.",
)
VERSION_HEALTHY = (
    "Healthy: every request switches at one token. Tokens before it lag by one update, tokens "
    "after it and later requests by none."
)
DISTANCE_HEALTHY = (
    "Healthy: before the update, 0 to cold 0. After it, 0 to what was declared: the kept KV, or "
    "the new version. Later requests are at 0 to the new version."
)


def document(report: WeightSyncReport) -> Document:
    """Everything that any renderer shows of a weight update."""
    return Document(
        head=report.head,
        title=f"Weight update on {' and '.join(engine.label for engine in report.engines)}",
        verdict=report.verdict,
        exit_code=report.exit_code,
        outcome=_outcome(report.checks),
        lead=_lead(report),
        facts={engine.role: name(engine) for engine in report.engines},
        sections=(
            Section("compared", "What was run", tuple(_compared(report))),
            Section("timeline", "Timeline", tuple(_timeline(report))),
            Section("checks", "Checks", _checks(report.checks), early=True),
            Section("fix", "Make V1 behave like V0", FIX),
            Section("repeat", "Repeat this run", (PageOnly(repeat(report.head)),)),
        ),
        coverage=_coverage(report),
        record=record(report),
    )


def _coverage(report: WeightSyncReport) -> Coverage:
    """Every check of every engine, and the comparison of two."""
    asked = [f"{name} ({each.role})" for each in report.engines for name in checks.OF_ONE_ENGINE]
    if len(report.engines) > 1:
        asked.append(f"{checks.OF_TWO_ENGINES} (both)")
    return Coverage(tuple(asked), tuple(map(_label, report.checks)))


def _outcome(found: Sequence[checks.Check]) -> str:
    failed, unsettled = (
        sum(check.verdict == verdict for check in found) for verdict in ("drift", "inconclusive")
    )
    if failed:
        open_ones = f", {unsettled} inconclusive" if unsettled else ""
        return f"{failed} of {len(found)} checks failed{open_ones}"
    if unsettled:
        return f"{unsettled} of {len(found)} checks inconclusive, none failed"
    return f"all {len(found)} checks passed"


def _lead(report: WeightSyncReport) -> str:
    """The first check that decided the verdict."""
    decisive = next((c for c in report.checks if c.verdict == report.verdict), None)
    return "no check was run" if decisive is None else f"{_label(decisive)}: {decisive.reason}"


def _compared(report: WeightSyncReport) -> Iterator[Block]:
    settings, workload = report.head.config["weight_sync"], report.head.config["workload"]
    counts = report.requests
    names = ", then ".join(checkpoint["name"] for checkpoint in report.checkpoints)
    yield Sentence(
        f"{counts['in_flight']} requests of {workload['max_tokens']} tokens are in flight. After "
        f"{settings['update_after_tokens']} tokens, {report.head.model['name']} becomes {names}. "
        f"Then {counts['reissued']} of the prompts are sent again, with {counts['fresh']} new "
        f"ones. Temperature {workload['temperature']:g}."
    )
    for result in report.results:
        yield Heading(_engine_line(report.engine(result.role), result))
        yield Bullets(
            (*map(_update, result.updates), _switches(result), _lags(result), _magnitudes(result))
        )


def _engine_line(engine: EngineReport, result: EngineResult) -> str:
    """Which engine, and how it was to handle the requests in flight."""
    caching = "on" if engine.settings["enable_prefix_caching"].in_force else "off"
    cleared = "clear the caches" if result.clear_cache else "clear no cache"
    boundary = "at a step boundary, " if engine.family == "v0" else ""
    return (
        f"{result.role}: {name(engine)}, {engine.device}; prefix caching {caching}; declared: "
        f"{boundary}{HANDLINGS[result.declared]}, {cleared}"
    )


def _update(update: Update) -> str:
    answers = ", ".join("done" if done else "refused" for done in update.cache_resets)
    return (
        f"paused for {update.paused_s:.3f} s ({update.standstill_s:.3f} s to stop, "
        f"{update.load_s:.3f} s to load with {update.loader}); "
        f"{words.count(update.requests_in_flight, 'request')} in flight, {update.requests_held} "
        f"held with {words.count(update.tokens_held, 'token')}; cache reset: "
        f"{answers or 'not requested'}; preempted: {update.preempted}"
    )


def _switches(result: EngineResult) -> str:
    """At which token the weights changed, and in how many requests."""
    places = [
        (f"before token {' and '.join(map(str, at))}" if at else "after the last token")
        + f" in {words.count(count, 'request')}"
        for at, count in sorted(Counter(result.switches.values()).items())
    ]
    return "the weights change " + ", ".join(places)


def _lags(result: EngineResult) -> str:
    shares = [f"{100 * share:.1f} % at {lag}" for lag, share in enumerate(result.lags)]
    return "lag of the tokens in flight, in updates: " + ", ".join(shares)


def _magnitudes(result: EngineResult) -> str:
    """What to compare the values of the checks with."""
    parts = [
        f"the update changes a token's logprob by {numbers.value(result.effect)}",
        f"the engine differs from itself by {numbers.value(result.floor)} before the update",
    ]
    if result.separation is not None:
        parts.append(f"keeping and recomputing the KV differ by {numbers.value(result.separation)}")
    return "mean |Δ|, nats: " + "; ".join(parts)


def _timeline(report: WeightSyncReport) -> Iterator[Block]:
    panels = [_panels(report, result) for result in report.results]
    version, distance = zip(*panels, strict=True)
    yield Figure("version", "Policy version and lag by token", VERSION_HEALTHY, version)
    yield Figure("distance", "|Δ| to the cold engines by token", DISTANCE_HEALTHY, distance)
    for result in report.results:
        yield Heading(f"Timeline of the {result.role}")
        yield _timeline_table(result.role, report.timeline_of(result.role))
    yield Legend(LEGEND)


def _panels(report: WeightSyncReport, result: EngineResult) -> tuple[Panel, Panel]:
    steps = report.timeline_of(result.role)
    caption = f"{result.role}, n = {sum(step.tokens for step in steps):,} tokens"
    limit = report.head.config["weight_sync"]["limit"]
    return (
        Panel(
            partial(pictures.version, steps=steps), caption,
            f"Policy version and lag by token, {result.role}: {_lags(result)}.",
        ),
        Panel(
            partial(pictures.distance, steps=steps, limit=limit), caption,
            f"Mean |Δ| by token to the cold engine of each version, {result.role}; "
            f"{_magnitudes(result)}.",
        ),
    )  # fmt: skip


def _timeline_table(role: str, steps: Sequence[TimelineStep]) -> Table:
    """Rows of several steps, never across a change of version."""
    colds = [f"|Δ| cold {version}" for version in range(len(steps[0].to_cold))]
    rows: list[Row] = []
    for (phase, _), group in groupby(steps, lambda step: (step.phase, step.version)):
        same = list(group)
        size = -(-len(same) // ROWS_A_PHASE) if phase == "in_flight" else len(same)
        rows += [_timeline_row(same[start : start + size]) for start in range(0, len(same), size)]
    return Table(
        f"Timeline of the {role}",
        (
            Column("requests"),
            *(
                Column(heading, "right")
                for heading in ("tokens", "version", "lag", *colds, "|Δ| kept KV")
            ),
        ),
        tuple(rows),
    )


def _timeline_row(steps: Sequence[TimelineStep]) -> Row:
    tokens = sum(step.tokens for step in steps)

    def mean(values: Sequence[float]) -> float:
        return sum(v * s.tokens for v, s in zip(values, steps, strict=True)) / tokens

    kept = [step.to_kept for step in steps if step.to_kept is not None]
    return Row(
        (
            pictures.NAMES[steps[0].phase],
            f"{steps[0].step}–{steps[-1].step}",
            f"{steps[0].version:g}",
            f"{mean([step.lag for step in steps]):g}",
            *(_number(mean(values)) for values in zip(*(s.to_cold for s in steps), strict=True)),
            _number(mean(kept)) if len(kept) == len(steps) else "–",
        )
    )


def _checks(found: Sequence[checks.Check]) -> tuple[Block, ...]:
    columns = (
        Column("check"), Column("engine"), Column("value", "right"), Column("limit", "right"),
        Column("unit"), Column("verdict"),
    )  # fmt: skip
    rows = tuple(
        Row(
            (
                check.name,
                check.engine,
                "–" if check.value is None else _number(check.value),
                f"≤ {check.limit:.3g}",
                check.unit,
                Judged(check.verdict),
            )
        )
        for check in found
    )
    judged = tuple(
        Check(
            group=check.engine,
            name=check.name,
            label=_label(check),
            verdict=check.verdict,
            reason=check.reason,
            advice=check.advice or None,
        )
        for check in found
    )
    return Table("Checks", columns, rows), Checks("every check", judged, every=True)


def _label(check: checks.Check) -> str:
    return f"{check.name} ({check.engine})"


def _number(value: float) -> str:
    """Five decimals; whole numbers as they are."""
    return f"{value:g}" if value == int(value) else numbers.magnitude(value)
