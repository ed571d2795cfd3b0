"""A log of two runs whose engine records raw logprobs from a step on, and ends differently."""

from __future__ import annotations

from pathlib import Path

from parity_check.config.load import dump_config, load_judging
from parity_check.logs.analyse import analyse
from parity_check.logs.read import read_log
from parity_check.logs.report import LogsReport
from parity_check.report.document import Head

ROWS = """\
Step,new - rollout_corr/k3_kl,new - rollout_corr/k3_kl__MIN,old - rollout_corr/k3_kl,\
new - rollout_corr/kl,new - actor/pg_clipfrac,new - reward/mean
1,0.0004,0.0004,0.0004,0.0002,0.002,0.1
2,0.0005,0.0005,0.0011,-0.0003,0.002,0.2
3,0.021,0.021,0.0004,0.029,0.004,0.2
4,0.022,0.022,0.0005,0.031,0.004,0.3
4,0.023,0.023,0.0005,0.031,NaN,0.3
"""


def logs_report(directory: Path) -> LogsReport:
    """The report on a W&B chart export of the two runs."""
    file = directory / "chart.csv"
    file.write_text(ROWS, encoding="utf-8")
    judging, log = load_judging(None), read_log(file)
    return LogsReport(
        head=Head(
            kind="logs",
            run_id="logs-20260101-120000",
            created_utc="2026-01-01T12:00:00+00:00",
            command="parity-check logs chart.csv",
            parity_check="0.1.0",
            config=dump_config(judging),
            model={},
            host={},
        ),
        files=("chart.csv",),
        series=analyse([log], judging),
        unknown=len(log.unknown),
    )
