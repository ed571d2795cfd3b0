"""The comparison of two engines as a screenful: what a terminal shows without `-v`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from parity_check.comparison.document import document, engines, findings, needed
from parity_check.comparison.labels import label
from parity_check.comparison.report import ComparisonReport, Pair
from parity_check.measure.gates import GateResult
from parity_check.measure.metrics import METRICS
from parity_check.report.document import (
    OUTCOME_MARKS,
    Block,
    Bullets,
    Cell,
    Column,
    Document,
    Measured,
    Row,
    Section,
    Sentence,
    Table,
    Warnings,
)
from parity_check.report.numbers import Scale
from parity_check.traces.trace import UNKNOWN

WORST = 3
"""Worst tokens shown where there is drift."""


def brief(report: ComparisonReport, run: Path | None = None) -> Document:
    """The report in few lines; of three or more engines the whole report.

    `run` is the directory of a finished run, as the user would type it.
    """
    whole = document(report)
    if len(report.pairs) > 1:
        return whole
    [pair] = report.pairs
    found = Section("findings", "Findings", tuple(_findings(report, pair)))
    sections = [
        Section("compared", "Compared", tuple(_compared(report, pair))),
        Section("gates", "Gates", (_gates(report, pair), *_notes(report, pair))),
        Section("layers", "Layers", (_layers(pair),)),
    ]
    if report.verdict == "drift":
        sections = [found, *sections, Section("samples", "Worst tokens", (_worst_tokens(pair),))]
    else:
        sections.append(found)
    return replace(whole, sections=tuple(sections), closing=tuple(_closing(report, pair, run)))


def _findings(report: ComparisonReport, pair: Pair) -> Iterator[Block]:
    yield findings.causes(pair.diagnosis)
    if report.warnings:
        yield Warnings(tuple((warning.id, warning.message) for warning in report.warnings))


def _compared(report: ComparisonReport, pair: Pair) -> Iterator[Block]:
    """Versions, settings, what differs without being requested, and the workload: a line each."""
    versions = (f"{engine.role} {engines.name(engine)}" for engine in report.engines)
    devices = {engine.device for engine in report.engines} - {UNKNOWN}
    yield Sentence(", ".join([" · ".join(versions), *sorted(devices)]))
    settings = "; ".join(_settings(report))
    if settings:
        yield Sentence(f"settings: {settings}")
    keys = [each.key for each in pair.differences if not each.requested]
    if keys:
        noun = "difference" if len(keys) == 1 else "differences"
        yield Sentence(f"{len(keys)} {noun} not requested: {', '.join(keys)}")
    yield Sentence(engines.workload(report))


def _settings(report: ComparisonReport) -> Iterator[str]:
    """The parity settings in force: those of both engines, then those that differ."""
    differing = []
    for key in dict.fromkeys(key for engine in report.engines for key in engine.settings):
        held = [engine.settings.get(key) for engine in report.engines]
        values = {each.in_force for each in held if each is not None}
        first, *others = (engines.in_force(engine, key) for engine in report.engines)
        if set(others) <= {first}:
            yield f"{key} {first}"
        elif None not in held and len(values) == 1:  # only one engine was asked for it
            yield f"{key} {engines.plain(values.pop())}"
        else:
            differing.append(f"{key} {' → '.join([first, *others])} (differs)")
    yield from differing


def _gates(report: ComparisonReport, pair: Pair) -> Table:
    """A row a gate, the directions side by side; gates without a limit are in the notes."""
    metrics = dict.fromkeys(gate.metric for gate in pair.gates if gate.metric in METRICS)
    directions = [f"{direction.sampled_by} sampled" for direction in pair.directions]
    return Table(
        "Gates",
        (Column(""), *map(Column, directions), Column("floor", "right"), Column("limit")),
        tuple(_row(report, pair, metric) for metric in metrics),
    )


def _row(report: ComparisonReport, pair: Pair, metric: str) -> Row:
    gates = [gate for direction in pair.directions for gate in direction.gates]
    gates = [gate for gate in gates if gate.metric == metric]
    units = [gate.estimate.unit for gate in gates if gate.estimate is not None]
    scale = Scale(gates[0].limit, units[0] if units else "")
    floors = [gate.floor.value for gate in gates if gate.floor is not None]
    target = METRICS[metric].target
    floor = max(floors, key=lambda value: abs(value - target), default=None)
    cells: list[Cell] = [label(report, metric)]
    for gate in gates:
        value = "–" if gate.estimate is None else scale.number(gate.estimate.value)
        interval = "" if gate.estimate is None else scale.interval(gate.estimate)
        cells.append(Measured(gate.verdict, value, interval))
    return Row((*cells, "–" if floor is None else scale.number(floor), scale.edge()))


def _notes(report: ComparisonReport, pair: Pair) -> Iterator[Block]:
    """How to read the table, and what is not in it."""
    yield Sentence(
        f"[{100 * report.level:g} % interval]; Δ and KL in 1e-3 nats; floor: A/A runs; "
        "✓ inside, ✗ outside, ? inconclusive",
        muted=True,
    )
    noisy = dict.fromkeys(label(report, gate.metric) for gate in pair.gates if _noisy(gate))
    if noisy:
        yield Sentence(
            "not reproducible at these limits, because an engine's own noise is outside (A/A "
            f"floor): {', '.join(noisy)}"
        )
    told: dict[tuple[str, str], dict[str, None]] = {}
    for gate in pair.gates:
        if gate.verdict != "parity" and not _noisy(gate) and not _measured(gate):
            same = told.setdefault((gate.sampled_by, gate.reason), {})
            same[label(report, gate.metric)] = None
    all_of = {gate.metric for gate in pair.gates}
    yield Bullets(
        tuple(
            f"{'every gate' if len(metrics) == len(all_of) else '; '.join(metrics)}, sampled by "
            f"the {role}: {reason}"
            for (role, reason), metrics in told.items()
        )
    )


def _noisy(gate: GateResult) -> bool:
    low, high = gate.limit.edges()
    return gate.floor is not None and not low <= gate.floor.value <= high


def _measured(gate: GateResult) -> bool:
    """Whether the table says why a gate is judged so: its interval against the limit."""
    return gate.estimate is not None and gate.estimate.ci_low is not None


def _layers(pair: Pair) -> Sentence:
    stages = (
        f"{stage.layer} {OUTCOME_MARKS[stage.outcome]} {stage.outcome}"
        for stage in pair.diagnosis.stages
    )
    return Sentence(f"layers: {' · '.join(stages)}")


def _worst_tokens(pair: Pair) -> Table:
    title = "worst tokens"
    rows = (
        Row((findings.place(token), f"{token.log_ratio:+.3f}", findings.context(token)))
        for token in pair.worst_tokens[:WORST]
    )
    columns = (Column(title), Column("Δ, nats", "right"), Column("context"))
    return Table(title, columns, tuple(rows), verbatim=True)


def _closing(report: ComparisonReport, pair: Pair, run: Path | None) -> Iterator[Block]:
    """What would settle an open verdict, where the report is, and the next command."""
    how = (pair.directions, report.objective, report.level, report.workload.sampling)
    more = needed.to_settle(*how) if report.verdict == "inconclusive" else None
    if more is not None:
        yield Sentence(more)
        shares = [way.measurement["identical_fraction"].value for way in pair.directions]
        kinds = {gate.limit.kind for gate in pair.gates}
        if min(shares) == 1.0 and kinds != {"exact"}:
            yield Sentence(
                "all compared tokens are bit-identical: --profile exact requires just that, and "
                "says nothing of tokens beyond these"
            )
    if report.verdict == "drift" and pair.diagnosis.causes and run is not None:
        more = needed.for_parity(*how)
        if more is not None:
            yield Sentence(
                "enough to show drift, but too little for parity after the fix, or in `confirm`: "
                f"that takes {more}"
            )
    if run is None:
        yield Sentence("all numbers: the same command with -v")
        return
    yield Sentence(f"report: {run / 'report.html'}")
    if report.verdict == "drift" and not pair.diagnosis.causes:
        yield Sentence(f"which setting it is: parity-check ablate {run}")
    yield Sentence(f"all numbers: parity-check report {run} -v")
