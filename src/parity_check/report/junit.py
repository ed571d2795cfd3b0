"""JUnit XML: one test case a check, at least one in any case."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from parity_check.report.document import Check, Document


def render(document: Document) -> str:
    cases = [_case(document, check) for check in document.checks] or [_verdict(document)]
    suite = ET.Element(
        "testsuite",
        name=document.head.program,
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors="0",
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        timestamp=document.head.created_utc,
    )
    properties = ET.SubElement(suite, "properties")
    facts = {
        "run": document.head.run_id,
        "verdict": document.word,
        "model": document.head.model.get("name", "unknown"),
        **document.facts,
    }
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=name, value=value)
    suite.extend(cases)
    ET.indent(suite)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
    )


def _case(document: Document, check: Check) -> ET.Element:
    words = [word for word in re.findall(r"[\w-]+", check.group) if word != "the"]
    suite = f"{document.head.program.replace(' ', '.')}.{'_'.join(words)}"
    case = ET.Element("testcase", classname=suite, name=check.name)
    if check.verdict == "parity":
        ET.SubElement(case, "system-out").text = check.reason
    elif check.verdict is None:
        ET.SubElement(case, "skipped", message=check.reason)
    else:
        failure = ET.SubElement(case, "failure", type=check.verdict, message=check.sentence)
        causes = (f"{cause.sentence} Fix: {cause.fix}" for cause in document.causes)
        failure.text = "\n".join(causes) or None
    return case


def _verdict(document: Document) -> ET.Element:
    """The case of a document in which there was nothing to check one by one."""
    case = ET.Element("testcase", classname=document.head.program, name="verdict")
    if document.verdict == "parity":
        ET.SubElement(case, "system-out").text = document.outcome
    else:
        ET.SubElement(case, "failure", type=document.word, message=document.outcome)
    return case
