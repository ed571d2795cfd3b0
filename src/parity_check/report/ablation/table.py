"""What an ablation shows as rows of cells: shared by text and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parity_check.ablation.report import AblationReport, StepReport
from parity_check.config.models import Role
from parity_check.measure.metrics import METRICS
from parity_check.measure.stats import Estimate
from parity_check.report import numbers
from parity_check.report.ablation import sentences
from parity_check.report.sentences import share_label

Row = tuple[str, ...]


def parts(report: AblationReport) -> Iterator[tuple[str, tuple[StepReport, ...]]]:
    """The ladder, then the single flips with the candidate as configured; each with its title."""
    for first, kinds in (("ladder", ("ladder",)), ("own", ("own", "flip"))):
        steps = tuple(step for step in report.steps if step.part in kinds)
        if steps:
            yield sentences.TITLES[first], steps


def overview_rows(steps: Sequence[StepReport]) -> list[Row]:
    """A header, then a row a step: what was changed, what it removed, where that ends."""
    rows: list[Row] = [("#", "setting", "asked → in force", "mean |Δ|", "removes", "")]
    for step in steps:
        name = step.name if step.part != "flip" else str(step.key)
        drift = "–"
        if step.state == "finished":
            drift = numbers.value(step.estimate("mean_abs_log_ratio", "reference"))
        rows.append(
            (
                str(step.number), name, sentences.asked_and_in_force(step), drift,
                sentences.removed(step), sentences.outcome(step),
            )
        )  # fmt: skip
    return rows


def configurations(report: AblationReport) -> list[tuple[str, StepReport]]:
    """The finished steps, those of the same configuration as one: their numbers, and the first."""
    same: dict[str | None, list[StepReport]] = {}
    for step in report.finished():
        same.setdefault(step.directory, []).append(step)
    return [(", ".join(str(each.number) for each in steps), steps[0]) for steps in same.values()]


def headings(report: AblationReport) -> Row:
    """The columns of numbers."""
    named = [METRICS[name].label for name in sentences.SHOWN[:-1]]
    return (*named, share_label(report.objective))


def cells(step: StepReport, sampled_by: Role) -> list[tuple[str, str]]:
    """Value and interval of each column of numbers."""
    return [
        sentences.value_with_interval(step.estimate(name, sampled_by)) for name in sentences.SHOWN
    ]


def floor_cells(report: AblationReport, sampled_by: Role) -> list[str]:
    """The worst A/A floor of each column over all steps, a dash where none was measured."""
    return [_worst(report, name, sampled_by) for name in sentences.SHOWN]


def _worst(report: AblationReport, name: str, sampled_by: Role) -> str:
    found: list[Estimate] = [
        floor
        for step in report.finished()
        if (floor := step.direction(sampled_by).floors.get(name)) is not None
    ]
    if not found:
        return "–"
    target = METRICS[name].target
    worst = max(found, key=lambda floor: abs(floor.value - target))
    return sentences.value_with_interval(worst)[0]
