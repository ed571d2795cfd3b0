"""What a report says in words: shared by every renderer that a person reads."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check.comparison.report import Direction, EngineReport, ParityReport
from parity_check.config.models import SHAPING
from parity_check.diagnosis.findings import Diagnosis, Finding, Outcome
from parity_check.measure.gates import GateResult, Verdict
from parity_check.measure.metrics import METRICS
from parity_check.measure.objectives import Objective
from parity_check.report import numbers
from parity_check.traces.provenance import Difference
from parity_check.traces.trace import UNKNOWN

MARKS: dict[Verdict, str] = {"parity": "✓", "drift": "✗", "inconclusive": "?"}
STAGE_MARKS: dict[Outcome, str] = {"pass": "✓", "fail": "✗", "not reached": "–"}
NEUTRAL = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
ADDED = ("presence_penalty", "frequency_penalty")
SHARE_OF = {"clip": "clip fraction", "truncation": "truncation share", "mask": "masked share"}


def verdict_line(report: ParityReport) -> str:
    """The last line: the verdict, how many gates stand behind it, the exit code."""
    mark, code = MARKS[report.verdict], int(report.exit_code)
    return f"{mark} {report.verdict.upper()}  {outcome(report)}  (exit {code})"


def outcome(report: ParityReport) -> str:
    """How many gates are outside their limits, or not settled."""
    gates = report.gates
    drifting, unsettled = (_count(gates, verdict) for verdict in ("drift", "inconclusive"))
    if drifting:
        outside = f"{drifting} of {len(gates)} gates outside their limits"
        return outside + (f", {unsettled} not settled" if unsettled else "")
    if unsettled:
        return f"{unsettled} of {len(gates)} gates not settled, none outside its limit"
    return f"all {len(gates)} gates inside their limits"


def lead(report: ParityReport) -> str:
    """The one sentence under a verdict: the likeliest cause, or the first gate that decided it."""
    if report.verdict != "parity" and report.diagnosis.findings:
        return report.diagnosis.findings[0].claim
    decisive = next((gate for gate in report.gates if gate.verdict == report.verdict), None)
    assert decisive is not None
    return f"{label(report, decisive.metric)} {decisive.reason}"


def _count(gates: tuple[GateResult, ...], verdict: Verdict) -> int:
    return sum(gate.verdict == verdict for gate in gates)


def workload(report: ParityReport) -> str:
    """What was compared, in one line."""
    compared = report.workload
    sampling = compared.sampling
    told = [f"temperature {sampling['temperature']:g}"] if "temperature" in sampling else []
    told += [f"{k} {sampling[k]:g}" for k, off in NEUTRAL.items() if sampling.get(k, off) != off]
    told += [f"{k} {sampling[k]:g}" for k in ADDED if sampling.get(k)]
    unknown = [name for name in SHAPING if name not in sampling]
    told += [f"not stated: {', '.join(unknown)}"] if unknown else []
    path = f"{compared.logprob_path}-path logprobs"
    if compared.logprob_path == UNKNOWN:
        path = "logprob path unknown"
    return (
        f"{compared.prompts} prompts, {compared.samples} samples, {compared.tokens:,} tokens, "
        f"{', '.join(told)}; {path}"
    )


def engine(report: EngineReport) -> str:
    """An engine by its label and what is known of it."""
    known = [each for each in (report.family.upper(),) if each != UNKNOWN.upper()]
    return ", ".join([report.label, *known])


def unrequested(report: ParityReport) -> tuple[Difference, ...]:
    """The differences between the engines that nobody asked for."""
    return tuple(each for each in report.differences if not each.requested)


def direction_title(direction: Direction) -> str:
    measured = direction.measurement
    excluded = f" ({measured.excluded:,} more are unusable)" if measured.excluded else ""
    return (
        f"{direction.told}: {measured.clusters} prompts, {measured.samples} samples, "
        f"{measured.tokens:,} tokens{excluded}"
    )


def first_divergence(direction: Direction) -> str:
    """Where the samples first differ, in one line."""
    found = direction.measurement.first_divergence
    if not found.diverged:
        return f"first difference: none, all {found.samples} samples are bit-identical"
    return (
        f"first difference: in {found.diverged} of {found.samples} samples, the earliest at token "
        f"{found.earliest}, in the median one at token {found.median:g}"
    )


def label(report: ParityReport, name: str) -> str:
    """What a metric, or a kind of invalid logprob, is called in this report."""
    if name.startswith("invalid."):
        return name.replace(".", ": ").replace("_", " ")
    if name == "clip_fraction":
        return share_label(report.objective)
    if name == "tail_fraction":
        return f"tokens with |Δ| > {report.config['stats']['tail_threshold']:g}"
    return METRICS[name].label


def share_label(objective: Objective) -> str:
    """What the share that an objective changes is called, and whose it is."""
    return f"{SHARE_OF[objective.kind]}, {objective.name}"


def legend(report: ParityReport) -> Iterator[str]:
    """How to read the numbers, a sentence each."""
    stats = report.config["stats"]
    yield (
        "Δ = logprob of the evaluating engine − logprob of the engine that sampled, nats per "
        "token; ratio = exp Δ. A number is over all tokens of its table unless its row names an n "
        "of its own, as where whole samples are compared."
    )
    yield (
        f"Intervals are clustered by {stats['cluster_by']}, and a limit is judged by the interval: "
        "inside is parity, outside is drift, across is inconclusive. A share of 0 still has an "
        "upper end: a share that large could go unseen in so few tokens."
    )
    if report.floors:
        yield (
            "A/A floor: an engine against itself, in another batch order and composition; the "
            "worse of the engines that were repeated."
        )
    else:
        yield "A/A floor: not measured here (no trace of an engine's repeat of its own tokens)."
    for objective in shown_objectives(report):
        yield _explain(report, objective)
    yield from _loss(report)


def _loss(report: ParityReport) -> Iterator[str]:
    """Which of the numbers are the configured loss's own, where the configuration says."""
    wiring = report.config["objective"].get("logprobs")
    if wiring == "bypass":
        yield (
            'objective.logprobs = "bypass": the loss takes the logprobs of the rollout as its old '
            "ones, so the mean ratio and the clip fraction are those of its first step."
        )
    if wiring == "recompute":
        yield (
            'objective.logprobs = "recompute": the loss starts at a ratio of 1 and clips nothing; '
            "the truncation share is what its importance weight loses, if it has one."
        )


