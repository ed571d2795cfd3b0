"""What users see of a weight update, file by file; `pytest --regen` writes the files anew."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from golden.outline import outline
from helpers.canned_updates import STALE, a_report, a_run, changed
from helpers.support import about
from parity_check.report.weight_sync.json import parse, schema
from parity_check.report.weight_sync.renderers import RENDERERS
from parity_check.weight_sync.report import WeightSyncReport

HERE = Path(__file__).parent
SUFFIXES = {
    "text": "txt", "markdown": "md", "github": "github", "junit": "xml", "json": "json",
    "html": "page",
}  # fmt: skip
TERMINAL = 100
REFERENCE = a_run(role="reference", family="v0")
CANNED = {
    "parity": a_report(reference=REFERENCE, candidate=a_run()),
    "stale": a_report(
        candidate=changed(
            a_run(prefix_caching=True),
            "reissued",
            logprobs=lambda r: r.cold[1] + STALE,
            cached_tokens=256,
        )
    ),
    "recomputed": a_report(reference=REFERENCE, candidate=a_run("recomputed", kept=False)),
}
EXIT_CODES = {"parity": 0, "stale": 1, "recomputed": 1}


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize(("name", "report"), CANNED.items(), ids=CANNED)
def test_golden(
    name: str, report: WeightSyncReport, format: str, pytestconfig: pytest.Config
) -> None:
    golden = HERE / f"weight-sync-{name}.{SUFFIXES[format]}"
    text = RENDERERS[format](report)  # type: ignore[index]
    text = outline(text) if format == "html" else text
    if pytestconfig.getoption("regen"):
        golden.write_text(text, encoding="utf-8")
    expected = golden.read_text(encoding="utf-8")
    if format == "json":
        assert json.loads(text) == about(json.loads(expected))
    else:
        assert text == expected
    assert report.exit_code == EXIT_CODES[name]


@pytest.mark.parametrize("name", CANNED)
def test_the_golden_report_keeps_to_the_schema(name: str) -> None:
    report = json.loads((HERE / f"weight-sync-{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema()).validate(report)


@pytest.mark.parametrize(("name", "report"), CANNED.items(), ids=CANNED)
def test_a_stored_report_is_read_back_whole(name: str, report: WeightSyncReport) -> None:
    stored = RENDERERS["json"](report)
    for format in SUFFIXES:
        assert RENDERERS[format](parse(stored)) == RENDERERS[format](report), format


@pytest.mark.parametrize("name", CANNED)
def test_text_fits_a_terminal_and_ends_with_the_verdict(name: str) -> None:
    lines = (HERE / f"weight-sync-{name}.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > TERMINAL] == []
    assert re.match(r"[✓✗?] (PARITY|DRIFT|INCONCLUSIVE)  .*\(exit \d\)$", lines[-1])


@pytest.mark.parametrize("name", CANNED)
def test_junit_counts_what_it_holds(name: str) -> None:
    suite = ET.fromstring((HERE / f"weight-sync-{name}.xml").read_text(encoding="utf-8"))
    assert int(suite.attrib["tests"]) == len(suite.findall("testcase")) >= 1
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
