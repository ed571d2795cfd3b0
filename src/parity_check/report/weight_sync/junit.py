"""JUnit XML of a weight-sync report: one test case a check."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from parity_check.weight_sync.report import WeightSyncReport


def render(report: WeightSyncReport) -> str:
    failures = sum(check.verdict != "parity" for check in report.checks)
    suite = ET.Element(
        "testsuite",
        name="parity-check weight-sync",
        tests=str(len(report.checks)),
        failures=str(failures),
        errors="0",
        timestamp=report.created_utc,
    )
    properties = ET.SubElement(suite, "properties")
    facts = {"run": report.run_id, "verdict": report.verdict, "model": report.model["name"]}
    facts |= {engine.role: f"{engine.label}, {engine.family.upper()}" for engine in report.engines}
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=name, value=value)
    for check in report.checks:
        case = ET.SubElement(
            suite, "testcase", classname=f"parity-check.weight_sync.{check.engine}", name=check.name
        )
        if check.verdict == "parity":
            ET.SubElement(case, "system-out").text = check.reason
        else:
            message = f"{check.reason}; {check.advice}" if check.advice else check.reason
            ET.SubElement(case, "failure", type=check.verdict, message=message)
    ET.indent(suite)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
    )