def shown_objectives(report: ParityReport) -> tuple[Objective, ...]:
    """The configured objective, and the cap that stands for losses of the other wiring."""
    beside = [d.beside.objective for d in report.directions[:1] if d.beside is not None]
    return (report.objective, *beside)


def _explain(report: ParityReport, objective: Objective) -> str:
    sentence = objective.sentence[0].lower() + objective.sentence[1:]
    positive = report.config["objective"]["positive_share"]
    assumed = f" and a share of {positive:g} of the advantages is positive"
    if objective.high_counts == objective.low_counts == "any":
        assumed = ""
    wiring = {
        "bypass": "The objective's own clip rate on its first step, where the loss takes the ratio "
        f"of trainer over rollout engine (bypass), if nothing else moved{assumed}.",
        "recompute": "What the same mismatch does to a loss that recomputes its old logprobs "
        "(recompute): its ratio is 1 on the first step, and only the importance weight sees Δ.",
    }[objective.wiring]
    return (
        f"{share_label(objective)}: {sentence.rstrip('.')}; {_edges(objective)}, as in "
        f"{objective.counter} ({objective.source}). {wiring}"
    )


def _edges(objective: Objective) -> str:
    low, high = objective.low, objective.high
    what = {"token": "", "sequence-mean": "geometric mean ", "sequence-sum": "product of "}
    unit = objective.unit + ("s" if objective.level == "sequence-sum" else "")
    name = f"{what[objective.level]}{unit}"
    if low is None:
        return f"{name} above {high:g}"
    return f"{name} outside {low:g} to {high:g}"


def reasons(report: ParityReport) -> Iterator[tuple[str, list[str]]]:
    """Why gates are not parity: a title for each direction that has such, and a sentence each."""
    for direction in report.directions:
        open_gates = [gate for gate in direction.gates if gate.verdict != "parity"]
        if open_gates:
            title = f"not parity, sampled by the {direction.sampled_by}"
            yield (
                title,
                [
                    f"{MARKS[gate.verdict]} {label(report, gate.metric)}: {reason(gate)}"
                    for gate in open_gates
                ],
            )


def reason(gate: GateResult) -> str:
    """Why a gate was judged so, and what limit would have passed."""
    if gate.verdict == "parity" or gate.required_limit is None:
        return gate.reason
    nearest = "largest" if gate.limit.kind == "lower" else "smallest"
    passing = numbers.passing(gate.required_limit, gate.limit.kind)
    return f"{gate.reason}; {nearest} limit that would pass: gates.{gate.metric} = {passing}"


def stages(diagnosis: Diagnosis) -> Iterator[tuple[str, str, str]]:
    """The three layers, looked at in their order: layer, outcome, why."""
    for stage in diagnosis.stages:
        yield stage.layer, f"{STAGE_MARKS[stage.outcome]} {stage.outcome}", stage.sentence


def finding_title(finding: Finding) -> str:
    """A finding in one sentence, with the share of the drift that it explains."""
    told = [finding.layer, f"confidence {finding.confidence}"]
    if finding.explained is not None:
        told.append(f"explains {100 * finding.explained:.0f} % of E|Δ|")
    return f"{finding.claim} ({finding.cause}; {', '.join(told)})"


def nothing_found(diagnosis: Diagnosis) -> str | None:
    """What is said where drift is there and no rule matched; None otherwise."""
    if not diagnosis.known:
        return None
    return f"No rule matched: what is known is that {'; that '.join(diagnosis.known)}."
