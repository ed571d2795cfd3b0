"""What users see, file by file: `pytest --regen` writes the golden files anew."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import pytest

from golden.outline import outline
from helpers.canned import CANNED, write_run
from helpers.support import Finished, about, call_cli
from parity_check.report.json import schema

Reported = tuple[str, Finished, dict[str, str]]

HERE = Path(__file__).parent
SUFFIXES = {
    "text": "txt", "markdown": "md", "github": "github", "junit": "xml", "json": "json",
    "html": "page",
}  # fmt: skip
EXIT_CODES = {
    "parity": 0, "drift": 1, "inconclusive": 4, "noisy-engine": 4, "hygiene": 1,
    "one-direction": 0, "unnamed": 1, "tiny": 4, "identical": 0,
}  # fmt: skip
TERMINAL = 100
CLIPS = ("grpo", "gspo", "geometric-mask", "dppo", "tis-token", "rs-seq-max-k2")


@pytest.fixture(scope="module", params=CANNED)
def reported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """A canned run's report: its name, what `report` printed, and the files it wrote."""
    name = request.param
    home = tmp_path_factory.mktemp(name)
    run = write_run(home / "run", CANNED[name])
    others = [format for format in SUFFIXES if format != "text"]
    files = [argument for each in others for argument in ("--write", f"{each}={home / each}")]
    done = call_cli("report", run, *files, cwd=home)
    texts = {each: (home / each).read_text(encoding="utf-8") for each in others}
    texts["html"] = outline(texts["html"])
    texts["json"] = _few_clips(texts["json"])
    return name, done, {"text": done.stdout, **texts}


def _few_clips(text: str) -> str:
    """A report with the rows of CLIPS alone: the others are as long, and tested by themselves."""
    tree = json.loads(text)
    for side, clips in tree["clips"].items():
        tree["clips"][side] = [each for each in clips if each["objective"]["name"] in CLIPS]
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("format", SUFFIXES)
def test_golden(reported: Reported, format: str, pytestconfig: pytest.Config) -> None:
    name, done, texts = reported
    golden = HERE / f"{name}.{SUFFIXES[format]}"
    if pytestconfig.getoption("regen"):
        golden.write_text(texts[format], encoding="utf-8")
    assert done.stderr == ""
    assert done.returncode == EXIT_CODES[name], done.stdout
    expected = golden.read_text(encoding="utf-8")
    if format == "json":
        assert json.loads(texts[format]) == about(json.loads(expected))
    else:
        assert texts[format] == expected


@pytest.mark.parametrize("name", CANNED)
def test_the_golden_report_keeps_to_the_schema(name: str) -> None:
    report = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema()).validate(report)


@pytest.mark.parametrize("name", CANNED)
def test_text_fits_a_terminal_and_ends_with_the_verdict(name: str) -> None:
    lines = (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    ours = itertools.takewhile(lambda line: not line.startswith("worst tokens"), lines)
    long = [line for line in ours if len(line) > TERMINAL]
    # A table keeps its own width, and a command is to be copied.
    assert [each for each in long if "← differs" not in each and "confirm: " not in each] == []
    assert re.match(r"[✓✗?] (PARITY|DRIFT|INCONCLUSIVE)  .*\(exit \d\)$", lines[-1])


@pytest.mark.parametrize("name", CANNED)
def test_junit_counts_what_it_holds(name: str) -> None:
    suite = ET.fromstring((HERE / f"{name}.xml").read_text(encoding="utf-8"))
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases) >= 1
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))


@pytest.mark.parametrize("name", CANNED)
def test_github_annotations_are_one_line_each(name: str) -> None:
    lines = (HERE / f"{name}.github").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"::(error|warning|notice) title=[^:]+::.", line) for line in lines)
