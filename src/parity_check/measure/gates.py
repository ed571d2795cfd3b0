"""Verdicts: estimate, limit and noise floor → parity, drift or inconclusive.

An equivalence test on the printed interval: wholly inside the limit is parity, wholly outside is
drift, anything else is inconclusive. A difference that was not detected is not evidence of parity.
A run is in parity only if every gate is, so no multiple-testing correction is needed. It drifts if
any gate does, and each gate reports a false drift in at most 2.5 % of runs whose true value is
exactly at the limit: `family_wise_rate` is what that adds up to. It is printed and not corrected,
because a corrected verdict would no longer be that of the printed interval, and because a pair at
half its limits is practically never called drift (simulated, docs/reference/metrics.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from parity_check.errors import TraceMismatchError
from parity_check.measure import stats
from parity_check.measure.invalid import InvalidCount
from parity_check.measure.limits import Limit
from parity_check.measure.metrics import METRICS
from parity_check.measure.results import Measurement
from parity_check.measure.stats import Estimate

Verdict: TypeAlias = Literal["parity", "drift", "inconclusive"]


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's verdict and why.

    `required_limit` is the tightest limit that would have passed. `prompts_needed` is the number of
    prompts that would resolve an inconclusive gate, `prompts_if_clean` the number if the value were
    at its target, with the same spread. They are None if no such number exists.
    """

    metric: str
    sampled_by: str
    verdict: Verdict
    reason: str
    limit: Limit
    estimate: Estimate | None = None
    floor: Estimate | None = None
    required_limit: float | None = None
    prompts_needed: int | None = None
    prompts_if_clean: int | None = None


MOST_CERTAIN = 0.95
"""Where more of the tokens have a logprob of 0 on both sides, their agreement is no parity."""
MOST_REPEATED = 0.3
"""The same of the other tokens, where so many repeat the logprobs of the token before them, which
a token may in a loop of the model that is rounded to bf16; or those of another sample."""


def judge(
    estimate: Estimate,
    limit: Limit,
    floor: Estimate | None = None,
    *,
    prompts: int | None = None,
) -> GateResult:
    """Judge one estimate by its printed interval.

    `floor` is the same metric of an engine against itself. If it is outside the limit, the gate is
    inconclusive. `prompts` is the number of prompts in the estimate's clusters, if that is not the
    same.
    """
    low, high = limit.edges()
    result = GateResult(
        limit.metric, estimate.sampled_by, "inconclusive", "", limit, estimate, floor,
        required_limit=_required(estimate, limit, floor),
    )  # fmt: skip
    words = _words(estimate)
    if floor is not None and not low <= floor.value <= high:
        needed = limit.needed_for(floor.value, floor.value)
        advice = (
            "enable batch invariance"
            if limit.kind == "exact"
            else f"enable batch invariance, or choose a limit wider than {needed:.5g}"
        )
        return replace(
            result,
            reason="the engine is not reproducible at this limit: its noise floor is "
            f"{floor.value:.5g}, the limit is {limit.wording()}; {advice}",
        )
    nothing = math.isnan(estimate.value)
    if limit.kind == "exact" and estimate.value != limit.value and not nothing:
        return replace(result, verdict="drift", reason=f"{words}, must be {limit.wording()}")
    if estimate.ci_low is None or estimate.ci_high is None:
        reason = estimate.note if nothing else f"{words}; {estimate.note}"
        least = _prompts(estimate, prompts, _least(estimate))
        return replace(result, reason=reason, prompts_needed=least)
    if limit.kind == "exact":
        return replace(result, verdict="parity", reason=f"{words}: bit-identical")
    if low <= estimate.ci_low and estimate.ci_high <= high:
        reason = f"{words} is inside the limit, {limit.wording()}"
        if floor is not None and _within(estimate, floor):
            reason += "; within the engine's own noise"
        return replace(result, verdict="parity", reason=reason)
    if estimate.ci_low > high or estimate.ci_high < low:
        reason = f"{words} is outside the limit, {limit.wording()}"
        return replace(result, verdict="drift", reason=reason)
    mean, edge = _as_means(estimate, limit)
    error = _standard_error(mean)
    settling, if_clean = (
        _prompts(estimate, prompts, _clusters_needed(mean, edge, assumed, noise))
        for assumed, noise in ((mean.value, error), (edge.target, 0.0))
    )
    fewer = if_clean is not None and (settling is None or if_clean < settling)
    clean = f"if nothing drifts: {if_clean:,}; " if fewer else ""
    now = f"({clean}now {prompts or estimate.clusters:,})"
    more = (
        f"the estimate is at the limit; more prompts will not resolve it {now}"
        if settling is None
        else f"about {_number(settling, mean, edge, prompts)} prompts would resolve it {now}"
    )
    reason = f"{words} straddles the limit, {limit.wording()}; {more}"
    return replace(result, reason=reason, prompts_needed=settling, prompts_if_clean=if_clean)


