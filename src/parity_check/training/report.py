"""The frozen TrainingReport: everything that its document and its record need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from parity_check.comparison.report import EXIT_CODES, EngineReport
from parity_check.config.training import FIRST
from parity_check.errors import ExitCode
from parity_check.measure.gates import Verdict
from parity_check.measure.stats import Floats
from parity_check.report.document import Head
from parity_check.training import curves
from parity_check.training.band import Band, Distance
from parity_check.training.curves import Step


@dataclass(frozen=True, slots=True)
class ArmReport:
    """One arm as it ran. `stopped` says why it did not take all steps."""

    name: str
    engine: EngineReport
    lag: int
    mode: str
    clear_cache: bool
    seeds: tuple[int, ...]
    stopped: str | None
    compared: Verdict | None
    """The verdict of the one-shot comparison with the reference; None if there was none."""


@dataclass(frozen=True, slots=True)
class Result:
    """One curve of one arm. `distance` is None for the reference and for what was not judged."""

    arm: str
    curve: str
    mean: float
    band: Band
    distance: Distance | None
    unresolved: bool
    """Whether the reference's own band is too wide for a verdict."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The curves of every arm, judged against the reference's seeds."""

    head: Head
    trainer: EngineReport
    arms: tuple[ArmReport, ...]
    """The reference first."""
    wanted: int
    """The steps that each run was to take."""
    results: tuple[Result, ...]
    steps: tuple[Step, ...]
    notices: tuple[str, ...]
    artifacts: tuple[str, ...]

    @property
    def others(self) -> tuple[ArmReport, ...]:
        return tuple(arm for arm in self.arms if arm.name != FIRST)

    def result(self, arm: str, curve: str) -> Result:
        return next(each for each in self.results if (each.arm, each.curve) == (arm, curve))

    def curve(self, arm: str, curve: str) -> Floats:
        """[seeds, steps] of one curve of one arm."""
        return curves.table(self.steps, arm, curve)

    def untrained(self, arm: str) -> tuple[str, ...]:
        """Which of the reference and an arm had no gradient in most of their steps."""
        moved = Counter(each.arm for each in self.steps if each.grad_norm > 0)
        taken = Counter(each.arm for each in self.steps)
        return tuple(name for name in (FIRST, arm) if moved[name] < taken[name] / 2)

    def verdict_of(self, arm: ArmReport) -> Verdict:
        """An arm's verdict over all its judged curves; drift if it stopped.

        No parity where the weights hardly changed: then hardly anything was trained or updated.
        """
        if arm.stopped is not None:
            return "drift"
        found = overall(
            [each.distance.verdict for each in self.results if each.arm == arm.name
             and each.distance is not None and not each.unresolved]
        )  # fmt: skip
        return "inconclusive" if found == "parity" and self.untrained(arm.name) else found

    @property
    def verdict(self) -> Verdict:
        return overall([self.verdict_of(arm) for arm in self.others])

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.verdict]


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """Drift if there is any, parity only if there is nothing else."""
    if "drift" in verdicts:
        return "drift"
    return "parity" if verdicts and set(verdicts) == {"parity"} else "inconclusive"
