"""What it means that an in-flight weight update did what it declares: the six checks.

A request that is under way while weights A become B returns logprobs of three kinds. Each token is
held against cold engines, started with A and with B, that replay the same tokens, and against B
over the KV that A had computed: what an update that keeps the cache honestly gives. Which of them
the tokens behind the boundary equal says what happened to the cache, whatever was declared.

Numbers are mean |Δ| in nats a token, Δ = logprob of the oracle - logprob that was returned, with
an interval clustered by prompt that is judged against one limit, as everywhere. An engine that
differs from itself by more than the limit before any update settles nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity_check.measure.gates import Verdict
from parity_check.weight_sync.distance import Distance, Ruler
from parity_check.weight_sync.observed import EngineRun, Floats, Handling, Ints, Request, lag_shares

REFUSED = "the cache reset was refused"
SHOWN = 5e-6
"""The least that five decimals show."""
NAMED = 3
"""Parameters that a sentence names; the report's data has all."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question, its verdict, and the number that was judged by its limit."""

    name: str
    engine: str
    verdict: Verdict
    value: float | None
    limit: float
    unit: str
    reason: str
    advice: str = ""


def stale_parameters(run: EngineRun) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that still hold the old weights, and names that hold neither the old nor the new."""
    wanted = run.cold[run.newest].parameters
    off = [name for name, digest in wanted.items() if run.after.parameters.get(name) != digest]
    unchanged = [n for n in off if run.after.parameters.get(n) == run.before.parameters.get(n)]
    return tuple(unchanged), tuple(name for name in off if name not in unchanged)


def weights_arrived(
    run: EngineRun,
    ruler: Ruler,
    floor: Distance,
    unchanged: Sequence[str],
    wrong: Sequence[str],
) -> Check:
    """Every parameter equals that of a cold engine with the new weights, and so do fresh tokens.

    Fresh requests that took a prefix from the cache are left out: `no_stale_prefix` is about them.
    """
    name = "weights_arrived"
    old, new = run.cold[0].parameters, run.cold[run.newest].parameters
    changing = sum(old.get(each) != digest for each, digest in new.items())
    if unchanged or wrong:
        stale = len(unchanged) + len(wrong)
        if len(unchanged) == changing and not wrong:
            reason = (
                f"none of the {changing} parameters that the update changes has changed: it did "
                "nothing, or wrote into a copy"
            )
        else:
            parts = [
                f"{len(names)} of {len(new)} parameters {what}: {_named(names)}"
                for names, what in (
                    (unchanged, "still hold the old weights"),
                    (wrong, "hold neither the old nor the new weights"),
                )
                if names
            ]
            reason = "; ".join(parts)
        advice = "compare the names that the update loads with those of the checkpoint"
        return Check(name, run.role, "drift", float(stale), 0.0, "parameters", reason, advice)
    fresh = [request for request in run.of("fresh") if not request.cached_tokens]
    estimate = ruler.measure(fresh, lambda request: request.to_cold())
    if estimate is None:
        reason = "all parameters hold the new weights, but every fresh request met a cached prefix"
        return Check(name, run.role, "inconclusive", None, ruler.limit, "nats", reason)
    verdict, why = ruler.judge(estimate, floor)
    reason = (
        f"all {len(new)} parameters hold the new weights ({changing} changed); fresh requests are "
        f"{_nats(estimate)} from a cold engine with them{why}"
    )
    advice = ""
    if verdict == "drift":
        advice = "something derived from the weights was not refreshed: a cache, a packed copy"
    return Check(name, run.role, verdict, estimate.value, ruler.limit, "nats", reason, advice)


def lm_head_refreshed(run: EngineRun) -> Check:
    """The head in force, copies and all, gives the logits of a cold engine with the new weights."""
    old, new, found = (w.head for w in (run.cold[0], run.cold[run.newest], run.after))
    distance = float(np.abs(found - new).max())
    change = float(np.abs(new - old).max())
    reason = (
        f"logits of fixed hidden states are within {distance:.3g} of a cold engine's; the update "
        f"moves them by up to {change:.3g} ({run.after.head_dtype} head)"
    )
    limit = change / 100
    if distance <= limit:
        return Check("lm_head_refreshed", run.role, "parity", distance, limit, "logits", reason)
    advice = "refresh what is derived from lm_head.weight (a float32 or packed copy) on each update"
    return Check("lm_head_refreshed", run.role, "drift", distance, limit, "logits", reason, advice)


def if_arrived(arrived: Check, check: Check) -> Check:
    """Distances to the new weights say nothing of the cache where the weights did not arrive."""
    if arrived.verdict != "drift" or check.unit != "nats" or check.verdict == "parity":
        return check
    if not check.reason.startswith(REFUSED):
        reason = "cannot be told, because the new weights did not arrive"
        return Check(
            check.name, check.engine, "inconclusive", check.value, check.limit, check.unit, reason
        )
    return check


def no_stale_prefix(run: EngineRun, ruler: Ruler, floor: Distance) -> Check:
    """A prompt seen before the update and re-issued after it equals a cold engine."""
    name = "no_stale_prefix"
    reissued = run.of("reissued")
    estimate = ruler.measure(reissued, lambda request: request.to_cold())
    assert estimate is not None
    cached = sum(request.cached_tokens for request in reissued)
    if run.prefix_caching and max(r.prompt_tokens for r in reissued) <= run.block_size:
        reason = f"no prompt is longer than a cache block of {run.block_size} tokens"
        return Check(
            *(name, run.role, "inconclusive", None, ruler.limit, "nats", reason),
            "use longer prompts",
        )
    verdict, why = ruler.judge(estimate, floor)
    source = "prefix caching is off"
    if run.prefix_caching:
        source = f"{cached} of their prompt tokens came from the prefix cache"
    largest = max(float(request.to_cold().max()) for request in reissued)
    reason = (
        f"re-issued prompts are {_nats(estimate)} (max {largest:.3g}) from a cold engine with the "
        f"new weights; {source}{why}"
    )
    advice = ""
    if verdict == "drift" and cached:
        advice = (
            "KV of the old weights is served from the cache: set clear_cache = true, or "
            "enable_prefix_caching = false, or call reset_prefix_cache() after the update and look "
            "at what it returns"
        )
    return Check(name, run.role, verdict, estimate.value, ruler.limit, "nats", reason, advice)


def _after_the_switch(request: Request, distance: Floats) -> Floats:
    return distance[request.versions > request.started]


def separation(run: EngineRun, ruler: Ruler) -> Distance | None:
    """How far apart keeping and recomputing are, on the tokens behind the boundary."""

    def distance(request: Request) -> Floats:
        if request.kept is None:
            return np.zeros(0)
        own = request.cold[request.versions, np.arange(len(request.logprobs))]
        return _after_the_switch(request, np.abs(request.kept - own))

    return ruler.measure(run.of("in_flight"), distance)


def in_flight_as_declared(run: EngineRun, ruler: Ruler, floor: Distance) -> tuple[Handling, Check]:
    """What became of the requests under way, and whether it is what the mode says."""
    name, requests = "in_flight_as_declared", run.of("in_flight")
    after = sum(int((request.versions > request.started).sum()) for request in requests)
    aborted = sum(request.finish_reason == "abort" for request in requests)
    if run.declared in ("drained", "aborted") or not after:
        measured: Handling = "unclear" if after else "aborted" if aborted else "drained"
        verdict: Verdict = "parity" if measured == run.declared else "drift"
        reason = (
            f"declared {run.declared}; of {len(requests)} requests in flight {aborted} were "
            f"aborted, and {after} of their tokens came from the new weights"
        )
        check = Check(name, run.role, verdict, float(after), 0.0, "tokens", reason)
        return measured, _reset_counts(run, check)
    kept = ruler.measure(
        requests,
        lambda r: np.zeros(0) if (d := r.to_kept()) is None else _after_the_switch(r, d),
    )
    cold = ruler.measure(requests, lambda r: _after_the_switch(r, r.to_cold()))
    apart = separation(run, ruler)
    assert kept is not None
    assert cold is not None
    assert apart is not None
    if ruler.inside(apart) != "drift":
        reason = (
            f"keeping and recomputing the KV differ by {_nats(apart)} here, which a limit of "
            f"{ruler.limit:g} does not tell apart"
        )
        check = Check(
            *(name, run.role, "inconclusive", apart.value, ruler.limit, "nats", reason),
            "use checkpoints that are further apart, or more requests",
        )
        return "unclear", _reset_counts(run, check)
    inside = {"kept": ruler.inside(kept), "recomputed": ruler.inside(cold)}
    measured = "unclear"
    if inside == {"kept": "parity", "recomputed": "drift"}:
        measured = "kept"
    elif inside == {"kept": "drift", "recomputed": "parity"}:
        measured = "recomputed"
    judged = kept if run.declared == "kept" else cold
    verdict, why = ruler.judge(judged, floor)
    reason = (
        f"declared {run.declared}; behind the boundary the tokens are {_nats(kept)} from the new "
        f"weights over the kept KV, {_nats(cold)} from a cold engine with the new weights{why}"
    )
    check = Check(name, run.role, verdict, judged.value, ruler.limit, "nats", reason)
    return measured, _reset_counts(run, check)


def _reset_counts(run: EngineRun, check: Check) -> Check:
    """A clearing that was declared and refused is drift, whatever the tokens look like."""
    if not (run.clear_cache and run.refused_reset):
        return check
    return Check(
        check.name,
        check.engine,
        "drift",
        check.value,
        check.limit,
        check.unit,
        f"{REFUSED} (it returned false); {check.reason}",
        "a cache cannot be reset while requests hold its blocks: reset with "
        "reset_running_requests = true, or when nothing is in flight",
    )


def nothing_lost(run: EngineRun) -> Check:
    """Every request ends with all its tokens; what was aborted as declared is issued again."""
    missing = {r.sample_id: r.wanted - len(r.logprobs) for r in run.requests}
    declared_aborts = {
        request.sample_id
        for request in run.of("in_flight")
        if run.declared == "aborted" and request.finish_reason == "abort"
    }
    lost = {s: n for s, n in missing.items() if n and s not in declared_aborts}
    reason = f"all {len(run.requests)} requests ended with all their tokens"
    if declared_aborts:
        reason = (
            f"{len(declared_aborts)} requests were aborted as declared and issued again; all "
            "others ended with all their tokens"
        )
    if lost:
        reason = f"{len(lost)} of {len(run.requests)} requests lack tokens: {_named(list(lost))}"
    verdict: Verdict = "drift" if lost else "parity"
    return Check(
        "nothing_lost", run.role, verdict, float(sum(lost.values())), 0.0, "tokens", reason
    )


def reference_analogue(
    reference: EngineRun, candidate: EngineRun, measured: Mapping[str, Handling]
) -> Check:
    """Both engines put the same tokens of the same requests under the same policy, the same way.

    The number is the share of in-flight tokens, place by place, that one engine has under another
    policy version than the other, or does not have, or has over KV that was treated otherwise.
    """
    name = "reference_analogue"
    ways = (measured[reference.role], measured[candidate.role])
    rows = [
        (_versions(left, r), _versions(right, r), left, right)
        for left, right in zip(reference.of("in_flight"), candidate.of("in_flight"), strict=True)
        for r in [max(len(left.logprobs), len(right.logprobs))]
    ]
    differing = sum(a.switches != b.switches for _, _, a, b in rows)
    unlike = [(a != b) | ((a > 0) & (ways[0] != ways[1])) for a, b, _, _ in rows]
    share = float(np.concatenate(unlike).mean())
    lags = [lag_shares(run.of("in_flight"), run.newest) for run in (reference, candidate)]
    reason = (
        f"switch points differ in {differing} of {len(rows)} requests; lags in the reference "
        f"{_shares(lags[0])}, in the candidate {_shares(lags[1])}; KV {ways[0]} in the reference, "
        f"{ways[1]} in the candidate"
    )
    verdict: Verdict = "drift" if share else "parity"
    advice = 'mode = "keep", clear_cache = false is what V0 did' if share else ""
    if share and ways[0] == ways[1] and any(map(_staggered, (reference, candidate))):
        # Another number of prefill steps is no difference in the update.
        verdict = "inconclusive"
        reason += "; prompts were prefilled in several steps, so the schedules differ"
        advice = "raise max_num_batched_tokens, or lower weight_sync.concurrency"
    if "unclear" in ways and not differing:
        verdict = "inconclusive"
    return Check(name, "both", verdict, share, 0.0, "share", reason, advice)


def _staggered(run: EngineRun) -> bool:
    """Whether the requests in flight were not at the same token when an update came."""
    return len({r.switches for r in run.of("in_flight") if r.switches}) > 1


def _versions(request: Request, length: int) -> Ints:
    """[length] versions, -1 where the request has no token."""
    padded: Ints = np.full(length, -1, dtype=np.int64)
    padded[: len(request.logprobs)] = request.versions
    return padded


def _shares(lags: Sequence[float]) -> str:
    return ", ".join(f"{100 * share:.0f} % at {lag}" for lag, share in enumerate(lags) if share)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _nats(distance: Distance) -> str:
    value = distance.value
    if not value:
        return "0"
    return f"{value:.5f}" if value >= SHOWN else f"{value:.0e}"
