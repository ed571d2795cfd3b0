"""report.html as a file: self-contained, small, and there without matplotlib."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from conftest import Run
from helpers.canned import CANNED, HOSTILE, write_run
from helpers.canned_matrix import write_matrix
from helpers.canned_reports import comparison
from helpers.support import assert_fails, call_cli
from parity_check.comparison.analyse import analyse_pair
from parity_check.comparison.document import document
from parity_check.comparison.pictures.gather import gather_pair
from parity_check.config.models import Judging
from parity_check.report import renderers

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000


def render(run: Path) -> str:
    return renderers.render(comparison(run), "html")


def test_compare_writes_a_page_beside_its_report(drifting_run: Run) -> None:
    page = (drifting_run.path / "report.html").read_text(encoding="utf-8")
    [data] = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page, re.S)
    assert json.loads(data) == drifting_run.report
    assert "<h1>" in page
    assert len(page.encode()) < 2 * MEGABYTE


def test_report_prints_and_writes_the_page(drifting_run: Run, tmp_path: Path) -> None:
    written = tmp_path / "page.html"
    done = call_cli(
        "report", drifting_run.path, "--format", "html", "--write", f"html={written}", cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stdout.startswith("<!doctype html>")
    assert written.read_text(encoding="utf-8") == done.stdout
    assert done.stdout.rstrip() == (drifting_run.path / "report.html").read_text().rstrip()


def test_two_traces_have_a_page(drifting_run: Run, tmp_path: Path) -> None:
    traces = [
        drifting_run.path / f"{name}.parquet"
        for name in ("candidate", "candidate-replayed-by-reference")
    ]
    done = call_cli("compare", *traces, "--format", "html", cwd=tmp_path)
    assert done.returncode in (0, 1, 4)
    assert done.stdout.count("<figure>") == 10
    assert "The traces were recorded by:" in done.stdout


def test_a_page_links_to_nothing_outside(tmp_path: Path) -> None:
    page = render(write_run(tmp_path / "run", CANNED["drift"]))
    body = page.partition('<script type="application/json"')[0]
    assert re.findall(r'(?:href|src)="(?!#)', body) == []
    assert "url(http" not in body
    assert "<script" not in body
    assert set(re.findall(r"https?://[^\s\"<)]+", body)) <= {"http://www.w3.org/1999/xlink"}


def test_ids_are_unique(tmp_path: Path) -> None:
    page = render(write_matrix(tmp_path / "run"))
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for name in set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)):
        assert name in ids


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", CANNED["inconclusive"])
    assert render(run) == render(run)


def test_a_page_without_matplotlib_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", CANNED["tiny"])
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # type: ignore[arg-type]
    page = render(run)
    assert page.count("<code>pip install matplotlib</code>") == 1
    assert "<figure>" not in page
    assert 'class="strip' in page


def test_hostile_tokens_leave_every_format_whole(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", HOSTILE)
    formats = ("text", "json", "markdown", "html", "github", "junit")
    files = [argument for each in formats for argument in ("--write", f"{each}={tmp_path / each}")]
    done = call_cli("report", run, *files, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "\u202e" not in "".join((tmp_path / each).read_text("utf-8") for each in formats)
    page = (tmp_path / "html").read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert "<img" not in page
    json.loads((tmp_path / "json").read_text(encoding="utf-8"))


def test_an_unknown_format_names_html(drifting_run: Run, tmp_path: Path) -> None:
    done = call_cli("report", drifting_run.path, "--format", "htm", cwd=tmp_path)
    assert done.returncode == 2
    assert "'html'" in done.stderr


def test_a_page_that_cannot_be_written_fails_first(drifting_run: Run, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    done = call_cli("report", drifting_run.path, "--write", f"html={blocked}/p.html", cwd=tmp_path)
    assert_fails(done, 2, "cannot write")


@pytest.mark.slow
def test_the_page_of_a_million_tokens_is_under_six_megabytes(tmp_path: Path) -> None:
    bench("bench_analysis").build(tmp_path, 1_000_000)
    pair = tmp_path / "A.parquet", tmp_path / "B.parquet"
    pictures = gather_pair(*pair, Judging())
    report = replace(analyse_pair(*pair, Judging()), pictures=pictures)
    page = renderers.render(document(report), "html")
    assert pictures.pairs[0].directions[0].tokens > 990_000
    assert len(page.encode()) < 6 * MEGABYTE
    assert "240 drawn, evenly by rank" in page


def bench(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
