"""All pairs of three or more engines, and what a trainer's mismatch is made of."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check import words
from parity_check.comparison.document import numbers as direction_numbers
from parity_check.comparison.document.engines import prompts
from parity_check.comparison.labels import SHARE_OF
from parity_check.comparison.report import (
    ComparisonReport,
    FirstStep,
    Matrix,
    Rollouts,
    Scored,
)
from parity_check.measure.decomposition import Decomposition, Leg
from parity_check.measure.objectives import Objective
from parity_check.measure.results import Measurement
from parity_check.measure.stats import Estimate
from parity_check.report import numbers
from parity_check.report.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Heading,
    Judged,
    Row,
    Stage,
    Stages,
    Table,
)

SHOWN = (
    "rms_log_ratio",
    "mean_abs_log_ratio",
    "mean_importance_ratio",
    "k3_kl",
    "clip_fraction",
)
LOSS = {
    "bypass": "uses the rollout logprobs as its old logprobs (bypass)",
    "recompute": "recomputes its old logprobs with the trainer (recompute)",
}


def blocks(report: ComparisonReport, matrix: Matrix) -> Iterator[Block]:
    if report.floors:
        yield _floors(report)
    for rollouts in matrix.rollouts:
        yield from _rollouts(report, rollouts)
    yield Stages(
        f"good practices ({matrix.trainer} learning from the rollouts of the {matrix.rollout})",
        tuple(Stage(each.name, each.status, each.evidence) for each in matrix.practices),
    )


def _floors(report: ComparisonReport) -> Table:
    """A row for each A/A run."""
    rows = tuple(Row((floor.engine, *_cells(floor.measurement))) for floor in report.floors)
    return Table("A/A floors", _columns(report, "A/A floor"), rows)


def _rollouts(report: ComparisonReport, rollouts: Rollouts) -> Iterator[Block]:
    size = rollouts.size
    excluded = f" ({size.excluded:,} more are invalid)" if size.excluded else ""
    yield Heading(
        f"sampled by the {rollouts.sampled_by}, evaluated by every engine: "
        f"{prompts(report, size.prompts, size.clusters)}, "
        f"{words.count(size.samples, 'sample')}, {words.count(size.tokens, 'token')}{excluded}"
    )
    yield _pairs(report, rollouts)
    for found in rollouts.decompositions:
        yield _decomposition(found)
    if rollouts.first_steps:
        yield Heading(f"the first step of a loss, sampled by the {rollouts.sampled_by}")
        yield Bullets(tuple(map(_first_step, rollouts.first_steps)))


def _pairs(report: ComparisonReport, rollouts: Rollouts) -> Table:
    rows = tuple(
        Row((f"{each.evaluating} − {each.behaviour}", *_cells(each.measurement), _verdict(each)))
        for each in rollouts.scored
    )
    caption = f"All pairs, sampled by the {rollouts.sampled_by}"
    return Table(caption, (*_columns(report, "Δ"), Column("")), rows)


def _verdict(scored: Scored) -> Cell:
    return "" if scored.verdict is None else Judged(scored.verdict)


def _columns(report: ComparisonReport, first: str) -> tuple[Column, ...]:
    level, clip = direction_numbers.level(report), SHARE_OF[report.objective.kind]
    headings = ("mean Δ", level, "RMS Δ", "mean |Δ|", "mean ratio", "k3", clip)
    return (Column(first), *(Column(heading, "right") for heading in headings))


def _cells(measured: Measurement) -> Iterator[str]:
    mean = measured["mean_log_ratio"]
    yield numbers.value(mean)
    yield numbers.interval(mean)
    for name in SHOWN:
        yield numbers.value(measured[name])


def _decomposition(found: Decomposition) -> Table:
    """The whole difference between trainer and candidate, and its two legs."""
    title = f"{found.trainer} against candidate"
    headings = (Column(each, "right") for each in ("mean Δ", "RMS Δ", "share", "interval"))
    rows = (
        _leg("", found.whole, "the whole"),
        _leg("= ", found.already, "was there before"),
        _leg("+ ", found.added, "added by the change of engine"),
    )
    caption = f"What {title} is made of, sampled by the {found.sampled_by}"
    return Table(caption, (Column(title), *headings, Column("")), rows)


def _leg(sign: str, leg: Leg, what: str) -> Row:
    share = leg.share
    return Row(
        (
            f"{sign}{leg.evaluating} − {leg.behaviour}",
            numbers.value(leg.mean),
            numbers.value(leg.rms),
            "–" if share is None else _percent(share.value),
            "–" if share is None else _interval(share),
            what,
        )
    )


def _interval(share: Estimate) -> str:
    if share.ci_low is None or share.ci_high is None:
        return "–"
    return f"[{_percent(share.ci_low)}, {_percent(share.ci_high)}]"


def _percent(share: float) -> str:
    """A share that may be negative, or above one."""
    return f"{100 * share:z.1f} %"


def _first_step(step: FirstStep) -> str:
    """What one loss would see before any update, in one sentence."""
    loss = "the configured loss, which" if step.configured else "a loss that"
    seen = "ratio 1 if the trainer repeats itself (not measured: workload.repeats = 0)"
    if step.ratio is not None and step.clip is not None:
        own = ", from the trainer's own batch noise" if step.logprobs == "recompute" else ""
        clip = f"{_share(step.clip.objective)} {numbers.value(step.clip.counted)}"
        seen = f"mean ratio {numbers.value(step.ratio)}, {clip}{own}"
    weight = "no importance weight"
    if step.truncation is not None:
        counted = numbers.value(step.truncation.counted)
        weight = f"importance weight: {_share(step.truncation.objective)} {counted}"
    return f"{step.trainer}: {loss} {LOSS[step.logprobs]}: {seen}; {weight}"


def _share(objective: Objective) -> str:
    """What an objective changes, inside a sentence."""
    return f"{SHARE_OF[objective.kind]} ({objective.name})"
