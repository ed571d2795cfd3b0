"""What users see, file by file: `pytest --regen` writes the golden files anew."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from golden.outline import outline
from helpers.canned import CANNED, write_run
from helpers.canned_reports import KINDS, REPORTS
from helpers.schemas import validator
from helpers.support import about
from parity_check.comparison.analyse import analyse
from parity_check.comparison.document.brief import brief
from parity_check.config.load import load_config
from parity_check.report.document import Document
from parity_check.report.json import dumps
from parity_check.report.renderers import RENDERERS, Format, render, render_text

HERE = Path(__file__).parent
SUFFIXES: dict[Format, str] = {
    "text": "txt", "markdown": "md", "github": "github", "junit": "xml", "json": "json",
    "html": "page",
}  # fmt: skip
IN_JSON = (
    "drift",
    "invalid-logprobs",
    "three-engines",
    "ablation",
    "weight-sync-stale",
    "locate-module",
    "logs",
    "training-story",
)
IN_OTHERS = (
    "parity",
    "drift",
    "three-engines",
    "ablation",
    "weight-sync-stale",
    "locate-module",
    "logs",
    "training-story",
)
"""Every report is kept as text."""
TERMINAL = 100
CLIPS = ("grpo", "gspo", "geometric-mask", "dppo", "tis-token", "rs-seq-max-k2")


def kept(name: str) -> list[Format]:
    """The formats whose output is kept for a report."""
    others = [format for format in SUFFIXES if format not in ("text", "json")]
    return [
        "text",
        *(["json"] if name in IN_JSON else []),
        *(others if name in IN_OTHERS else []),
    ]


CASES = [(name, format) for name in REPORTS for format in kept(name)]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    return {name: made(tmp_path_factory.mktemp(name)) for name, made in REPORTS.items()}


def _few_clips(text: str) -> str:
    """A report with the rows of CLIPS alone: the others are as long, and tested by themselves."""
    tree = json.loads(text)
    if "clips" in tree:
        tree["clips"] = [each for each in tree["clips"] if each["objective"]["name"] in CLIPS]
    return dumps(tree)


@pytest.mark.parametrize(("name", "format"), CASES)
def test_golden(
    documents: dict[str, Document], name: str, format: Format, pytestconfig: pytest.Config
) -> None:
    text = render(documents[name], format)
    text = {"html": outline, "json": _few_clips}.get(format, str)(text)
    golden = HERE / f"{name}.{SUFFIXES[format]}"
    if pytestconfig.getoption("regen"):
        golden.write_text(text, encoding="utf-8")
    expected = golden.read_text(encoding="utf-8")
    if format == "json":
        assert json.loads(text) == about(json.loads(expected))
    else:
        assert text == expected


def test_every_golden_file_is_of_a_case() -> None:
    suffixes = [f".{suffix}" for suffix in SUFFIXES.values()]
    files = {path.name for path in HERE.iterdir() if path.suffix in suffixes}
    assert files == {f"{name}.{SUFFIXES[format]}" for name, format in CASES}


@pytest.mark.parametrize("format", RENDERERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_every_format(
    documents: dict[str, Document], kind: str, format: Format
) -> None:
    document = documents[KINDS[kind]]
    text = render(document, format)
    assert text.endswith("\n")
    assert (document.word if format != "json" or document.verdict else "null") in text.lower()
    if format == "json":
        validator(kind).validate(json.loads(text))
    if format in ("text", "markdown", "github"):
        assert document.verdict_line in text.replace("%25", "%")


def written(format: Format) -> list[str]:
    """The reports whose output in a format is kept."""
    return [name for name, kept in CASES if kept == format]


@pytest.mark.parametrize("name", written("text"))
def test_text_fits_a_terminal_and_ends_with_the_verdict(name: str) -> None:
    lines = (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    ours = itertools.takewhile(lambda line: not line.startswith("worst tokens"), lines[:-1])
    long = [line for line in ours if len(line) > TERMINAL]
    # A table keeps its own width, and a command is to be copied.
    wide = re.compile("  (\\S|\\S.*\\S)  |confirm: ")
    assert [each for each in long if not wide.search(each)] == []
    assert re.match(r"[✓✗?–] (PARITY|DRIFT|INCONCLUSIVE|NO VERDICT)  .*\(exit \d\)$", lines[-1])


@pytest.mark.parametrize("name", written("junit"))
def test_junit_counts_what_it_holds(name: str) -> None:
    suite = ET.fromstring((HERE / f"{name}.xml").read_text(encoding="utf-8"))
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases) >= 1
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))


@pytest.mark.parametrize("name", written("github"))
def test_github_annotations_are_one_line_each(name: str) -> None:
    lines = (HERE / f"{name}.github").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"::(error|warning|notice) title=[^:]+::.", line) for line in lines)


@pytest.mark.parametrize("width", [100, 80])
@pytest.mark.parametrize(
    "name",
    ["parity", "drift", "inconclusive", "noisy-engine", "invalid-logprobs", "one-direction"],
)
def test_a_screenful(tmp_path: Path, name: str, width: int, pytestconfig: pytest.Config) -> None:
    run = write_run(tmp_path / "run", CANNED[name])
    report = analyse(run, load_config(run / "config.toml"))
    text = render_text(brief(report, Path("runs") / report.head.run_id), width)
    golden = HERE / "terminal" / f"{name}-{width}.txt"
    if pytestconfig.getoption("regen"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert all(len(line) <= width for line in lines if "confirm: " not in line)
    assert report.verdict != "parity" or len(lines) <= (40 if width >= 100 else 50)
