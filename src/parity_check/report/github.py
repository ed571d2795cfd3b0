"""Workflow commands for GitHub Actions: one annotation a gate that is not parity, one a cause."""

from __future__ import annotations

from parity_check.comparison.report import ParityReport
from parity_check.report import sentences

LEVELS = {"parity": "notice", "drift": "error", "inconclusive": "warning"}


def render(report: ParityReport) -> str:
    lines = [
        f"::{LEVELS[gate.verdict]} title={property_value(f'parity-check ({gate.metric})')}::"
        f"{data(f'sampled by the {gate.sampled_by}: {sentences.reason(gate)}')}"
        for gate in report.gates
        if gate.verdict != "parity"
    ]
    lines += [
        f"::{LEVELS[report.verdict]} title={property_value(f'parity-check ({finding.cause})')}::"
        f"{data(f'{sentences.finding_title(finding)} Fix: {finding.fix}')}"
        for finding in report.diagnosis.findings
    ]
    lines += [
        f"::warning title={property_value(f'parity-check ({warning.id})')}::{data(warning.message)}"
        for warning in report.warnings
    ]
    level = LEVELS[report.verdict]
    lines.append(f"::{level} title=parity-check::{data(sentences.verdict_line(report))}")
    return "\n".join(lines) + "\n"


def data(message: str) -> str:
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def property_value(value: str) -> str:
    return data(value).replace(":", "%3A").replace(",", "%2C")
