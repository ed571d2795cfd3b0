"""The plots of an ablation, one function each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from parity_check.ablation.report import StepReport
from parity_check.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR = 0.58
ROW_HEIGHT, AXIS_HEIGHT, LABEL_HEIGHT = 0.3, 0.75, 0.5  # inches


def waterfall(axes: Axes, steps: Sequence[StepReport]) -> None:
    """k3 of the first step as a bar, then what each next step adds or removes."""
    before = 0.0
    for place, step in enumerate(steps):
        estimate = step.estimate("k3_kl", "reference")
        role = "bad" if estimate.value > before else "good"
        axes.barh(
            place, estimate.value - before, left=before, height=BAR, linewidth=0,
            color=COLOURS["data" if place == 0 else role], alpha=0.75,
        )  # fmt: skip
        if place:
            axes.plot(
                [before, before], [place - 1 + BAR / 2, place - BAR / 2],
                color=COLOURS["muted"], linewidth=0.8,
            )  # fmt: skip
        if estimate.ci_low is not None and estimate.ci_high is not None:
            axes.hlines(
                place, estimate.ci_low, estimate.ci_high, color=COLOURS["ink"], linewidth=1.2
            )
        axes.plot([estimate.value], [place], "o", color=COLOURS["ink"], markersize=3.5)
        before = estimate.value
    axes.set(xlabel="k3 KL on the reference's tokens, nats")
    axes.set_xlim(left=0)
    _rows(axes, [f"{step.number}  {step.name}" for step in steps])


def flips(axes: Axes, steps: Sequence[StepReport]) -> None:
    """The share of the drift that each single flip removes, with its interval."""
    for place, step in enumerate(steps):
        removed = step.removed
        assert removed is not None
        role = "good" if removed.value > 0 else "bad" if removed.value < 0 else "muted"
        axes.barh(place, removed.value, height=BAR, linewidth=0, color=COLOURS[role], alpha=0.75)
        if removed.ci_low is not None and removed.ci_high is not None:
            axes.hlines(place, removed.ci_low, removed.ci_high, color=COLOURS["ink"], linewidth=1.2)
        axes.plot([removed.value], [place], "o", color=COLOURS["ink"], markersize=3.5)
    axes.axvline(0, color=COLOURS["rule"], linewidth=0.8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set(xlabel="share of the drift removed")
    _rows(axes, [f"{step.number}  {step.name if step.key is None else step.key}" for step in steps])


def size(steps: Sequence[StepReport]) -> tuple[float, float]:
    """Of a plot with a row per step, in inches."""
    return 5.0, AXIS_HEIGHT + ROW_HEIGHT * len(steps)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    bottom = LABEL_HEIGHT / figure.get_figheight()
    figure.subplots_adjust(left=0.36, right=0.97, top=0.97, bottom=bottom)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
