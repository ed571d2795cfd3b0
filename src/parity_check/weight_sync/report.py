"""The frozen WeightSyncReport: everything that a renderer needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity_check.comparison.report import EXIT_CODES, EngineReport
from parity_check.errors import ExitCode
from parity_check.measure.gates import Verdict
from parity_check.weight_sync.checks import Check
from parity_check.weight_sync.timeline import EngineResult, TimelineStep

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class WeightSyncReport:
    """What an in-flight weight update did to one engine, or to two side by side."""

    run_id: str
    created_utc: str
    command: str
    parity_check: str
    config: dict[str, Any]
    model: dict[str, Any]
    checkpoints: tuple[dict[str, Any], ...]
    host: dict[str, Any]
    engines: tuple[EngineReport, ...]
    requests: dict[str, int]
    """Number of requests per phase."""
    results: tuple[EngineResult, ...]
    checks: tuple[Check, ...]
    verdict: Verdict
    artifacts: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.verdict]

    @property
    def timeline(self) -> tuple[tuple[str, TimelineStep], ...]:
        """(engine's role, step) of every engine, in order."""
        return tuple((result.role, step) for result in self.results for step in result.timeline)

    def engine(self, role: str) -> EngineReport:
        return next(engine for engine in self.engines if engine.role == role)