def _words(estimate: Estimate) -> str:
    if estimate.ci_low is None or estimate.ci_high is None:
        return f"{estimate.value:.5g}"
    interval = f"{estimate.ci_low:.5g} to {estimate.ci_high:.5g}"
    return f"{estimate.value:.5g} ({100 * estimate.level:g} % interval {interval})"


def _required(estimate: Estimate, limit: Limit, floor: Estimate | None) -> float | None:
    if limit.kind == "exact" or estimate.ci_low is None or estimate.ci_high is None:
        return None
    needed = [limit.needed_for(estimate.ci_low, estimate.ci_high)]
    if floor is not None:
        needed.append(limit.needed_for(floor.value, floor.value))
    return min(needed) if limit.kind == "lower" else max(needed)


def _within(estimate: Estimate, floor: Estimate) -> bool:
    if floor.ci_low is None or floor.ci_high is None:
        return False
    return floor.ci_low <= estimate.value <= floor.ci_high


def _prompts(estimate: Estimate, prompts: int | None, clusters: int | None) -> int | None:
    """The prompts in so many clusters, if there are as many in each as in those of the estimate."""
    if clusters is None or prompts is None:
        return clusters
    return math.ceil(clusters * prompts / estimate.clusters)


def _number(settling: int, estimate: Estimate, limit: Limit, prompts: int | None) -> str:
    """How many prompts settle a gate; a range if one standard error makes it twice as many."""
    error = _standard_error(estimate)
    ends = estimate.value - error, estimate.value + error
    few, many = (_prompts(estimate, prompts, _clusters_needed(estimate, limit, e)) for e in ends)
    if few is None or many is None or any(ends[0] <= edge <= ends[1] for edge in limit.edges()):
        return f"{settling:,} or far more"
    few, many = sorted((few, many))
    return f"{few:,} to {many:,}" if many > 2 * few else f"{settling:,}"


def _least(estimate: Estimate) -> int | None:
    """The number of such clusters that an interval needs."""
    if not estimate.effective_clusters:
        return None
    return math.ceil(stats.FEWEST_CLUSTERS * estimate.clusters / estimate.effective_clusters)


def _as_means(estimate: Estimate, limit: Limit) -> tuple[Estimate, Limit]:
    """Both on the scale on which the interval is that of a mean: for ESS, 1 / ESS - 1."""
    if not limit.metric.startswith("ess"):
        return estimate, limit
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    value, low, high, seen, edge, target = (
        1.0 / share - 1.0
        for share in (
            estimate.value, estimate.ci_high, estimate.ci_low, estimate.ci_low + estimate.unseen,
            limit.value, limit.target,
        )
    )  # fmt: skip
    mean = replace(
        estimate, value=value, ci_low=low, ci_high=high, unseen=high - seen, unit="variation"
    )
    return mean, replace(limit, value=edge, target=target, kind="upper")


def _standard_error(estimate: Estimate) -> float:
    """Of the wider side of the interval, without what is allowed for unseen events."""
    assert estimate.ci_low is not None
    assert estimate.ci_high is not None
    half = max(estimate.value - estimate.ci_low, estimate.ci_high - estimate.value)
    return (half - estimate.unseen) / stats.t_quantile(estimate.clusters, estimate.level)


def _clusters_needed(
    estimate: Estimate, limit: Limit, value: float, noise: float = 0.0
) -> int | None:
    """The number of such clusters that would settle the gate if the estimate were `value`.

    `noise` is the standard error of that value.
    """
    distance = min(abs(value - edge) for edge in limit.edges() if math.isfinite(edge))
    spread = _standard_error(estimate) * math.sqrt(estimate.clusters)
    unseen = estimate.unseen
    # The bound of a share of 0, 1 - 0.025^(1 / n), shrinks a little slower than 1 / n.
    if estimate.unit == "share":
        unseen = -math.log1p(-min(unseen, 0.999))
    elif unseen:
        size = {**stats.UNSEEN_TOKEN, **stats.UNSEEN_CLUSTER}[limit.metric]
        share = min(unseen / size, 0.999)
        unseen *= -math.log1p(-share) / share
    return stats.clusters_needed(spread, distance, unseen * estimate.clusters, noise)


