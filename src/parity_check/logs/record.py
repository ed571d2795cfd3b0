"""The content of the JSON report of logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from parity_check.errors import ExitCode
from parity_check.logs.report import LogsReport, Series
from parity_check.report.record import Record, opening


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsRecord(Record):
    """`verdict` is always null: a log has one number per step, without uncertainty."""

    kind: Literal["logs"]
    files: tuple[str, ...]
    unknown_names: int
    series: tuple[Series, ...]


def record(report: LogsReport) -> LogsRecord:
    """The content of the JSON report."""
    return LogsRecord(
        **opening(report.head, None, ExitCode.INCONCLUSIVE),
        files=report.files,
        unknown_names=report.unknown,
        series=report.series,
    )
