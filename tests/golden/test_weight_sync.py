"""What users see of a weight update, file by file; `pytest --regen` writes the files anew."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from golden.outline import outline
from helpers.canned_updates import STALE, a_report, a_run, changed
from helpers.support import about
from parity_check.report.renderers import RENDERERS, Format, render
from parity_check.weight_sync.document import document
from parity_check.weight_sync.record import read

HERE = Path(__file__).parent
SUFFIXES: dict[Format, str] = {
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
SHOWN: list[tuple[str, Format]] = [
    *((name, "text") for name in CANNED),
    *(("stale", format) for format in SUFFIXES if format != "text"),
]
"""Text of every case, the other formats of one."""


@pytest.mark.parametrize(("name", "format"), SHOWN)
def test_golden(name: str, format: Format, pytestconfig: pytest.Config) -> None:
    golden = HERE / f"weight-sync-{name}.{SUFFIXES[format]}"
    text = render(document(CANNED[name]), format)
    text = outline(text) if format == "html" else text
    if pytestconfig.getoption("regen"):
        golden.write_text(text, encoding="utf-8")
    expected = golden.read_text(encoding="utf-8")
    if format == "json":
        assert json.loads(text) == about(json.loads(expected))
    else:
        assert text == expected
    assert CANNED[name].exit_code == EXIT_CODES[name]


@pytest.mark.parametrize("name", CANNED)
def test_a_stored_report_is_read_back_whole(name: str) -> None:
    shown = document(CANNED[name])
    again = document(read(render(shown, "json")))
    for format in RENDERERS:
        assert render(again, format) == render(shown, format), format


@pytest.mark.parametrize("name", CANNED)
def test_text_fits_a_terminal_and_ends_with_the_verdict(name: str) -> None:
    lines = (HERE / f"weight-sync-{name}.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > TERMINAL] == []
    assert re.match(r"[✓✗?] (PARITY|DRIFT|INCONCLUSIVE)  .*\(exit \d\)$", lines[-1])
