"""Did an in-flight weight update do what it declares? The six checks.

While the weights change from A to B, a request returns logprobs of up to three kinds. Cold engines,
started with A and with B, replay the same tokens; a third replay loads B over the KV that A had
computed, which is what an update that keeps the cache gives. Which of them the tokens after the
switch match shows what happened to the cache, whatever was declared.

Distances are mean |Δ| in nats per token, Δ = logprob of the replay - logprob that was returned.
Their interval, clustered by prompt, is judged against one limit. Where the engine differs from
itself by more than the limit before any update, they are inconclusive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from parity_check.measure.gates import Verdict
from parity_check.weight_sync.distance import Distance, Ruler
from parity_check.weight_sync.observed import EngineRun, Floats, Handling, Ints, Request, lag_shares

Unit = Literal["nats", "logits", "parameters", "tokens", "share"]

OF_ONE_ENGINE = (
    "weights_arrived",
    "lm_head_refreshed",
    "no_stale_prefix",
    "in_flight_as_declared",
    "nothing_lost",
)
OF_TWO_ENGINES = "reference_analogue"
SHOWN = 5e-6
"""The smallest value that five decimals show."""
NAMED = 3
"""How many parameters a sentence names; report.json has all."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question, its verdict, and the number that was judged against its limit.

    `engine` is a role, or `both`.
    """

    name: str
    engine: str
    verdict: Verdict
    value: float | None
    limit: float
    unit: Unit
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
    """Parameters and logprobs of new requests equal those of a cold engine with the new weights.

    New requests that hit the prefix cache are left out: `no_stale_prefix` covers them.
    """
    name = "weights_arrived"
    old, new = run.cold[0].parameters, run.cold[run.newest].parameters
    changing = sum(old.get(each) != digest for each, digest in new.items())
    if unchanged or wrong:
        stale = len(unchanged) + len(wrong)
        if len(unchanged) == changing and not wrong:
            reason = (
                f"none of the {changing} parameters that should change has changed: the update did "
                "nothing, or wrote to a copy"
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
        advice = "compare the names that the update loads with those in the checkpoint"
        return Check(name, run.role, "drift", float(stale), 0.0, "parameters", reason, advice)
    fresh = [request for request in run.of("fresh") if not request.cached_tokens]
    estimate = ruler.measure(fresh, lambda request: request.to_cold())
    if estimate is None:
        reason = "all parameters have the new weights, but every new request hit the prefix cache"
        return Check(name, run.role, "inconclusive", None, ruler.limit, "nats", reason)
    verdict, why = ruler.judge(estimate, floor)
    reason = (
        f"all {len(new)} parameters have the new weights ({changing} changed); new requests differ "
        f"by {_nats(estimate)} from a cold engine with the new weights{why}"
    )
    advice = ""
    if verdict == "drift":
        advice = "something derived from the weights was not refreshed: a cache, or a packed copy"
    return Check(name, run.role, verdict, estimate.value, ruler.limit, "nats", reason, advice)


def lm_head_refreshed(run: EngineRun) -> Check:
    """The head in use, copies included, gives the logits of a cold engine with the new weights."""
    name = "lm_head_refreshed"
    old, new, found = (w.head for w in (run.cold[0], run.cold[run.newest], run.after))
    if old is None or new is None or found is None:
        reason = "not testable: the model has no lm_head whose logits can be read"
        return Check(name, run.role, "inconclusive", None, 0.0, "logits", reason)
    distance = float(np.abs(found - new).max())
    change = float(np.abs(new - old).max())
    reason = (
        f"logits for fixed hidden states are within {distance:.3g} of a cold engine's; the update "
        f"moves them by up to {change:.3g} ({run.after.head_dtype} head)"
    )
    limit = change / 100
    if distance <= limit:
        return Check(name, run.role, "parity", distance, limit, "logits", reason)
    advice = "refresh copies of lm_head.weight (float32 or packed) on every update"
    return Check(name, run.role, "drift", distance, limit, "logits", reason, advice)


def if_arrived(arrived: Check, check: Check) -> Check:
    """The check, but inconclusive if the new weights did not arrive.

    A distance to them then shows nothing about the cache.
    """
    if arrived.verdict != "drift" or check.unit != "nats" or check.verdict == "parity":
        return check
    reason = "not testable: the new weights did not arrive"
    return replace(check, verdict="inconclusive", reason=reason, advice="")


def no_stale_prefix(run: EngineRun, ruler: Ruler, floor: Distance) -> Check:
    """A prompt sent again after the update matches a cold engine with the new weights."""
    name = "no_stale_prefix"
    reissued = run.of("reissued")
    estimate = ruler.measure(reissued, lambda request: request.to_cold())
    assert estimate is not None
    cached = sum(request.cached_tokens for request in reissued)
    if run.prefix_caching and max(r.prompt_tokens for r in reissued) <= run.block_size:
        reason = f"no prompt is longer than one cache block ({run.block_size} tokens)"
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
        f"prompts sent again differ by {_nats(estimate)} (max {largest:.3g}) from a cold engine "
        f"with the new weights; {source}{why}"
    )
    advice = ""
    if verdict == "drift" and cached:
        advice = (
            "the prefix cache serves KV of the old weights: set clear_cache = true or "
            "enable_prefix_caching = false, or call reset_prefix_cache() after the update and "
            "check its return value"
        )
    return Check(name, run.role, verdict, estimate.value, ruler.limit, "nats", reason, advice)


def _after_the_switch(request: Request, distance: Floats) -> Floats:
    return distance[request.versions > request.started]


def separation(run: EngineRun, ruler: Ruler) -> Distance | None:
    """How far apart keeping and recomputing the KV are, on the tokens after the switch."""

    def distance(request: Request) -> Floats:
        if request.kept is None:
            return np.zeros(0)
        own = request.cold[request.versions, np.arange(len(request.logprobs))]
        return _after_the_switch(request, np.abs(request.kept - own))

    return ruler.measure(run.of("in_flight"), distance)


def in_flight_as_declared(run: EngineRun, ruler: Ruler, floor: Distance) -> tuple[Handling, Check]:
    """What happened to the requests in flight, and whether it is what the mode declares."""
    name, requests = "in_flight_as_declared", run.of("in_flight")
    after = sum(int((request.versions > request.started).sum()) for request in requests)
    aborted = sum(request.finish_reason == "abort" for request in requests)
    if run.declared in ("drained", "aborted") or not after:
        measured: Handling = "unclear" if after else "aborted" if aborted else "drained"
        verdict: Verdict = "parity" if measured == run.declared else "drift"
        reason = (
            f'the mode declares "{run.declared}"; of {len(requests)} requests in flight, {aborted} '
            f"were aborted; {after} of their tokens came from the new weights"
        )
        return measured, Check(name, run.role, verdict, float(after), 0.0, "tokens", reason)
    kept = ruler.measure(
        requests,
        lambda r: np.zeros(0) if (d := r.to_kept()) is None else _after_the_switch(r, d),
    )
    cold = ruler.measure(requests, lambda r: _after_the_switch(r, r.to_cold()))
    apart = separation(run, ruler)
    if kept is None or cold is None or apart is None:
        reason = "not testable: the replay over the kept KV switched weights at other tokens"
        return "unclear", Check(name, run.role, "inconclusive", None, ruler.limit, "nats", reason)
    if ruler.inside(apart) != "drift":
        reason = (
            f"keeping and recomputing the KV differ by only {_nats(apart)} here: a limit of "
            f"{ruler.limit:g} cannot tell them apart"
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
        f'the mode declares "{run.declared}"; after the switch, tokens differ by {_nats(kept)} '
        f"from the new weights over the kept KV, and by {_nats(cold)} from a cold engine with the "
        f"new weights{why}"
    )
    return measured, Check(name, run.role, verdict, judged.value, ruler.limit, "nats", reason)


def if_reset(run: EngineRun, check: Check) -> Check:
    """The check, but drift if a declared cache reset was refused, regardless of the tokens."""
    if not (run.clear_cache and run.refused_reset):
        return check
    return replace(
        check,
        verdict="drift",
        reason=f"the cache reset was refused (it returned false); {check.reason}",
        advice="a cache cannot be reset while requests hold its blocks: pass "
        "reset_running_requests = true, or reset when nothing is in flight",
    )


def nothing_lost(run: EngineRun) -> Check:
    """Every request ends with all its tokens; those aborted as declared are sent again."""
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
            f"{len(declared_aborts)} requests were aborted as declared and sent again; all others "
            "finished with all their tokens"
        )
    if lost:
        named = _named(list(lost))
        reason = f"{len(lost)} of {len(run.requests)} requests are missing tokens: {named}"
    verdict: Verdict = "drift" if lost else "parity"
    return Check(
        "nothing_lost", run.role, verdict, float(sum(lost.values())), 0.0, "tokens", reason
    )


def reference_analogue(
    reference: EngineRun, candidate: EngineRun, measured: Mapping[str, Handling]
) -> Check:
    """Both engines sample the same tokens under the same policy, and handle the KV the same way.

    The value is the share of in-flight tokens, position by position, whose policy version or whose
    KV differs between the engines, or that only one of them has.
    """
    name = OF_TWO_ENGINES
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
        f"switch points differ in {differing} of {len(rows)} requests; reference: KV {ways[0]}, "
        f"lag {_shares(lags[0])}; candidate: KV {ways[1]}, lag {_shares(lags[1])}"
    )
    verdict: Verdict = "drift" if share else "parity"
    advice = 'V0 behaves like mode = "keep", clear_cache = false' if share else ""
    if share and ways[0] == ways[1] and any(map(_staggered, (reference, candidate))):
        # A different number of prefill steps is not a difference in the update.
        verdict = "inconclusive"
        reason += "; prompts were prefilled over several steps, so the schedules differ"
        advice = "raise max_num_batched_tokens or lower weight_sync.concurrency"
    if "unclear" in ways and not differing:
        verdict = "inconclusive"
    return Check(name, "both", verdict, share, 0.0, "share", reason, advice)


def _staggered(run: EngineRun) -> bool:
    """Whether the requests in flight were at different tokens when an update came."""
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
