"""One direction of a pair: its numbers with floor and limit, its gates, its breakdowns."""

from __future__ import annotations

import math
from collections.abc import Iterator

from parity_check import words
from parity_check.comparison.document.engines import prompts
from parity_check.comparison.labels import label, pair_label, share_label
from parity_check.comparison.report import ComparisonReport, Direction, Pair
from parity_check.measure.gates import GateResult
from parity_check.measure.metrics import METRICS
from parity_check.measure.stats import Estimate
from parity_check.report import numbers
from parity_check.report.document import (
    Block,
    Cell,
    Check,
    Column,
    Details,
    Heading,
    Judged,
    Link,
    PageOnly,
    Row,
    Sentence,
    Strip,
    Table,
)

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
BREAKDOWNS = {
    "turn": "By turn of the rollout",
    "position": "By position in the completion",
    "behaviour_probability": "By the probability that the behaviour engine gave",
    "prompt_group": "By prompt group",
}
BEYOND = 1.5
"""How far a strip continues beyond the limit, in widths of the limit."""


def place(report: ComparisonReport, pair: Pair, direction: Direction) -> str:
    """Which direction, of which pair where there are several."""
    sampled = f"sampled by the {direction.sampled_by}"
    return sampled if len(report.pairs) == 1 else f"{pair_label(pair)}, {sampled}"


def heading(report: ComparisonReport, pair: Pair, direction: Direction) -> str:
    """Which engine sampled and which one evaluated, and how many tokens."""
    measured = direction.measurement
    excluded = f" ({measured.excluded:,} more are invalid)" if measured.excluded else ""
    which = "" if len(report.pairs) == 1 else f"{pair_label(pair)}, "
    return (
        f"{which}{direction.title}: {prompts(report, measured.prompts, measured.clusters)}, "
        f"{words.count(measured.samples, 'sample')}, "
        f"{words.count(measured.tokens, 'token')}{excluded}"
    )


def direction_blocks(report: ComparisonReport, pair: Pair, direction: Direction) -> Iterator[Block]:
    """All numbers; breakdowns and other objectives are for the page."""
    where = place(report, pair, direction)
    yield Heading(heading(report, pair, direction))
    yield _table(report, direction, f"All numbers, {where}")
    yield Sentence(_first_divergence(direction), muted=True)
    yield PageOnly(
        (
            *(
                Details(f"{title}, {where}", (_breakdown(direction, name, f"{title}, {where}"),))
                for name, title in BREAKDOWNS.items()
                if name in direction.measurement.breakdowns
            ),
            Details(
                f"What every objective would clip, cut or mask, {where}",
                (_objectives(direction, f"Objectives, {where}"),),
            ),
        )
    )


def _table(report: ComparisonReport, direction: Direction, caption: str) -> Table:
    """A row a number: value, interval, floor, limit, verdict."""
    gates = {gate.metric: gate for gate in direction.gates}
    rows: list[Row] = []
    for estimate in direction.measurement.estimates:
        gate, name = gates.get(estimate.name), estimate.name
        if gate is None and name not in SHOWN:
            continue
        text = label(report, name)
        text += ", nats" if estimate.unit == "nats" else ""
        if estimate.n != direction.measurement.tokens:
            text += f", n = {estimate.n:,}"
        rows.append(_row(text, estimate, direction.floors.get(name), gate))
        if name == "clip_fraction":
            rows += _shares(report, direction)
    columns = ("value", level(report), "A/A floor", "limit")
    return Table(
        caption,
        (Column(""), *(Column(each, "right") for each in columns), Column("")),
        (*rows, *_magnitudes(direction)),
    )


def level(report: ComparisonReport) -> str:
    """The heading of a column of intervals."""
    return f"{100 * report.level:g} % interval"


def _row(
    text: str,
    estimate: Estimate,
    floor: Estimate | None,
    gate: GateResult | None = None,
    *,
    below: bool = False,
) -> Row:
    cells: tuple[Cell, ...] = (
        text,
        numbers.value(estimate),
        numbers.interval(estimate),
        "–" if floor is None else numbers.value(floor),
        "" if gate is None else numbers.limit(gate.limit),
        "" if gate is None else Judged(gate.verdict),
    )
    return Row(cells, below=below)


def _shares(report: ComparisonReport, direction: Direction) -> Iterator[Row]:
    """Below the clip fraction: by length where whole sequences count, and the truncation share."""
    if report.objective.level != "token":
        for length, clip in direction.measurement.clips_by_length:
            text = f"{length}, n = {clip.counted.n:,}"
            yield _row(text, clip.counted, direction.floors.get(length), below=True)
    if direction.beside is not None:
        estimate = direction.beside.counted
        text = share_label(direction.beside.objective)
        yield _row(text, estimate, direction.floors.get(estimate.name))


def _magnitudes(direction: Direction) -> Iterator[Row]:
    measured, floor = direction.measurement, direction.largest_floor
    for estimate in measured.quantiles.values():
        text = f"|Δ| {estimate.name.removeprefix('abs_log_ratio_')}, nats"
        yield _row(text, estimate, direction.floors.get(estimate.name))
    largest = numbers.magnitude(measured.largest)
    own = "–" if floor is None else numbers.magnitude(floor)
    yield Row(("|Δ| max, nats", largest, "–", own, "never gated", ""))


