"""How to read the numbers, and what each of them is."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check.comparison.labels import share_label
from parity_check.comparison.report import ComparisonReport
from parity_check.measure.gates import family_wise_rate
from parity_check.measure.metrics import METRICS
from parity_check.measure.objectives import Objective
from parity_check.report.document import Block, Definition, Definitions, Legend

FLOOR = (
    "A/A floor: the same engine replaying the same tokens in a different batch order; the larger "
    "value if both engines were rerun."
)
NO_FLOOR = "A/A floor: not measured here; there is no A/A run among the traces."


def blocks(report: ComparisonReport) -> Iterator[Block]:
    pairs = () if report.matrix is None else tuple(_pairs(report))
    yield Legend((*_sentences(report), *pairs))
    yield Definitions(tuple(_definitions(report)))


def _sentences(report: ComparisonReport) -> Iterator[str]:
    yield (
        "Δ = logprob of the evaluating engine − logprob of the engine that sampled, in nats per "
        "token; ratio = exp Δ. Numbers are over all tokens of their table unless a row gives its "
        "own n, for example where whole samples are compared."
    )
    yield (
        f"Intervals are clustered by {report.head.config['stats']['cluster_by']}. A limit is "
        "judged by the whole interval: inside is parity, outside is drift, straddling is "
        "inconclusive. A share of 0 has an upper end too, because a small share can go unseen in "
        "so few tokens; mean Δ has no such allowance, the gate on the tail stands for it."
    )
    yield (
        "Bounds on unseen events assume that tokens fail one by one. Failures of whole samples or "
        "of whole prompts are bounded by the two rows of bursts, at limits that follow from k3's. "
        "The far ends of k3 and of the mean ratio allow for either kind, a burst with Δ of N(0, 1)."
    )
    wrong = min(1.0, report.workload.most_looks * family_wise_rate(report.gates))
    if wrong:
        yield (
            f"False drift: at most {100 * wrong:.3g} % of runs of a pair that is exactly at every "
            "limit (about a third of that if simulated), and practically none at half of them."
        )
    yield FLOOR if report.floors else NO_FLOOR
    for objective in _shown_objectives(report):
        yield _explained(report, objective)
    yield from _loss(report)


def _shown_objectives(report: ComparisonReport) -> list[Objective]:
    """The configured objective, and the cap that is shown next to a clip."""
    beside = report.pairs[0].directions[0].beside
    return [report.objective, *([] if beside is None else [beside.objective])]


def _explained(report: ComparisonReport, objective: Objective) -> str:
    sentence = objective.sentence[0].lower() + objective.sentence[1:].rstrip(".")
    positive = report.head.config["objective"]["positive_share"]
    assumed = f", and a share of {positive:g} of the advantages is positive"
    if objective.high_counts == objective.low_counts == "any":
        assumed = ""
    wiring = {
        "bypass": "This is the objective's own clip rate at its first step if the loss uses the "
        f"ratio of trainer to rollout engine (bypass) and nothing else changed{assumed}.",
        "recompute": "This is what the same mismatch does to a loss that recomputes its old "
        "logprobs (recompute): the ratio is 1 at the first step, and only the importance weight "
        "sees Δ.",
    }[objective.wiring]
    if objective.wiring == "recompute" and objective.kind == "clip":
        wiring = f"This is not the framework's own number: {objective.counter.difference}."
    return (
        f"{share_label(objective)}: {sentence}; {objective.edges_in_words()}, as in "
        f"{objective.counter} ({objective.source}). {wiring}"
    )


def _loss(report: ComparisonReport) -> Iterator[str]:
    """Which of the numbers apply to the configured loss, where the configuration says."""
    wiring = report.head.config["objective"].get("logprobs")
    if wiring == "bypass":
        yield (
            'objective.logprobs = "bypass": the loss uses the rollout logprobs as its old '
            "logprobs, so the mean ratio and the clip fraction are those of its first step."
        )
    if wiring == "recompute":
        yield (
            'objective.logprobs = "recompute": the ratio of the loss starts at 1 and nothing is '
            "clipped; the truncation share is what its importance weight loses, if it has one."
        )


def _pairs(report: ComparisonReport) -> Iterator[str]:
    """How to read the table of all pairs."""
    yield (
        "a − b: Δ = logprob of a − logprob of b. If b sampled the tokens, the pair is judged, and "
        "its mean ratio is 1 unless b recorded the wrong logprobs; the other pairs are shown for "
        "comparison."
    )
    yield (
        "A trainer is also rerun with a different batch shape (one sample at a time, or eight) for "
        "its A/A floor."
    )
    yield (
        "share: Σ Δ(leg) Δ(whole) / Σ Δ(whole)². The shares of the two legs add up to 1, and their "
        "mean Δ add up to the mean Δ of the whole. A leg with the opposite sign has a negative "
        "share. Three engines with independent errors of one size share half and half."
    )


def _definitions(report: ComparisonReport) -> Iterator[Definition]:
    """The metrics that were measured."""
    measured = {
        estimate.name
        for pair in report.pairs
        for direction in pair.directions
        for estimate in direction.measurement.estimates
    }
    for name, metric in METRICS.items():
        if name in measured:
            healthy = f"{metric.better} is better"
            if metric.better == "target":
                healthy = f"healthy at {metric.target:g}"
            text = (
                f"{metric.definition}. Unit: {metric.unit}; {healthy}. Changed by {metric.moved_by}"
            )
            yield Definition(f"metric-{name}", metric.label, name, text, metric.source)
    yield Definition(
        "quantiles",
        "|Δ| p50 to p99.9, max",
        "quantiles",
        "The |Δ| that this share of the tokens does not exceed, and the largest |Δ|. Unit: nats; "
        "lower is better; never gated",
        "Intervals: Woodruff, JASA 1952",
    )