def judge_invalid(counts: Iterable[InvalidCount], sampled_by: str) -> tuple[GateResult, ...]:
    """One drift result for each kind of invalid logprob that occurred: their limit is 0.

    Tokens that cannot have been sampled have their own metric, `impossible_fraction`.
    """
    return tuple(
        GateResult(
            f"invalid.{entry.kind}", sampled_by, "drift",
            f"{entry.count:,} in the {entry.engine} engine's trace: {entry.sentence}",
            Limit(f"invalid.{entry.kind}", 0.0, "upper", "invalid logprobs are gated at 0"),
        )
        for entry in counts
        if entry.kind != "impossible"
    )  # fmt: skip


def judge_all(
    measurement: Measurement, limits: Iterable[Limit], floors: Iterable[Measurement] = ()
) -> tuple[GateResult, ...]:
    """Judge one direction: invalid logprobs first, then every limit."""
    floors = list(floors)
    results = list(judge_invalid(measurement.invalid, measurement.sampled_by))
    for limit in limits:
        estimate = measurement.get(limit.metric)
        if estimate is None:
            reason = "not recorded: needs workload.top_logprobs"
            results.append(
                GateResult(limit.metric, measurement.sampled_by, "inconclusive", reason, limit)
            )
            continue
        floor = worst_floor(limit.metric, floors)
        prompts = measurement.prompts
        results.append(judge(estimate, limit, floor, prompts=prompts))
    reason = _says_nothing(measurement)
    return tuple(_unsupported(result, reason) for result in results) if reason else tuple(results)


def _says_nothing(measurement: Measurement) -> str:
    """Why agreement is no parity: most tokens have no logprob that says anything."""
    tokens, certain, repeated = measurement.tokens, measurement.certain, measurement.repeated
    if certain > MOST_CERTAIN * tokens:
        return (
            f"{_part(certain, tokens)} logprobs are 0 on both sides: not recorded, or no token was "
            "left to chance (then sample at a higher temperature)"
        )
    if repeated > MOST_REPEATED * (tokens - certain):
        return (
            f"{_part(repeated, tokens)} logprobs repeat those of the token before them on both "
            "sides: they are constants, not the logprobs of these tokens"
        )
    if measurement.copied > MOST_REPEATED * tokens:
        return (
            f"{_part(measurement.copied, tokens)} logprobs are of samples that begin with the "
            "logprobs of another one, although their tokens differ: they are placeholders, or "
            "belong to other samples"
        )
    return ""


def _part(count: int, tokens: int) -> str:
    return f"all {tokens:,}" if count >= tokens else f"{count:,} of {tokens:,}"


def _unsupported(result: GateResult, reason: str) -> GateResult:
    """No parity and no interval, for this reason; a drift is one all the same.

    More prompts would have as many such tokens.
    """
    if result.verdict == "drift" or result.estimate is None:
        return result
    return replace(
        result,
        verdict="inconclusive",
        reason=reason,
        estimate=replace(result.estimate, ci_low=None, ci_high=None, note=reason, unseen=0.0),
        required_limit=None,
        prompts_needed=None,
        prompts_if_clean=None,
    )


def worst_floor(metric: str, floors: Iterable[Measurement]) -> Estimate | None:
    """The noise floor that is farthest from the value of a bit-reproducible engine."""
    own = [
        floor
        for run in floors
        if (floor := run.get(metric)) is not None and not math.isnan(floor.value)
    ]
    target = METRICS[metric].target
    return max(own, key=lambda floor: abs(floor.value - target), default=None)


def family_wise_rate(results: Iterable[GateResult]) -> float:
    """The largest probability of drift for a run that is exactly at the limit of every gate.

    Bonferroni's bound, (1 - level) / 2 for each gate that is judged by an interval. Gates of one
    run go together, so that simulated runs are called drift about a third as often.
    """
    tails = (
        (1.0 - result.estimate.level) / 2
        for result in results
        if result.estimate is not None and result.limit.kind != "exact"
    )
    return min(1.0, sum(tails))


def overall(results: Iterable[GateResult]) -> Verdict:
    """Drift if any gate drifts, else inconclusive if any is. Raises TraceMismatchError if empty."""
    verdicts = {result.verdict for result in results}
    if not verdicts:
        raise TraceMismatchError("nothing was compared, so there is no verdict")
    if "drift" in verdicts:
        return "drift"
    return "inconclusive" if "inconclusive" in verdicts else "parity"