def _first_divergence(direction: Direction) -> str:
    """Where the samples first differ, in one line."""
    found = direction.measurement.first_divergence
    if not found.diverged:
        return f"first difference: none, all {found.samples} samples are bit-identical"
    return (
        f"first difference: in {found.diverged} of {found.samples} samples, at token "
        f"{found.earliest} at the earliest, at token {found.median:g} in the median sample"
    )


def _breakdown(direction: Direction, name: str, caption: str) -> Table:
    headings = ("n", "mean Δ, nats", "interval", "mean |Δ|, nats", "k3, nats")
    rows = []
    for each in direction.measurement.breakdowns[name]:
        mean, size, k3 = each.estimates
        cells = (numbers.value(mean), numbers.interval(mean), numbers.value(size))
        rows.append(Row((each.label, f"{mean.n:,}", *cells, numbers.value(k3))))
    columns = (Column(""), *(Column(each, "right") for each in headings))
    return Table(caption, columns, tuple(rows))


def _objectives(direction: Direction, caption: str) -> Table:
    headings = ("n", "as counted", "interval", "low", "high", "active")
    rows = tuple(
        Row(
            (
                f"{clip.objective.name}: {clip.objective.label}",
                f"{clip.counted.n:,}",
                numbers.value(clip.counted),
                numbers.interval(clip.counted),
                *map(numbers.value, (clip.low, clip.high, clip.active)),
            )
        )
        for clip in direction.measurement.clips
    )
    return Table(caption, (Column("objective"), *(Column(h, "right") for h in headings)), rows)


def checks(report: ComparisonReport, direction: Direction, where: str) -> Iterator[Check]:
    """Why each gate was judged as it was, and which limit would have passed."""
    for gate in direction.gates:
        yield Check(
            group=where,
            name=gate.metric,
            label=label(report, gate.metric),
            verdict=gate.verdict,
            reason=gate.reason,
            advice=_passing(gate),
            limit_source=gate.limit.source,
        )


def _passing(gate: GateResult) -> str | None:
    if gate.verdict == "parity" or gate.required_limit is None:
        return None
    nearest = "largest" if gate.limit.kind == "lower" else "smallest"
    passing = numbers.passing(gate.required_limit, gate.limit.kind)
    return f"{nearest} limit that would pass: gates.{gate.metric} = {passing}"


def gates_table(report: ComparisonReport, pair: Pair, direction: Direction) -> Table:
    """A row a gate, its interval drawn against its limit."""
    columns = (
        *(Column("metric"), Column("verdict"), Column("against the limit")),
        *(Column(h, "right") for h in ("value", level(report), "A/A floor", "limit", "n")),
    )
    rows = tuple(Row(tuple(_gate(report, gate))) for gate in direction.gates)
    return Table(f"Gates, {place(report, pair, direction)}", columns, rows)


def _gate(report: ComparisonReport, gate: GateResult) -> Iterator[Cell]:
    estimate, name = gate.estimate, label(report, gate.metric)
    yield Link(name, f"metric-{gate.metric}") if gate.metric in METRICS else name
    yield Judged(gate.verdict)
    yield strip(gate) or "–"
    yield "–" if estimate is None else _with_unit(estimate)
    yield "–" if estimate is None else numbers.interval(estimate)
    yield "–" if gate.floor is None else numbers.value(gate.floor)
    yield numbers.limit(gate.limit)
    yield "–" if estimate is None else f"{estimate.n:,}"


def _with_unit(estimate: Estimate) -> str:
    unit = " nats" if estimate.unit == "nats" else ""
    return numbers.value(estimate) + unit


def strip(gate: GateResult) -> Strip | None:
    """A gate's interval and floor against the band of its limit.

    The band takes a fixed part of the strip, so that rows can be compared. None where there is
    nothing to draw: no estimate, or a limit that allows one value.
    """
    if gate.estimate is None or gate.limit.kind == "exact":
        return None
    low, high = _range(gate)
    lower, upper = gate.limit.edges()
    span = high - low

    def position(value: float) -> float:
        return min(1.0, max(0.0, (value - low) / span))

    ends = [end for end in (gate.estimate.ci_low, gate.estimate.ci_high) if end is not None]
    reached = [*ends, gate.estimate.value]
    return Strip(
        verdict=gate.verdict,
        band=(position(lower), position(upper)),
        interval=(position(ends[0]), position(ends[1])) if len(ends) == 2 else None,
        value=position(gate.estimate.value) if low <= gate.estimate.value <= high else None,
        floor=None if gate.floor is None else position(gate.floor.value),
        cut_low=min(reached) < low - 1e-9 * span,
        cut_high=max(reached) > high + 1e-9 * span,
    )


def _range(gate: GateResult) -> tuple[float, float]:
    """From where to where a strip goes, in the metric's unit."""
    limit = gate.limit
    if limit.kind == "two_sided":
        reach = (1.0 + BEYOND) * limit.value
        return limit.target - reach, limit.target + reach
    if limit.kind == "upper":
        return 0.0, (1.0 + BEYOND) * limit.value
    room = 1.0 - limit.value if limit.value < 1.0 else math.fabs(limit.value)
    return limit.value - BEYOND * room, limit.value + room
