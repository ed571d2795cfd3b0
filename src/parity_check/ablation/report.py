"""The frozen AblationReport: everything that a renderer needs."""

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

SCHEMA_VERSION = 1
RANKS: Mapping[Verdict, int] = {"parity": 0, "inconclusive": 1, "drift": 2}

State = Literal["finished", "failed", "refused", "not run"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """One row of the table. Values that were not measured are None.

    `number` counts rows from 1. `key` and `requested` are the change, `in_force` is the value in
    the started engine. `against` is the number of the step that it is compared with; `differing`
    tokens of the replay have a different logprob there. `removed` is a share of the initial drift
    of its part. `at_floor`: in both directions mean |Δ| is within the A/A floor.
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
    """A complete ablation. `source` is the run whose traces it reuses, if any."""

    run_id: str
    created_utc: str
    command: str
    parity_check: str
    source: str | None
    config: dict[str, Any]
    model: dict[str, Any]
    reference: EngineReport | None
    workload: WorkloadReport | None
    objective: Objective
    level: float
    steps: tuple[StepReport, ...]
    schema_version: int = SCHEMA_VERSION

    def finished(self, part: Part | None = None) -> tuple[StepReport, ...]:
        return tuple(
            step
            for step in self.steps
            if step.state == "finished" and (part is None or step.part == part)
        )

    @property
    def best(self) -> StepReport | None:
        """The finished step with the best outcome; on a tie, with the smallest mean |Δ|."""
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
