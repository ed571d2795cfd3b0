"""A locate report as a document: where the engines part, and the difference by depth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from parity_check import words
from parity_check.comparison.document.engines import name
from parity_check.locate import pictures
from parity_check.locate.differences import (
    BEYOND_NOISE,
    SAME_PROCESSING,
    Difference,
    Processing,
    by_layer,
    place_of,
)
from parity_check.locate.record import record
from parity_check.locate.report import LocateReport
from parity_check.measure.gates import Verdict
from parity_check.report.document import (
    Block,
    Bullets,
    Check,
    Checks,
    Column,
    Coverage,
    Details,
    Document,
    Figure,
    Judged,
    Legend,
    PageOnly,
    Panel,
    Row,
    Section,
    Sentence,
    Table,
)
from parity_check.report.repeat import repeat

MODULES, PROCESSING = "modules", "logits to logprobs"
LEGEND = (
    "difference = ‖candidate − reference‖ / ‖reference‖ of a module's output at one token, root "
    "mean square over the tokens. noise: the same for the reference against itself, with one more "
    "rounding error in the output of every module.",
    f"A module differs where its difference is more than {BEYOND_NOISE:g} times the noise. The "
    "first one in the order of the forward pass is where the engines part: its inputs are equal "
    "up to rounding. Modules after it compute with its output.",
    f"logits to logprobs: each returned logprob against the log-softmax of the engine's own "
    f"logits at the temperature. Engines that are off by more than {SAME_PROCESSING:g} nats from "
    "one another process the logits differently.",
)
HEALTHY = "Healthy: the line stays inside the band from the first layer to the logits."
COLUMNS = (
    Column("place"),
    Column("module that differs most"),
    Column("difference", "right"),
    Column("noise", "right"),
    Column("times the noise", "right"),
    Column("verdict"),
)


def document(report: LocateReport) -> Document:
    """Everything that any renderer shows of where two engines part."""
    checks = _checks(report)
    return Document(
        head=report.head,
        title=f"{report.engines[1].label} against {report.engines[0].label}, module by module",
        verdict=report.verdict,
        exit_code=report.exit_code,
        outcome=_outcome(report),
        lead=_lead(report),
        facts={engine.role: name(engine) for engine in report.engines},
        sections=(
            Section("compared", "What was compared", tuple(_compared(report))),
            Section("modules", "Difference by depth", tuple(_modules(report))),
            Section("checks", "Checks", (Checks("every check", checks, every=True),), early=True),
            Section("repeat", "Repeat this run", (PageOnly(repeat(report.head)),)),
        ),
        coverage=Coverage(
            (MODULES, PROCESSING),
            tuple(check.name for check in checks if check.verdict is not None),
        ),
        record=record(report),
    )


def _outcome(report: LocateReport) -> str:
    if report.first is not None:
        return f"the engines part in {place_of(report.first.module)}"
    if report.processing_differs:
        return "the engines part after the logits"
    return f"nowhere more than noise in {words.count(len(report.differences), 'module')}"


def _lead(report: LocateReport) -> str:
    return next(
        (c.reason for c in _checks(report) if c.verdict == report.verdict), "nothing was compared"
    )


def _checks(report: LocateReport) -> tuple[Check, ...]:
    first, differs = report.first, report.processing_differs
    group = "candidate against reference"
    processed: Verdict | None = None if differs is None else "drift" if differs else "parity"
    return (
        Check(
            group, MODULES, "modules", "parity" if first is None else "drift",
            _of_modules(report.differences, first),
            None if first is None else _advice(first),
        ),
        Check(group, PROCESSING, PROCESSING, processed, _of_processing(report)),
    )  # fmt: skip


def _of_modules(found: tuple[Difference, ...], first: Difference | None) -> str:
    if first is None:
        most = max(found, key=lambda each: each.times_noise)
        first_bits = next((each for each in found if each.relative), None)
        if first_bits is None:
            return "every module has the same bits"
        return (
            f"no module differs by more than {BEYOND_NOISE:g} times the noise; the most is "
            f"{most.times_noise:.2g} times, in {place_of(most.module)}; all bits are equal before "
            f"{place_of(first_bits.module)}"
        )
    before = found[: found.index(first)]
    largest = max((each.relative or 0.0 for each in before), default=0.0)
    so_far = f"no module differs by more than {largest:.2g}" if largest else "all bits are equal"
    return (
        f"{place_of(first.module)}: relative difference {_number(first.relative)}, where rounding "
        f"explains {_number(first.noise)}; before it, {so_far}"
    )


def _advice(first: Difference) -> str:
    if first.reference_dtype != first.candidate_dtype:
        return (
            f"its output is {first.reference_dtype} in the reference and {first.candidate_dtype} "
            "in the candidate"
        )
    return "compare its weights and its part of the model's configuration in both engines"


def _of_processing(report: LocateReport) -> str:
    one, other = report.processing
    if one is None or other is None:
        return "an engine does not show its logits"
    return "; ".join(
        f"the {engine.role}'s logprobs {_off(found)}"
        for engine, found in zip(report.engines, (one, other), strict=True)
    )


def _off(found: Processing) -> str:
    if found.off is None or found.off_raw is None:
        return "are missing or not finite"
    text = f"are within {found.off:.2g} nats of the log-softmax of its logits at the temperature"
    raw = f", and within {found.off_raw:.2g} without temperature"
    return text + raw if found.off_raw < found.off - SAME_PROCESSING else text


def _compared(report: LocateReport) -> Iterator[Block]:
    yield Sentence(
        f"{report.passes} forward passes of the same tokens in eager mode, one request at a time; "
        f"{len(report.differences)} modules."
    )
    for engine in report.engines:
        if engine.logprob_path == "prefill":
            yield Sentence(
                f"The {engine.role} scores prompt and completion of a request in one forward pass; "
                "its modules are compared at the same tokens."
            )
    yield Bullets(tuple(f"{e.role}: {name(e)}, {e.device}" for e in report.engines))
    if report.unmatched:
        yield Sentence(
            f"Not compared, because only one engine has them in this shape: "
            f"{', '.join(map(place_of, report.unmatched))}.",
            muted=True,
        )


def _modules(report: LocateReport) -> Iterator[Block]:
    first = report.first
    yield Figure(
        "depth",
        "Difference by depth",
        HEALTHY,
        (
            Panel(
                partial(pictures.by_depth, found=report.differences, first=first),
                f"n = {report.passes} forward passes",
                f"Relative difference of every module by depth: {_outcome(report)}.",
                (7.0, 3.2),
            ),
        ),
    )
    rows = []
    for place, group in by_layer(report.differences):
        shown = first if first in group else max(group, key=lambda each: each.times_noise)
        rows.append(_row(place, shown, marked=shown is first))
    yield Table("Difference by depth", COLUMNS, tuple(rows))
    every = tuple(_row(place_of(each.module), each, each is first) for each in report.differences)
    yield PageOnly((Details("Every module", (Table("Every module", COLUMNS, every),)),))
    yield Legend(LEGEND)


def _row(place: str, each: Difference, marked: bool) -> Row:
    inner = place_of(each.module).partition(", ")[2] or "–"
    return Row(
        (
            place.removeprefix("model."),
            inner,
            _number(each.relative),
            _number(each.noise),
            f"{each.times_noise:.2g}",
            Judged("drift" if each.is_beyond_noise else "parity"),
        ),
        marked=marked,
    )


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"
