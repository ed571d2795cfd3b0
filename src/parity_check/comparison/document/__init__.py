"""A ComparisonReport as a document, for any number of engines.

What was compared, what differs, the numbers, why the gates are judged so, the causes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import tomli_w

from parity_check.comparison.document import engines, findings, legend, matrix, numbers
from parity_check.comparison.labels import label
from parity_check.comparison.record import record
from parity_check.comparison.report import ComparisonReport
from parity_check.measure.gates import Verdict
from parity_check.report.document import (
    Block,
    Checks,
    Code,
    Details,
    Document,
    Heading,
    PageOnly,
    Section,
    Sentence,
    Warnings,
)


def document(report: ComparisonReport) -> Document:
    """The whole report. Its pictures and worst samples are there if the report has them."""
    return Document(
        head=report.head,
        title=_title(report),
        verdict=report.verdict,
        exit_code=report.exit_code,
        outcome=_outcome(report),
        lead=_lead(report),
        facts={engine.role: engines.name(engine) for engine in report.engines},
        sections=tuple(section for section in _sections(report) if section.blocks),
        coverage=report.coverage,
        record=record(report),
    )


def _title(report: ComparisonReport) -> str:
    first, *others = (engine.label for engine in report.engines)
    return f"{' and '.join(dict.fromkeys(others))} against {first}"


def _outcome(report: ComparisonReport) -> str:
    """How many gates are outside their limits, or inconclusive."""
    total = len(report.gates)
    outside, open = (_count(report, verdict) for verdict in ("drift", "inconclusive"))
    if outside:
        told = f"{outside} of {total} gates outside their limits"
        return f"{told}, {open} inconclusive" if open else told
    if open:
        return f"{open} of {total} gates inconclusive, none outside its limit"
    return f"all {total} gates inside their limits"


def _count(report: ComparisonReport, verdict: Verdict) -> int:
    return sum(gate.verdict == verdict for gate in report.gates)


def _lead(report: ComparisonReport) -> str:
    """The likeliest cause in the first pair with the verdict, or the first gate that decided it."""
    if report.verdict != "parity":
        for pair in report.pairs:
            if pair.diagnosis.causes and any(g.verdict == report.verdict for g in pair.gates):
                return pair.diagnosis.causes[0].claim
    decisive = next(gate for gate in report.gates if gate.verdict == report.verdict)
    return f"{label(report, decisive.metric)}: {decisive.reason}"


def _sections(report: ComparisonReport) -> Iterator[Section]:
    yield Section("compared", "Compared", tuple(_compared(report)), early=True)
    yield Section("pictures", "Pictures", tuple(_pictures(report)))
    if report.matrix is not None:
        yield Section("matrix", "All pairs", tuple(matrix.blocks(report, report.matrix)))
    yield Section("numbers", "Numbers", tuple(_numbers(report)))
    yield Section("definitions", "Definitions", tuple(legend.blocks(report)))
    yield Section("gates", "Gates", tuple(_gates(report)), early=True)
    yield Section("findings", "Findings", tuple(findings.blocks(report)), early=True)
    if report.located is not None:
        where = tuple(findings.located(report.located))
        yield Section("located", "Where the engines part", where, early=True)
    yield Section("warnings", "Warnings", tuple(_warnings(report)), early=True)
    yield Section("samples", "Worst tokens", tuple(findings.worst(report)))
    yield Section("settings", "Settings", (PageOnly(tuple(engines.facts(report))),))
    yield Section("repeat", "Repeat this run", (PageOnly(tuple(_repeat(report))),))


def _pictures(report: ComparisonReport) -> Iterable[Block]:
    if report.pictures is None:
        return ()
    from parity_check.comparison.pictures.figures import figures

    return figures(report)


def _compared(report: ComparisonReport) -> Iterator[Block]:
    yield engines.table(report)
    yield Sentence(engines.workload(report))


def _numbers(report: ComparisonReport) -> Iterator[Block]:
    """Every direction in full; where there is a matrix, that is for the page."""
    blocks = [
        block
        for pair in report.pairs
        for direction in pair.directions
        for block in numbers.direction_blocks(report, pair, direction)
    ]
    yield from blocks if report.matrix is None else [PageOnly(tuple(blocks))]


def _gates(report: ComparisonReport) -> Iterator[Block]:
    for pair in report.pairs:
        for direction in pair.directions:
            heading = Heading(numbers.heading(report, pair, direction))
            yield PageOnly((heading, numbers.gates_table(report, pair, direction)))
            where = numbers.place(report, pair, direction)
            yield Checks(where, tuple(numbers.checks(report, direction, where)))


def _warnings(report: ComparisonReport) -> Iterator[Block]:
    if report.warnings:
        yield Warnings(tuple((warning.id, warning.message) for warning in report.warnings))


def _repeat(report: ComparisonReport) -> Iterator[Block]:
    if "model" in report.head.config:
        yield Sentence(
            "The configuration below is complete: all defaults and every `--set` are written out. "
            "It is in the run's directory as `config.toml`."
        )
        yield Code("parity-check compare -c config.toml", "Command")
        yield Sentence("The command of this run:")
    else:
        yield Sentence("Judged with the configuration below. The traces were recorded by:")
    yield Code(report.head.command, "Command of this run")
    config = Code(tomli_w.dumps(report.head.config), "Configuration")
    yield Details("The configuration", (config,))
    yield Sentence(f"Traces: {', '.join(f'`{name}`' for name in report.artifacts)}.")
