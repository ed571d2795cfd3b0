"""Every format shows every block, knows no kind, and gets past hostile text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.canned_document import DOCUMENT
from parity_check.console import Console
from parity_check.errors import ExitCode, OutputError
from parity_check.measure.gates import Verdict
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.document import Document, Heading, Section, Sentence, full_stop
from parity_check.report.renderers import RENDERERS, Format, render

ANY = st.text(st.characters(exclude_categories=()), max_size=40)
SAID = {
    "text": ["workload: 24 prompts", "first | row", "✗ drift", "0.2 is outside; allow 0.2"],
    "markdown": ["Workload: 24 prompts", "first \\| row", "✗ drift", "0.2 is outside; allow 0.2"],
    "html": ["Workload: 24 prompts", "first | row", "<code>a.jsonl</code>", "continues beyond"],
    "github": ["0.2 is outside; allow 0.2", "::warning title=parity-check ablation (mixed)"],
    "junit": ["0.2 is outside; allow 0.2", "parity-check.ablation.sampled_by_reference"],
    "json": ['"kind": "ablation"', '"schema_version": 2'],
}
EVERYWHERE = ("text", "markdown", "html")
CONTENT = [
    "raw_logprobs", "slope 0.8", "parity-check ablate RUN", "raw and processed", "No known cause",
    "not reached", "first", "fp16_head", "evaluating − behaviour", "+1.0", "at the floor",
    "[gates]",
]  # fmt: skip


@pytest.mark.parametrize("format", RENDERERS)
def test_a_format_says_what_it_is_for(format: Format) -> None:
    text = render(DOCUMENT, format)
    assert text.endswith("\n")
    for words in SAID[format]:
        assert words in text, (format, words)


@pytest.mark.parametrize("words", CONTENT)
def test_no_block_is_forgotten(words: str) -> None:
    for format in EVERYWHERE:
        assert words in render(DOCUMENT, format), format


def test_a_remark_looks_like_no_cause() -> None:
    for format in ("text", "markdown"):
        after = render(DOCUMENT, format).partition("slope 0.8")[2].lower()
        assert 0 < after.index("remarks") < after.index("fp16_head")
        assert "slope 0.99" not in after
        assert "ablate OTHER" not in after
    page = render(DOCUMENT, "html")
    assert page.index("<summary>Remarks") < page.index("fp16_head")
    assert ".</h3>" not in page[page.index("fp16_head") - 200 : page.index("fp16_head")]
    drifted = replace(DOCUMENT, verdict="drift")
    lines = render(drifted, "github").splitlines()
    [cause] = (line for line in lines if "raw_logprobs)" in line)
    [remark] = (line for line in lines if "fp16_head)" in line)
    assert cause.startswith("::error ")
    assert remark.startswith("::notice ")
    assert "fp16_head" not in render(drifted, "junit")


def test_text_ends_with_the_verdict_and_the_others_begin_with_it() -> None:
    line = DOCUMENT.verdict_line
    assert render(DOCUMENT, "text").splitlines()[-1] == line
    assert line in render(DOCUMENT, "markdown").splitlines()[0]
    page = render(DOCUMENT, "html")
    assert page.index('class="banner drift"') < page.index("<main>")


def test_early_sections_come_first_where_the_verdict_does() -> None:
    ids = ["compared", "gates", "findings", "warnings", "pictures", "samples", "numbers"]
    found = re.findall('<section id="([^"]+)">', render(DOCUMENT, "html"))
    assert found[: len(ids)] == ids
    text = render(DOCUMENT, "text")
    assert text.index("no sample differs") < text.index("not parity: sampled by the reference")


def test_what_only_a_page_draws_is_in_no_other_format() -> None:
    for format in ("text", "markdown"):
        text = render(DOCUMENT, format)  # type: ignore[arg-type]
        assert "against the limit" not in text
        assert "It rises." not in text
        assert "p01/0" not in text
    page = render(DOCUMENT, "html")
    assert page.count("<figure>") == 1
    assert 'aria-label="A line from 0 to 1."' in page
    assert 'class="strip drift"' in page


@pytest.mark.parametrize("verdict", ["parity", "drift", "inconclusive", None])
@pytest.mark.parametrize("format", RENDERERS)
def test_every_verdict_has_every_format(format: Format, verdict: Verdict | None) -> None:
    text = render(replace(DOCUMENT, verdict=verdict), format)
    assert (verdict or "failed") in text.lower() or format == "json"


def test_junit_has_a_case_where_nothing_was_checked() -> None:
    suite = ET.fromstring(render(replace(DOCUMENT, sections=()), "junit"))
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("1", "1")
    assert suite.find("testcase/failure") is not None


def test_a_check_that_was_not_run_is_listed_and_no_failure() -> None:
    reason = "the engine has no such setting"
    for format in ("text", "markdown"):
        assert f"– k3 KL: {reason}" in render(DOCUMENT, format)  # type: ignore[arg-type]
    assert "– not run" in render(DOCUMENT, "html")
    assert reason not in render(DOCUMENT, "github")
    suite = ET.fromstring(render(DOCUMENT, "junit"))
    [skipped] = suite.findall("testcase/skipped")
    assert (suite.attrib["skipped"], skipped.attrib["message"]) == ("1", reason)


def test_json_can_be_compared_line_by_line() -> None:
    text = render(DOCUMENT, "json")
    assert json.loads(text)["numbers"] == [
        {"value": 0.5, "deep": {"a": None}, "list": []},
        {"value": None, "evidence": ["a", "b"]},
        {},
    ]
    assert '\n  {"value": 0.5, "deep": {"a": null}, "list": []},\n' in text
    assert '\n  {\n   "value": null,\n   "evidence": ["a", "b"]\n  },\n  {}\n ]\n}\n' in text
    one = render(replace(DOCUMENT, record=replace(DOCUMENT.record, host={"p": [1, 0.5]})), "json")
    assert '"host": {"p": [1, 0.5]}' in one


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | ANY,
    lambda each: st.lists(each, max_size=4) | st.dictionaries(ANY, each, max_size=4),
)  # fmt: skip


@given(TREES)
def test_json_is_read_back_as_it_was(value: Any) -> None:
    record = replace(DOCUMENT.record, host={"value": value})
    text = render(replace(DOCUMENT, record=record), "json")
    assert json.loads(text)["host"]["value"] == value


@given(ANY)
def test_no_text_breaks_a_format(text: str) -> None:
    section = Section("hostile", text, (Heading(text), Sentence(text)))
    document = replace(DOCUMENT, title=text, lead=text or "x", sections=(section,))
    for format in RENDERERS:
        rendered = render(document, format)
        rendered.encode("utf-8")
        if format == "junit":
            ET.fromstring(rendered)
        if format == "html":
            assert rendered.count("<script") == 1
        if format == "github":
            assert all(line.startswith("::") for line in rendered.splitlines())


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("mean Δ is outside", "Mean Δ is outside."),
        ("workload: 3 prompts", "Workload: 3 prompts."),
        ("k3 KL is inside.", "k3 KL is inside."),
        ("logprobs_mode differs", "logprobs_mode differs."),
        ("", "."),
    ],
)
def test_a_paragraph_is_a_sentence(sentence: str, shown: str) -> None:
    assert full_stop(sentence) == shown


@pytest.fixture
def summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The step summary of a workflow on GitHub Actions that runs this."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return tmp_path / "summary"


def delivered(delivery: Delivery, document: Document = DOCUMENT, verbosity: int = 0) -> ExitCode:
    return deliver(document, delivery, Console(verbosity))


def test_actions_get_annotations_and_a_summary(
    summary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert delivered(Delivery()) is ExitCode.DRIFT
    out = capsys.readouterr().out
    assert out == render(DOCUMENT, "text") + render(DOCUMENT, "github")
    delivered(Delivery("json"))
    assert capsys.readouterr().out == render(DOCUMENT, "json")
    assert summary.read_text() == 2 * render(DOCUMENT, "markdown")


def test_a_summary_that_cannot_be_written_is_an_error(summary: Path) -> None:
    summary.mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        delivered(Delivery())


def test_quiet_is_the_verdict_line(capsys: pytest.CaptureFixture[str]) -> None:
    delivered(Delivery(), verbosity=-1)
    assert capsys.readouterr().out == DOCUMENT.verdict_line + "\n"


def test_a_report_is_written_in_every_format(tmp_path: Path) -> None:
    files: dict[Path, Format] = {tmp_path / format: format for format in RENDERERS}
    delivery = Delivery(write=files)
    delivery.check()
    assert delivery.draws()
    delivered(delivery)
    for path, format in files.items():
        assert path.read_text(encoding="utf-8") == render(DOCUMENT, format)


@pytest.mark.parametrize(
    ("verdict", "exit_code", "delivery", "expected"),
    [
        ("drift", ExitCode.DRIFT, Delivery(), 1),
        ("drift", ExitCode.DRIFT, Delivery(exit_zero=True), 0),
        ("inconclusive", ExitCode.INCONCLUSIVE, Delivery(), 4),
        ("inconclusive", ExitCode.INCONCLUSIVE, Delivery(inconclusive=ExitCode.DRIFT), 1),
        ("inconclusive", ExitCode.INCONCLUSIVE, Delivery(inconclusive=ExitCode.PARITY), 0),
        (None, ExitCode.ENGINE, Delivery(exit_zero=True), 3),
    ],
)
def test_the_exit_code(
    verdict: Verdict | None, exit_code: ExitCode, delivery: Delivery, expected: int
) -> None:
    document = replace(DOCUMENT, verdict=verdict, exit_code=exit_code)
    assert delivered(delivery, document) == expected
