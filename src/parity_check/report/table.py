"""What a report says, as rows of cells and as sentences: shared by text and Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from parity_check.gates import GateResult, Verdict
from parity_check.metrics import METRICS
from parity_check.report import numbers
from parity_check.report.model import Direction, EngineReport, ParityReport

Row = tuple[str, ...]

MARKS: dict[Verdict, str] = {"parity": "✓", "drift": "✗", "inconclusive": "?"}
SHOWN = (
    "mean_log_ratio",
    "rms_log_ratio",
    "mean_abs_log_ratio",
    "mean_importance_ratio",
    "k3_kl",
    "clip_fraction",
    "tail_fraction",
    "ess",
    "identical_fraction",
    "top1_agreement",
)
"""Metrics that have a row whether gated or not."""
PACKAGES = ("torch", "transformers", "python")


def verdict_line(report: ParityReport) -> str:
    """The last line: the verdict, how many gates stand behind it, the exit code."""
    gates = report.gates
    outcome = {
        "parity": f"all {len(gates)} gates inside their limits",
        "drift": _count(gates, "drift") + " outside their limits",
        "inconclusive": _count(gates, "inconclusive") + " not settled",
    }[report.verdict]
    mark = MARKS[report.verdict]
    return f"{mark} {report.verdict.upper()}  {outcome}  (exit {int(report.exit_code)})"


def _count(gates: tuple[GateResult, ...], verdict: Verdict) -> str:
    return f"{sum(gate.verdict == verdict for gate in gates)} of {len(gates)} gates"


def engine_rows(report: ParityReport) -> list[Row]:
    """Both engines side by side; what differs is marked."""
    reference, candidate = report.engines
    differences = {difference.key: difference for difference in report.differences}
    rows: list[Row] = [("", "reference", "candidate", "")]
    rows.append(("engine", _engine_name(reference), _engine_name(candidate), ""))
    for name in PACKAGES:
        if name in reference.packages or name in candidate.packages:
            pair = [engine.packages.get(name, "–") for engine in report.engines]
            rows.append((name, pair[0], pair[1], ""))
    shown = [*reference.settings, *(key for key in differences if key not in reference.settings)]
    for key in shown:
        mark = ""
        if key in differences:
            mark = "← differs" if differences[key].requested else "← differs, not requested"
        rows.append((key, _setting(reference, key), _setting(candidate, key), mark))
    return rows


def _engine_name(engine: EngineReport) -> str:
    return f"{engine.label}, {engine.family.upper()}, {engine.device}"


def _setting(engine: EngineReport, key: str) -> str:
    setting = engine.settings.get(key)
    if setting is None:
        return _plain(engine.config.get(key))
    default = ' ("default")' if setting.requested == "default" else ""
    return _plain(setting.in_force) + default


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "–" if value is None or value == "" else str(value)


def workload(report: ParityReport) -> str:
    """What was compared, in one line."""
    compared = report.workload
    sampling = compared.sampling
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    told = [f"temperature {sampling['temperature']:g}"]
    told += [f"{k} {sampling[k]:g}" for k, off in neutral.items() if sampling[k] != off]
    told += [
        f"{k} {sampling[k]:g}" for k in ("presence_penalty", "frequency_penalty") if sampling[k]
    ]
    return (
        f"{compared.prompts} prompts, {compared.samples} samples, "
        f"{compared.tokens:,} tokens, {', '.join(told)}; {compared.logprob_path}-path logprobs"
    )


def direction_title(direction: Direction) -> str:
    measured = direction.measurement
    return (
        f"sampled by the {direction.sampled_by}, replayed by the {direction.evaluated_by}: "
        f"{measured.samples} samples, {measured.tokens:,} tokens, {measured.clusters} prompts"
    )


def direction_rows(report: ParityReport, direction: Direction) -> list[Row]:
    """A header, then a row a metric: value, interval, floor, limit, verdict."""
    gates = {gate.metric: gate for gate in direction.gates}
    level = f"{100 * direction.measurement.level:g} % interval"
    rows: list[Row] = [("", "value", level, "A/A floor", "limit", "")]
    for estimate in direction.measurement.estimates:
        gate, floor = gates.get(estimate.name), direction.floors.get(estimate.name)
        if gate is None and estimate.name not in SHOWN:
            continue
        rows.append(
            (
                _label(report, estimate.name),
                numbers.value(estimate),
                numbers.interval(estimate),
                "–" if floor is None else numbers.value(floor),
                "" if gate is None else numbers.limit(gate.limit),
                "" if gate is None else f"{MARKS[gate.verdict]} {gate.verdict}",
            )
        )
    return rows


def _label(report: ParityReport, name: str) -> str:
    if name == "clip_fraction":
        return f"clip fraction, {report.objective.label}"
    if name == "tail_fraction":
        return f"tokens with |Δ| > {report.config['stats']['tail_threshold']:g}"
    return METRICS[name].label


def quantiles(direction: Direction) -> str:
    measured = direction.measurement
    shown = "  ".join(
        f"p{100 * float(probability):g} {estimate.value:.2g}"
        for probability, estimate in measured.quantiles.items()
    )
    return f"|Δ| {shown}  max {measured.largest:.2g} (the maximum is shown, never gated)"


def legend(report: ParityReport) -> Iterator[str]:
    """How to read the numbers, a sentence each."""
    objective = report.objective
    edges = " to ".join(
        "∞" if edge is None else f"{edge:g}" for edge in (objective.low, objective.high)
    )
    yield (
        "Δ = logprob of the evaluating engine − logprob of the engine that sampled, nats per "
        "token; ratio = exp Δ"
    )
    clusters = "prompt" if report.config["stats"]["cluster_by"] == "prompt" else "sample"
    yield (
        f"intervals are clustered by {clusters}; A/A floor: the worse of the two engines against "
        "itself, in another batch order"
    )
    yield (
        f"clip fraction: {objective.counter}, {objective.unit} band {edges} ({objective.source}); "
        "an estimate of what the loss would clip on its first step if nothing else moved"
    )


def reasons(report: ParityReport) -> Iterator[str]:
    """Why each gate that is not parity is not, a sentence each."""
    for gate in report.gates:
        if gate.verdict == "parity":
            continue
        needed = ""
        if gate.required_limit is not None:
            smallest = numbers.number(gate.metric, gate.required_limit).removeprefix("+")
            needed = f"; the smallest limit that would pass is {smallest}"
        yield (
            f"{MARKS[gate.verdict]} {_label(report, gate.metric)}, sampled by the "
            f"{gate.sampled_by}: {gate.reason}{needed}"
        )


def worst_rows(report: ParityReport) -> list[Row]:
    """A header, then a row a token, in its context."""
    rows: list[Row] = [("worst tokens", "Δ", "behaviour", "evaluating", "context")]
    for token in report.worst_tokens:
        context = f"{_visible(token.before)}⟦{_visible(token.token)}⟧{_visible(token.after)}"
        rows.append(
            (
                f"{token.sample_id}:{token.position} ({token.sampled_by})",
                f"{token.log_ratio:+.3f}",
                f"{token.behaviour_logprob:.3f}",
                f"{token.evaluating_logprob:.3f}",
                context,
            )
        )
    return rows


def _visible(text: str) -> str:
    """Text on one line, with control characters escaped as JSON does."""
    escaped = json.dumps(text, ensure_ascii=False)[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped)
