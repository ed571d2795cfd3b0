"""Workflow commands for GitHub Actions: one annotation a check that is not parity."""

from __future__ import annotations

from parity_check.report.github import LEVELS, data, property_value
from parity_check.report.weight_sync import sentences
from parity_check.weight_sync.report import WeightSyncReport


def render(report: WeightSyncReport) -> str:
    lines = [
        f"::{LEVELS[check.verdict]} "
        f"title={property_value(f'parity-check weight-sync ({check.name})')}::"
        + data(f"{check.engine}: {check.reason}" + (f"; {check.advice}" if check.advice else ""))
        for check in report.checks
        if check.verdict != "parity"
    ]
    level = LEVELS[report.verdict]
    lines.append(
        f"::{level} title=parity-check weight-sync::{data(sentences.verdict_line(report))}"
    )
    return "\n".join(lines) + "\n"
