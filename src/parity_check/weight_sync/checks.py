"""The six checks of an in-flight weight update.

While the weights change from A to B, a request can return three kinds of logprobs. Each token is
compared with oracles that replay the same tokens: cold engines started with A and with B, and B on
the KV computed by A, which is the correct result of an update that keeps the cache. The oracle that
the tokens after the update match shows what happened to the cache.

Distances are mean |Δ| in nats per token, Δ = logprob of the oracle - returned logprob, with an
interval clustered by prompt, judged against one limit. If an engine differs from itself by more
than the limit before any update, the check is inconclusive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity_check.measure.gates import Verdict
from parity_check.weight_sync.distance import Distance, Ruler
from parity_check.weight_sync.observed import EngineRun, Floats, Handling, Ints, Request, lag_shares

SHOWN = 5e-6
"""The smallest value visible in five decimals."""
NAMED = 3
"""How many parameters a sentence names; report.json has all."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its verdict, and the value judged against its limit."""

    name: str
    engine: str
    verdict: Verdict
    value: float | None
    limit: float
    unit: str
    reason: str
    advice: str = ""


def stale_parameters(run: EngineRun) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Parameters with the old weights, and parameters with neither old nor new weights."""
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
    """All parameters and fresh requests equal those of a cold engine with the new weights.

    Fresh requests with a prefix-cache hit are excluded; `no_stale_prefix` checks those.
    """
    name = "weights_arrived"
    old, new = run.cold[0].parameters, run.cold[run.newest].parameters
    changing = sum(old.get(each) != digest for each, digest in new.items())
    if unchanged or wrong:
        stale = len(unchanged) + len(wrong)
        if len(unchanged) == changing and not wrong:
            reason = (
                f"none of the {changing} parameters that differ between the checkpoints changed: "
                "the update did nothing, or wrote to a copy"
            )
        else:
            parts = [
                f"{len(names)} of {len(new)} parameters {what}: {_named(names)}"
                for names, what in (
                    (unchanged, "still have the old weights"),
                    (wrong, "have neither the old nor the new weights"),
                )
                if names
            ]
            reason = "; ".join(parts)
        advice = "compare the parameter names that the update loads with those of the checkpoint"
        return Check(name, run.role, "drift", float(stale), 0.0, "parameters", reason, advice)
    fresh = [request for request in run.of("fresh") if not request.cached_tokens]
    estimate = ruler.measure(fresh, lambda request: request.to_cold())
    if estimate is None:
        reason = "all parameters have the new weights, but every fresh request hit the prefix cache"
        return Check(name, run.role, "inconclusive", None, ruler.limit, "nats", reason)
    verdict, why = ruler.judge(estimate, floor)
    reason = (
        f"all {len(new)} parameters have the new weights ({changing} changed); fresh requests "
        f"differ by {_nats(estimate)} from a cold engine with the new weights{why}"
    )
    advice = ""
    if verdict == "drift":
        advice = "something derived from the weights was not refreshed: a cache or a packed copy"
    return Check(name, run.role, verdict, estimate.value, ruler.limit, "nats", reason, advice)


def lm_head_refreshed(run: EngineRun) -> Check:
    """The lm_head, copies included, gives the logits of a cold engine with the new weights."""
    old, new, found = (w.head for w in (run.cold[0], run.cold[run.newest], run.after))
    distance = float(np.abs(found - new).max())
    change = float(np.abs(new - old).max())
    reason = (
        f"logits of fixed hidden states are within {distance:.3g} of those of a cold engine; the "
        f"update changes them by up to {change:.3g} ({run.after.head_dtype} head)"
    )
    limit = change / 100
    if distance <= limit:
        return Check("lm_head_refreshed", run.role, "parity", distance, limit, "logits", reason)
    advice = "refresh copies of lm_head.weight (float32 or packed) after each update"
    return Check("lm_head_refreshed", run.role, "drift", distance, limit, "logits", reason, advice)


def if_arrived(arrived: Check, check: Check) -> Check:
    """Make a check of the cache inconclusive if the new weights did not arrive."""
    if arrived.verdict != "drift" or check.unit != "nats" or check.verdict == "parity":
        return check
    reason = "not known, because the new weights did not arrive"
    return Check(
        check.name, check.engine, "inconclusive", check.value, check.limit, check.unit, reason
    )


def no_stale_prefix(run: EngineRun, ruler: Ruler, floor: Distance) -> Check:
    """A prompt issued again after the update gets the logprobs of a cold engine."""
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
        f"re-issued prompts differ by {_nats(estimate)} (max {largest:.3g}) from a cold engine "
        f"with the new weights; {source}{why}"
    )
    advice = ""
    if verdict == "drift" and cached:
        advice = (
            "the cache serves KV of the old weights: set clear_cache = true or "
            "enable_prefix_caching = false, or call reset_prefix_cache() after the update and "
            "check its return value"
        )
    return Check(name, run.role, verdict, estimate.value, ruler.limit, "nats", reason, advice)


def _after_the_switch(request: Request, distance: Floats) -> Floats:
    return distance[request.versions > request.started]


def separation(run: EngineRun, ruler: Ruler) -> Distance | None:
    """Distance between keeping and recomputing the KV, on the tokens after the update."""

    def distance(request: Request) -> Floats:
        if request.kept is None:
            return np.zeros(0)
        own = request.cold[request.versions, np.arange(len(request.logprobs))]
        return _after_the_switch(request, np.abs(request.kept - own))

    return ruler.measure(run.of("in_flight"), distance)


def in_flight_as_declared(run: EngineRun, ruler: Ruler, floor: Distance) -> tuple[Handling, Check]:
    """What happened to the requests in flight, and whether that is what the mode declares."""
    name, requests = "in_flight_as_declared", run.of("in_flight")
    after = sum(int((request.versions > request.started).sum()) for request in requests)
    aborted = sum(request.finish_reason == "abort" for request in requests)
    if run.declared in ("drained", "aborted") or not after:
        measured: Handling = "unclear" if after else "aborted" if aborted else "drained"
        verdict: Verdict = "parity" if measured == run.declared else "drift"
        reason = (
            f"declared {run.declared}; {aborted} of {len(requests)} requests in flight were "
            f"aborted, and {after} of their tokens came from the new weights"
        )
        check = Check(name, run.role, verdict, float(after), 0.0, "tokens", reason)
        return measured, check
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
            f"keeping and recomputing the KV differ by only {_nats(apart)}, which a limit of "
            f"{ruler.limit:g} cannot distinguish"
        )
        check = Check(
            *(name, run.role, "inconclusive", apart.value, ruler.limit, "nats", reason),
            "use checkpoints that differ more, or more requests",
        )
        return "unclear", check
    inside = {"kept": ruler.inside(kept), "recomputed": ruler.inside(cold)}
    measured = "unclear"
    if inside == {"kept": "parity", "recomputed": "drift"}:
        measured = "kept"
    elif inside == {"kept": "drift", "recomputed": "parity"}:
        measured = "recomputed"
    judged = kept if run.declared == "kept" else cold
    verdict, why = ruler.judge(judged, floor)
    reason = (
        f"declared {run.declared}; tokens after the update differ by {_nats(kept)} from the new "
        f"weights on the kept KV, and by {_nats(cold)} from a cold engine with the new weights{why}"
    )
    check = Check(name, run.role, verdict, judged.value, ruler.limit, "nats", reason)
    return measured, check


def unless_refused(run: EngineRun, check: Check) -> Check:
    """Make a check drift if the engine refused a cache reset that the mode declares."""
    if not (run.clear_cache and run.refused_reset):
        return check
    return Check(
        check.name,
        check.engine,
        "drift",
        check.value,
        check.limit,
        check.unit,
        f"the cache reset was refused (it returned false); {check.reason}",
        "a cache cannot be reset while requests use its blocks: pass reset_running_requests = "
        "true, or reset when no request is in flight",
    )


def nothing_lost(run: EngineRun) -> Check:
    """Every request finishes with all its tokens; declared aborts are issued again."""
    missing = {r.sample_id: r.wanted - len(r.logprobs) for r in run.requests}
    declared_aborts = {
        request.sample_id
        for request in run.of("in_flight")
        if run.declared == "aborted" and request.finish_reason == "abort"
    }
    lost = {s: n for s, n in missing.items() if n and s not in declared_aborts}
    reason = f"all {len(run.requests)} requests finished with all their tokens"
    if declared_aborts:
        reason = (
            f"{len(declared_aborts)} requests were aborted as declared and issued again; all "
            "others finished with all their tokens"
        )
    if lost:
        reason = f"{len(lost)} of {len(run.requests)} requests are missing tokens: "
        f"{_named(list(lost))}"
    verdict: Verdict = "drift" if lost else "parity"
    return Check(
        "nothing_lost", run.role, verdict, float(sum(lost.values())), 0.0, "tokens", reason
    )


def reference_analogue(
    reference: EngineRun, candidate: EngineRun, measured: Mapping[str, Handling]
) -> Check:
    """Both engines generated their tokens under the same policy versions and KV handling.

    The value is the share of in-flight tokens, position by position, that differ in policy version,
    exist on one engine only, or differ in KV handling.
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
    advice = 'V0 behaves like mode = "keep", clear_cache = false' if share else ""
    if share and ways[0] == ways[1] and any(map(_staggered, (reference, candidate))):
        # A different number of prefill steps is not a difference in the update.
        verdict = "inconclusive"
        reason += "; prompts were prefilled in several steps, so the schedules differ"
        advice = "raise max_num_batched_tokens, or lower weight_sync.concurrency"
    if "unclear" in ways and not differing:
        verdict = "inconclusive"
    return Check(name, "both", verdict, share, 0.0, "share", reason, advice)


def _staggered(run: EngineRun) -> bool:
    """Whether the requests in flight were at different tokens when an update happened."""
    return len({r.switches for r in run.of("in_flight") if r.switches}) > 1


def _versions(request: Request, length: int) -> Ints:
    """Versions [length], -1 where the request has no token."""
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
