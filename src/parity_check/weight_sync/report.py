"""The frozen WeightSyncReport: everything that its document and its record need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity_check.comparison.report import EXIT_CODES, EngineReport
from parity_check.errors import ExitCode
from parity_check.measure.gates import Verdict
from parity_check.report.document import Head
from parity_check.weight_sync.checks import Check
from parity_check.weight_sync.timeline import EngineResult, TimelineStep, overall


@dataclass(frozen=True, slots=True)
class WeightSyncReport:
    """What an in-flight weight update did to one engine, or to two side by side."""

    head: Head
    checkpoints: tuple[dict[str, Any], ...]
    engines: tuple[EngineReport, ...]
    requests: dict[str, int]
    """Number of requests per phase."""
    results: tuple[EngineResult, ...]
    """One per engine, in the order of `engines`."""
    timeline: tuple[TimelineStep, ...]
    """Every engine's, one after another."""
    checks: tuple[Check, ...]
    artifacts: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        return overall(self.checks)

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.verdict]

    def engine(self, role: str) -> EngineReport:
        return next(engine for engine in self.engines if engine.role == role)

    def timeline_of(self, role: str) -> tuple[TimelineStep, ...]:
        return tuple(step for step in self.timeline if step.engine == role)
