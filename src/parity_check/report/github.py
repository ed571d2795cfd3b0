"""Workflow commands for GitHub Actions: one annotation a gate that is not parity, one a cause."""

from __future__ import annotations

from parity_check.report import sentences
from parity_check.report.model import ParityReport

LEVELS = {"parity": "notice", "drift": "error", "inconclusive": "warning"}


def render(report: ParityReport) -> str:
    lines = [
        f"::{LEVELS[gate.verdict]} title={_property(f'parity-check ({gate.metric})')}::"
        f"{_data(f'sampled by the {gate.sampled_by}: {sentences.reason(gate)}')}"
        for gate in report.gates
        if gate.verdict != "parity"
    ]
    lines += [
        f"::{LEVELS[report.verdict]} title={_property(f'parity-check ({finding.cause})')}::"
        f"{_data(f'{sentences.finding_title(finding)} Fix: {finding.fix}')}"
        for finding in report.diagnosis.findings
    ]
    lines += [
        f"::warning title={_property(f'parity-check ({warning.id})')}::{_data(warning.message)}"
        for warning in report.warnings
    ]
    level = LEVELS[report.verdict]
    lines.append(f"::{level} title=parity-check::{_data(sentences.verdict_line(report))}")
    return "\n".join(lines) + "\n"


def _data(message: str) -> str:
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")
