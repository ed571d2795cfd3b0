"""What a report shows as rows of cells: shared by text and Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from parity_check.comparison.report import Direction, EngineReport, ParityReport
from parity_check.measure.gates import GateResult
from parity_check.measure.stats import Estimate
from parity_check.report import numbers, sentences
from parity_check.traces.trace import UNKNOWN

Row = tuple[str, ...]

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
    device = "" if engine.device == UNKNOWN else f", {engine.device}"
    return sentences.engine(engine) + device


def _setting(engine: EngineReport, key: str) -> str:
    setting = engine.settings.get(key)
    if setting is None:
        return plain(engine.config.get(key))
    default = ' ("default")' if setting.requested == "default" else ""
    return plain(setting.in_force) + default


def plain(value: Any) -> str:
    """A setting's value as a person writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "–" if value is None or value == "" else str(value)


def direction_rows(report: ParityReport, direction: Direction) -> list[Row]:
    """A header, then a row a number: value, interval, floor, limit, verdict."""
    gates = {gate.metric: gate for gate in direction.gates}
    level = f"{100 * direction.measurement.level:g} % interval"
    rows: list[Row] = [("", "value", level, "A/A floor", "limit", "")]
    for estimate in direction.measurement.estimates:
        gate, name = gates.get(estimate.name), estimate.name
        if gate is None and name not in SHOWN:
            continue
        label = sentences.label(report, name)
        label += ", nats" if estimate.unit == "nats" else ""
        if estimate.n != direction.measurement.tokens:
            label += f", n = {estimate.n:,}"
        rows.append(_row(label, estimate, direction.floors.get(name), gate))
        if name == "clip_fraction":
            rows += _share_rows(report, direction)
    return rows + list(_magnitude_rows(direction))


def _row(
    label: str, estimate: Estimate, floor: Estimate | None, gate: GateResult | None = None
) -> Row:
    return (
        label,
        numbers.value(estimate),
        numbers.interval(estimate),
        "–" if floor is None else numbers.value(floor),
        "" if gate is None else numbers.limit(gate.limit),
        "" if gate is None else f"{sentences.MARKS[gate.verdict]} {gate.verdict}",
    )


def _share_rows(report: ParityReport, direction: Direction) -> Iterator[Row]:
    """Below the clip fraction: by length where whole sequences count, and the other wiring."""
    if report.objective.level != "token":
        for length, clip in direction.measurement.clips_by_length:
            yield _row(
                f"  {length}, n = {clip.counted.n:,}", clip.counted, direction.floors.get(length)
            )
    if direction.beside is not None:
        estimate = direction.beside.counted
        label = sentences.share_label(direction.beside.objective)
        yield _row(label, estimate, direction.floors.get(estimate.name))


def _magnitude_rows(direction: Direction) -> Iterator[Row]:
    measured, floor = direction.measurement, direction.largest_floor
    for estimate in measured.quantiles.values():
        label = f"|Δ| {estimate.name.removeprefix('abs_log_ratio_')}, nats"
        yield _row(label, estimate, direction.floors.get(estimate.name))
    largest = numbers.magnitude(measured.largest)
    own = "–" if floor is None else numbers.magnitude(floor)
    yield ("|Δ| max, nats", largest, "–", own, "never gated", "")


def worst_rows(report: ParityReport) -> list[Row]:
    """A header, then a row a token, in its context."""
    rows: list[Row] = [("worst tokens", "Δ", "behaviour", "evaluating", "context")]
    for token in report.worst_tokens:
        context = f"{_visible(token.before)}⟦{_visible(token.token)}⟧{_visible(token.after)}"
        rows.append(
            (
                f"{_visible(token.sample_id)}:{token.position} ({token.sampled_by})",
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
