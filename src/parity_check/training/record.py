"""The content of a training comparison's training.json, and how to read it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from parity_check.comparison.report import EngineReport
from parity_check.config.load import parse_config
from parity_check.config.training import FIRST
from parity_check.errors import ConfigError
from parity_check.report.document import Head
from parity_check.report.record import Record, opening
from parity_check.training import arms
from parity_check.training.curves import Step
from parity_check.training.judge import judge
from parity_check.training.report import ArmReport, Result, TrainingReport


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecord(Record):
    """`arms` begins with the reference; `steps` has a row for each step of each run."""

    kind: Literal["training"]
    trainer: EngineReport
    arms: tuple[ArmReport, ...]
    wanted: int
    results: tuple[Result, ...]
    steps: tuple[Step, ...]
    notices: tuple[str, ...]
    artifacts: tuple[str, ...]


def record(report: TrainingReport) -> TrainingRecord:
    """The content of training.json."""
    return TrainingRecord(
        **opening(report.head, report.verdict, report.exit_code),
        trainer=report.trainer,
        arms=report.arms,
        wanted=report.wanted,
        results=report.results,
        steps=report.steps,
        notices=report.notices,
        artifacts=report.artifacts,
    )


def read(tree: Any) -> TrainingReport:
    """A stored report. Raises ValueError for anything else."""
    if not isinstance(tree, dict) or tree.get("kind") != "training":
        raise ValueError("not of this kind")
    found = TypeAdapter(TrainingRecord).validate_python(tree)
    names = [arm.name for arm in found.arms]
    if names[:1] != [FIRST] or len(names) < 2 or len(set(names)) < len(names):
        raise ValueError("its arms are not a reference and others")
    report = TrainingReport(
        head=Head.of(found, found.kind),
        trainer=found.trainer,
        arms=found.arms,
        wanted=found.wanted,
        results=found.results,
        steps=found.steps,
        notices=found.notices,
        artifacts=found.artifacts,
    )
    if "name" not in found.model or report.verdict != found.verdict:
        raise ValueError("its verdict does not fit its results")
    _check_judged(report)
    return report


def _check_judged(report: TrainingReport) -> None:
    """Raises ValueError where the results are not what the steps say under the configuration."""
    try:
        config = parse_config(report.head.config, source="the report")
        training = arms.training_of(config)
    except ConfigError as error:
        raise ValueError(f"its configuration: {error.message}") from None
    if {arm.name for arm in report.arms} != {FIRST, *training.arms}:
        raise ValueError("its arms are not those of its configuration")
    if report.results != judge(report.steps, training, config.stats.confidence):
        raise ValueError("its results are not those of its steps")
