"""JUnit XML: one test case a gate, at least one in any case."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from parity_check.comparison.report import ParityReport
from parity_check.diagnosis.findings import Finding
from parity_check.report import sentences


def render(report: ParityReport) -> str:
    gates = report.gates
    failures = sum(gate.verdict != "parity" for gate in gates)
    suite = ET.Element(
        "testsuite",
        name="parity-check",
        tests=str(len(gates)),
        failures=str(failures),
        errors="0",
        timestamp=report.created_utc,
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"run": report.run_id, "verdict": report.verdict, "model": report.model["name"]}
    facts |= {engine.role: sentences.engine(engine) for engine in report.engines}
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=name, value=value)
    causes = "\n".join(map(_cause, report.diagnosis.findings)) or None
    for gate in gates:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"parity-check.sampled_by_{gate.sampled_by}",
            name=gate.metric,
        )
        if gate.verdict != "parity":
            failure = ET.SubElement(
                case, "failure", type=gate.verdict, message=sentences.reason(gate)
            )
            failure.text = causes
        else:
            ET.SubElement(case, "system-out").text = gate.reason
    ET.indent(suite)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
    )


def _cause(finding: Finding) -> str:
    return f"{sentences.finding_title(finding)} Fix: {finding.fix}"
