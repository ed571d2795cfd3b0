"""The frozen AblationReport: everything that its document and its record need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from parity_check.ablation.plan import Effect, Part
from parity_check.comparison.report import EXIT_CODES, Direction, EngineReport, WorkloadReport
from parity_check.config.models import Role
from parity_check.errors import ExitCode
from parity_check.measure.gates import Verdict
from parity_check.measure.objectives import Objective
from parity_check.measure.stats import Estimate
from parity_check.report.document import Coverage, Head

RANKS: Mapping[Verdict, int] = {"parity": 0, "inconclusive": 1, "drift": 2}

NOTHING = Coverage((), ())

State = Literal["finished", "failed", "refused", "not run"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step, a row of the tables; None if not measured.

    `number` counts from 1. `key` and `requested` are what the step changes, `in_force` what its
    engine runs with. `against` is the number of the step that it is compared with: `differing` of
    the replay's tokens have another logprob there. `removed` is the share of the drift at the start
    of its part that this step removes. `at_floor`: in both directions, mean |Δ| is not above the
    A/A floor.
    """

    number: int
    part: Part
    name: str
    key: str | None
    requested: Any
    directory: str | None
    state: State
    reason: str | None
    candidate: EngineReport | None = None
    directions: tuple[Direction, ...] = ()
    coverage: Coverage = NOTHING
    verdict: Verdict | None = None
    at_floor: bool = False
    in_force: Any = None
    against: int | None = None
    differing: int | None = None
    effect: Effect | None = None
    removed: Estimate | None = None

    @property
    def outcome(self) -> Verdict | None:
        """The verdict; at the floor it is parity."""
        return "parity" if self.at_floor else self.verdict

    def direction(self, sampled_by: Role) -> Direction:
        return next(each for each in self.directions if each.sampled_by == sampled_by)

    def estimate(self, name: str, sampled_by: Role) -> Estimate:
        return self.direction(sampled_by).measurement[name]


@dataclass(frozen=True, slots=True)
class AblationReport:
    """A whole ablation. `source` is the run whose traces it reuses, None where there is none."""

    head: Head
    source: str | None
    reference: EngineReport | None
    workload: WorkloadReport | None
    objective: Objective
    level: float
    steps: tuple[StepReport, ...]

    def finished(self, part: Part | None = None) -> tuple[StepReport, ...]:
        return tuple(
            step
            for step in self.steps
            if step.state == "finished" and (part is None or step.part == part)
        )

    @property
    def best(self) -> StepReport | None:
        """The finished step with the best outcome, and of several the one with the least drift."""
        return min(self.finished(), key=_rank, default=None)

    @property
    def verdict(self) -> Verdict | None:
        """The outcome of the best step; None if no step finished."""
        return None if self.best is None else self.best.outcome

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.ENGINE if self.verdict is None else EXIT_CODES[self.verdict]


def _rank(step: StepReport) -> tuple[int, float]:
    assert step.outcome is not None
    return RANKS[step.outcome], step.estimate("mean_abs_log_ratio", "reference").value
