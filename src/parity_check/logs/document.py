"""A report on logs as a document: the table, where limits are left, the curves."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from parity_check import words
from parity_check.errors import ExitCode
from parity_check.logs import pictures
from parity_check.logs.record import record
from parity_check.logs.report import Crossing, LogsReport, Series
from parity_check.report import numbers
from parity_check.report.document import (
    Block,
    Column,
    Coverage,
    Document,
    Figure,
    Legend,
    PageOnly,
    Panel,
    Row,
    Section,
    Sentence,
    Table,
    Warnings,
)

NO_VERDICT = (
    "A log has one number per step, without the tokens behind it, so there is no interval to judge "
    "and no verdict: each number is only held against the limit. It also mixes the engine with the "
    "trainer's precision and with stale policies, as the run had them."
)
NEXT = (
    "For a verdict, dump the tokens of a few steps and use `parity-check import`, or compare the "
    "two engines with `parity-check compare`."
)
HEALTHY = "Healthy: flat, and inside the band from the first step on."


def document(report: LogsReport) -> Document:
    """Everything that any renderer shows of logs."""
    runs = report.runs
    return Document(
        head=report.head,
        title=f"Training log of {runs[0]}" if len(runs) == 1 else f"Logs of {len(runs)} runs",
        verdict=None,
        exit_code=ExitCode.INCONCLUSIVE,
        outcome=_outcome(report),
        lead=_lead(report),
        facts={"runs": ", ".join(runs)},
        sections=(
            Section("read", "What was read", (Sentence(_read(report)),)),
            Section("numbers", "Numbers by step", tuple(_numbers(report)), early=True),
            Section("curves", "Curves", (PageOnly(tuple(_figures(report))),)),
            Section(
                "reading", "Why there is no verdict", (Legend((NO_VERDICT, NEXT, *_notes(report))),)
            ),
        ),
        coverage=Coverage((), ()),
        record=record(report),
    )


def _outcome(report: LogsReport) -> str:
    limited, crossed = len(report.limited), len(report.crossed)
    if not limited:
        return "none of the logged metrics has a limit"
    if not crossed:
        return f"no curve leaves its limit at any step ({limited} with a limit)"
    return f"{crossed} of {limited} curves with a limit leave it"


def _lead(report: LogsReport) -> str:
    if report.crossed:
        return _leaves(report.crossed[0], report)
    return "one number per step has no uncertainty, so nothing was judged"


def _read(report: LogsReport) -> str:
    steps = [step for each in report.series for step in each.steps]
    span = f"steps {min(steps):g} to {max(steps):g}" if steps else "no finite value"
    files = ", ".join(report.files)
    others = f"; {words.count(report.unknown, 'other name')} not read" if report.unknown else ""
    return (
        f"{files}: {_runs(report)}, {span}, {words.count(len(report.series), 'curve')} of "
        f"{', '.join(dict.fromkeys(each.framework for each in report.series))}{others}"
    )


def _runs(report: LogsReport) -> str:
    runs = report.runs
    return f"run {runs[0]}" if len(runs) == 1 else f"{len(runs)} runs ({', '.join(runs)})"


def _numbers(report: LogsReport) -> Iterator[Block]:
    several = len(report.runs) > 1
    columns = (
        Column("logged as"), *([Column("run")] if several else []), Column("metric"),
        *(Column(heading, "right") for heading in ("lowest", "highest", "last", "limit")),
        Column("outside"),
    )  # fmt: skip
    rows = tuple(_row(each, several) for each in report.series)
    profile = report.head.config["gates"]["profile"]
    yield Table(f"Logged numbers, and the limits of {profile}", columns, rows)
    items = [("limit", _leaves(each, report)) for each in report.crossed]
    items += [("not-finite", sentence) for sentence in _not_finite(report)]
    items += [("repeated-steps", sentence) for sentence in _replaced(report)]
    if items:
        yield Warnings(tuple(items))


def _row(series: Series, several: bool) -> Row:
    if series.values:
        lowest, highest, last = (
            numbers.number(series.metric, value)
            for value in (min(series.values), max(series.values), series.values[-1])
        )
    else:
        lowest = highest = last = "–"
    band = series.band
    outside = "" if band is None else "never" if series.crossing is None else _when(series)
    return Row(
        (
            series.logged_as,
            *([series.run] if several else []),
            series.label,
            lowest,
            highest,
            last,
            "–" if band is None else band.wording,
            outside,
        ),
        marked=series.crossing is not None,
    )


def _when(series: Series) -> str:
    found = series.crossing
    assert found is not None
    if found.since is not None:
        return f"since step {found.since:g}"
    return f"at {words.count(found.steps, 'step')}, last {found.last:g}"


def _leaves(series: Series, report: LogsReport) -> str:
    """Since when a curve is outside its limit, in a sentence."""
    assert series.crossing is not None
    assert series.band is not None
    run = f" of {series.run}" if len(report.runs) > 1 else ""
    note = f" ({series.note})" if series.note else ""
    return (
        f"{series.logged_as}{run}, {series.label}, is outside {series.band.wording} "
        f"{_period(series.crossing, len(series.steps))}{note}"
    )


def _period(found: Crossing, steps: int) -> str:
    share = f"at {found.steps} of {words.count(steps, 'step')}"
    if found.since is None:
        return f"{share}, first at step {found.first:g} and last at {found.last:g}, and ends inside"
    earlier = f", first at step {found.first:g}" if found.first != found.since else ""
    return f"since step {found.since:g} ({share}{earlier})"


def _not_finite(report: LogsReport) -> Iterator[str]:
    for each in report.series:
        if each.not_finite:
            yield (
                f"{each.logged_as} of {each.run} is NaN or infinite at "
                f"{words.count(each.not_finite, 'step')}, left out here"
            )


def _replaced(report: LogsReport) -> Iterator[str]:
    runs = dict.fromkeys(each.run for each in report.series if each.replaced)
    if runs:
        yield f"several values of one step, of which the last was kept: {', '.join(runs)}"


def _figures(report: LogsReport) -> Iterator[Block]:
    names = dict.fromkeys(each.logged_as for each in report.series if each.values)
    panels = [
        _panel(name, tuple(each for each in report.series if each.logged_as == name))
        for name in names
    ]
    if panels:
        yield Figure("curves", "Curves by step", HEALTHY, tuple(panels))


def _panel(name: str, series: tuple[Series, ...]) -> Panel:
    limit = series[0].band
    shown_limit = "no limit" if limit is None else f"limit {limit.wording} ({limit.source})"
    crossings = [
        f"{each.run} {_period(each.crossing, len(each.steps))}"
        for each in series
        if each.crossing is not None
    ]
    outside = f"; outside: {'; '.join(crossings)}" if crossings else ""
    return Panel(
        partial(pictures.curves, series=series),
        f"{name}: {shown_limit}{outside}",
        f"{name} by step, {words.count(len(series), 'run')}; {shown_limit}{outside}.",
    )


def _notes(report: LogsReport) -> Iterator[str]:
    """What the names of this log need to be read right, each once."""
    notes: dict[str, list[str]] = {}
    for each in report.series:
        if each.note and each.logged_as not in notes.setdefault(each.note, []):
            notes[each.note].append(each.logged_as)
    for note, names in notes.items():
        yield f"{', '.join(names)}: {note}."
