"""An ablation as a document: what was run, what each step removes, the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from parity_check import words
from parity_check.ablation import pictures
from parity_check.ablation.plan import START, Part, written
from parity_check.ablation.record import record
from parity_check.ablation.report import NOTHING, AblationReport, StepReport
from parity_check.comparison.document.engines import name
from parity_check.comparison.document.needed import for_parity, to_settle
from parity_check.comparison.labels import share_label
from parity_check.comparison.report import EngineReport
from parity_check.config.models import OTHER, ROLES, Role
from parity_check.measure.metrics import METRICS
from parity_check.measure.stats import Estimate
from parity_check.report import numbers
from parity_check.report.document import (
    Block,
    Cell,
    Check,
    Checks,
    Column,
    Document,
    Figure,
    Heading,
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

SHOWN = ("mean_log_ratio", "mean_importance_ratio", "k3_kl", "clip_fraction")
DRIFT = "mean_abs_log_ratio"
LADDER = "ladder: starting from the engine's defaults, one more setting per step"
FLIPS = "single flips: the candidate as configured, with one change per step"
LADDER_HEALTHY = (
    "Every step starts where the step before it ended. Healthy: one long bar that removes the "
    "drift, and nothing left after it."
)
FLIPS_HEALTHY = (
    "Each change on its own, compared with the candidate as configured. Healthy: nothing to the "
    "left of 0, where a change adds drift."
)


def document(report: AblationReport) -> Document:
    """Everything that any renderer shows of an ablation."""
    return Document(
        head=report.head,
        title=_title(report),
        verdict=report.verdict,
        exit_code=report.exit_code,
        outcome="; ".join([*_end(report), *_most(report)]) or "no step finished",
        lead=_lead(report),
        facts={engine.role: name(engine) for engine in _engines(report)},
        sections=(
            Section("compared", "What was run", tuple(_compared(report))),
            Section("steps", "What each setting removes", tuple(_steps(report))),
            Section("numbers", "Numbers by step", tuple(_numbers(report))),
            Section("repeat", "Repeat this ablation", (PageOnly(repeat(report.head)),)),
        ),
        coverage=NOTHING if report.best is None else report.best.coverage,
        record=record(report),
        closing=tuple(_closing(report)),
    )


def _title(report: AblationReport) -> str:
    labels = [engine.label for engine in _engines(report)]
    return f"Settings of {' against '.join(reversed(labels)) or 'the candidate'}"


def _lead(report: AblationReport) -> str:
    """Why the best step was judged as it was."""
    best = report.best
    return "no step finished" if best is None else f"{_named(best)}: {_gates(best)}"


def _end(report: AblationReport) -> Iterator[str]:
    """Where the ladder ends, and the best step where that is another."""
    ladder, best = report.finished("ladder"), report.best
    if ladder:
        whole = all(s.state in ("finished", "refused") for s in report.steps if s.part == "ladder")
        so_far = "" if whole else ", as far as it was run,"
        yield f"the ladder{so_far} ends {_where(ladder[-1])} ({_named(ladder[-1])})"
    if best is not None and not (ladder and _same(ladder[-1], best)):
        yield f"the best is {_named(best)}, {_where(best)}"


def _same(one: StepReport, other: StepReport) -> bool:
    return one.directory == other.directory or one.outcome == other.outcome


def _closing(report: AblationReport) -> Iterator[Block]:
    """What data would settle the best step, where it is inconclusive."""
    best = report.best
    if best is None or best.outcome != "inconclusive" or report.workload is None:
        return
    how = (best.directions, report.objective, report.level, report.workload.sampling)
    fewest, more = for_parity(*how), to_settle(*how)
    if fewest is not None:
        more = f"too little data for parity, which takes {fewest}"
    if more is not None:
        run = f"{report.head.config['run']['out']}/{report.head.run_id}"
        yield Sentence(f"{_named(best)}: {more}")
        yield Sentence(f"with new samples: parity-check ablate -c {run}/config.toml")


def _most(report: AblationReport) -> Iterator[str]:
    """The step that removes most of the drift: of the ladder, or else of the flips."""
    parts: tuple[Part, ...] = ("ladder", "flip")
    for part in parts:
        measured = [(s.removed.value, s) for s in report.finished(part) if s.removed is not None]
        share, step = max(measured, key=lambda each: each[0], default=(0.0, None))
        if step is not None and share > 0:
            yield f"{_named(step)}, removes {_share(share)} of the drift"
            return


def _where(step: StepReport) -> str:
    if step.at_floor:
        return "at the floor"
    return f"in {step.verdict}" if step.verdict != "inconclusive" else "inconclusive"


def _named(step: StepReport) -> str:
    return f"step {step.number}, {step.name}"


def _engines(report: AblationReport) -> Iterator[EngineReport]:
    """The reference, and the candidate of the first finished step."""
    for engine in (report.reference, *(step.candidate for step in report.finished()[:1])):
        if engine is not None:
            yield engine


def _compared(report: AblationReport) -> Iterator[Block]:
    if report.workload is None:
        return
    yield Sentence("; ".join(f"{each.role} {name(each)}" for each in _engines(report)))
    workload = report.workload
    reused = f", reused from run {report.source}" if report.source else ""
    yield Sentence(
        f"every step replays the same {words.count(workload.tokens, 'token')} of the reference "
        f"({words.count(workload.prompts, 'prompt')}, "
        f"{words.count(workload.samples, 'sample')}, temperature "
        f"{workload.sampling['temperature']:g}{reused}) and samples its own"
    )


def _steps(report: AblationReport) -> Iterator[Block]:
    yield from _figures(report)
    parts: tuple[tuple[str, tuple[Part, ...]], ...] = (
        (LADDER, ("ladder",)),
        (FLIPS, ("own", "flip")),
    )
    for title, kinds in parts:
        steps = tuple(step for step in report.steps if step.part in kinds)
        if steps:
            yield Heading(title)
            yield Table(title, OVERVIEW, tuple(map(_overview, steps)))
    yield Checks("every step", tuple(_check(report, step) for step in report.steps), every=True)


OVERVIEW = (
    Column("#", "right"),
    Column("setting"),
    Column("requested → in force"),
    Column("mean |Δ|", "right"),
    Column("drift removed", "right"),
    Column("verdict"),
)


def _overview(step: StepReport) -> Row:
    """What was changed, how much drift that removed, and the verdict."""
    drift = numbers.value(step.estimate(DRIFT, "reference")) if step.state == "finished" else "–"
    return Row(
        (
            str(step.number),
            str(step.key) if step.part == "flip" else step.name,
            _requested(step),
            drift,
            _removed(step),
            _verdict(step),
        )
    )


def _requested(step: StepReport) -> str:
    """What was requested, and what is in force where that is not the same."""
    if step.key is None:
        return "the engine's own" if step.name == START else ""
    requested = written(step.requested)
    if step.state != "finished":
        return f"{requested} → ?"
    found = "not reported" if step.in_force is None else written(step.in_force)
    return requested if found == requested else f"{requested} → {found}"


def _removed(step: StepReport) -> str:
    """The share of the drift that a step removes, in percent, with its interval."""
    found = step.removed
    if found is None:
        return "none to remove" if step.effect else "–"
    if found.ci_low is None or found.ci_high is None:
        return _share(found.value)
    low, high = (_share(end).removesuffix(" %") for end in (found.ci_low, found.ci_high))
    return f"{_share(found.value)} [{low}, {high}]"


def _share(value: float) -> str:
    """A share of the drift, which may be negative."""
    percent = 100 * value
    if percent in (0, 100):
        return f"{percent:g} %"
    return f"{percent:.2f} %" if abs(percent) >= 0.005 else f"{percent:.1e} %"


def _verdict(step: StepReport) -> Cell:
    if step.outcome is None:
        return step.state
    return Judged(step.outcome, "at the floor" if step.at_floor else None)


def _check(report: AblationReport, step: StepReport) -> Check:
    """A step as a check; one that failed is inconclusive, one that was not run is not judged."""
    return Check(
        group="ladder" if step.part == "ladder" else "single flips",
        name=step.name,
        label=_named(step),
        verdict="inconclusive" if step.state == "failed" else step.outcome,
        reason="; ".join(_reasons(report, step)),
    )


def _reasons(report: AblationReport, step: StepReport) -> Iterator[str]:
    """Why a step was judged as it was, and what its numbers do not show."""
    if step.state == "not run":
        yield "not run yet"
    elif step.state != "finished":
        yield f"{step.state}: {step.reason}"
    else:
        yield _gates(step)
        yield from _effect(report, step)


def _gates(step: StepReport) -> str:
    if step.at_floor:
        return "at the floor"
    gates = [gate for direction in step.directions for gate in direction.gates]
    outside = dict.fromkeys(gate.metric for gate in gates if gate.verdict == "drift")
    if outside:
        return f"outside their limits: {', '.join(outside)}"
    unsettled = dict.fromkeys(gate.metric for gate in gates if gate.verdict == "inconclusive")
    if unsettled:
        return f"inconclusive: {', '.join(unsettled)}"
    return f"all {len(gates)} gates inside their limits"


def _effect(report: AblationReport, step: StepReport) -> Iterator[str]:
    """What the change did, where the logprobs alone do not show it."""
    other, fact = f"step {step.against}", written(step.in_force)
    same = {each.number: each.directory for each in report.steps}
    if step.against is not None and same[step.against] == step.directory:
        yield f"the same configuration as {other}"
        return
    identical = f"the replay is bit-identical to {other}: "
    match step.effect:
        case "changed unasked":
            yield (
                f"{step.differing:,} logprobs differ from {other}, although it was {fact} there "
                "too: the engine does not reproduce its logprobs after a restart"
            )
        case "already so":
            yield f"{identical}it was already {fact}"
        case "not applied":
            yield f"{identical}not applied; {fact} is in force"
        case "no effect here":
            yield f"{identical}{fact} is now in force, without effect"
        case "not known":
            yield f"{identical}not applied, or without effect; the engine does not report which"


def _figures(report: AblationReport) -> Iterator[Figure]:
    ladder = report.finished("ladder")
    if len(ladder) > 1:
        values = ((step, step.estimate("k3_kl", "reference")) for step in ladder)
        listed = "; ".join(f"{step.name} {numbers.value(value)}" for step, value in values)
        panel = Panel(
            partial(pictures.waterfall, steps=ladder), _caption(report),
            f"Waterfall of k3 along the ladder, nats: {listed}.", pictures.size(ladder),
        )  # fmt: skip
        yield Figure("waterfall", "The ladder", LADDER_HEALTHY, (panel,))
    flips = tuple(step for step in report.finished("flip") if step.removed is not None)
    if flips:
        listed = "; ".join(
            f"{step.key} {_share(step.removed.value)}" for step in flips if step.removed
        )
        panel = Panel(
            partial(pictures.flips, steps=flips), _caption(report),
            f"Share of the drift that each single flip removes: {listed}.", pictures.size(flips),
        )  # fmt: skip
        yield Figure("flips", "Single flips", FLIPS_HEALTHY, (panel,))


def _caption(report: AblationReport) -> str:
    assert report.workload is not None
    return f"sampled by the reference, n = {report.workload.tokens:,} tokens in every step"


def _numbers(report: AblationReport) -> Iterator[Block]:
    """A table per direction: the values of each configuration, and their intervals below them."""
    if not report.finished():
        return
    named = [METRICS[metric].label for metric in SHOWN[:-1]]
    columns = tuple(
        Column(heading, "right") for heading in ("#", *named, share_label(report.objective))
    )
    for role in ROLES:
        title = f"sampled by the {role}, replayed by the {OTHER[role]}"
        yield Heading(title)
        rows = [row for each in _configurations(report) for row in _values(*each, role)]
        floor = Row(("A/A floor", *(_worst_floor(report, metric, role) for metric in SHOWN)))
        yield Table(f"Numbers by step, {title}", columns, (*rows, floor))
    yield Legend(tuple(_legend(report)))


def _configurations(report: AblationReport) -> list[tuple[str, StepReport]]:
    """The finished steps, those of one configuration together: their numbers, and the first."""
    same: dict[str | None, list[StepReport]] = {}
    for step in report.finished():
        same.setdefault(step.directory, []).append(step)
    return [(", ".join(str(each.number) for each in steps), steps[0]) for steps in same.values()]


def _values(listed: str, step: StepReport, sampled_by: Role) -> Iterator[Row]:
    estimates = [step.estimate(metric, sampled_by) for metric in SHOWN]
    yield Row((listed, *map(numbers.value, estimates)))
    yield Row(("", *map(numbers.interval, estimates)), below=True)


def _worst_floor(report: AblationReport, metric: str, sampled_by: Role) -> str:
    """The worst A/A floor over all steps, a dash where none was measured."""
    floors: list[Estimate] = [
        floor
        for step in report.finished()
        if (floor := step.direction(sampled_by).floors.get(metric)) is not None
    ]
    target = METRICS[metric].target
    worst = max(floors, key=lambda floor: abs(floor.value - target), default=None)
    return "–" if worst is None else numbers.value(worst)


def _legend(report: AblationReport) -> Iterator[str]:
    yield (
        "drift removed: (mean |Δ| before − mean |Δ| after) / mean |Δ| at the start, on the "
        "reference's tokens, which are the same in every step. A step of the ladder is compared "
        "with the step before it, so the shares of the ladder add up to 1 − last / first. A single "
        "flip is compared with the candidate as configured. A negative share is drift added."
    )
    yield (
        "at the floor: in both directions, mean |Δ| is no larger than the A/A floor (the same "
        "engine replaying the same tokens in a different batch order). All other verdicts are "
        "those of the configured gates, as in `compare`."
    )
    yield (
        "Δ = logprob of the evaluating engine − logprob of the engine that sampled; ratio = exp Δ. "
        f"Intervals are at {100 * report.level:g} %, clustered by "
        f"{report.head.config['stats']['cluster_by']}."
    )
