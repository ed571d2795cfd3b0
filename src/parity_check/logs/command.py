"""The `logs` command: from exports of W&B and TensorBoard, or JSON lines, to a report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from parity_check import __version__
from parity_check.config.load import dump_config
from parity_check.config.models import Judging
from parity_check.console import Console
from parity_check.errors import ExitCode
from parity_check.logs.analyse import analyse
from parity_check.logs.document import document
from parity_check.logs.read import read_log
from parity_check.logs.report import LogsReport
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.document import Head
from parity_check.traces import provenance


def report(
    files: Sequence[Path], judging: Judging, delivery: Delivery, console: Console
) -> ExitCode:
    """Read all files and show their curves against the limits. Raises InputError, ConfigError."""
    delivery.check()
    logs = [read_log(file) for file in files]
    series = analyse(logs, judging)
    now = datetime.now(UTC)
    found = LogsReport(
        head=Head(
            kind="logs",
            run_id=f"logs-{now:%Y%m%d-%H%M%S}",
            created_utc=now.isoformat(timespec="seconds"),
            command=provenance.command_line(),
            parity_check=__version__,
            config=dump_config(judging),
            model={},
            host=provenance.host_fingerprint(),
        ),
        files=tuple(map(str, files)),
        series=series,
        unknown=len({name for log in logs for name in log.unknown}),
    )
    return deliver(document(found), delivery, console)
