"""report.html in a real browser: whole, quiet, within the window, legible, accessible, safe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from browser.support import chromium, opened
from helpers.canned import CANNED, HOSTILE, Canned, write_run
from helpers.canned_ablation import write_ablation
from helpers.canned_matrix import write_matrix
from helpers.canned_training import TRAINED
from helpers.canned_updates import UPDATES
from helpers.support import call_cli
from parity_check.report.renderers import render
from parity_check.training.document import document as training_document
from parity_check.weight_sync.document import document

PAGES: dict[str, Canned] = {**CANNED, "hostile": HOSTILE}
SECTIONS = [
    "compared", "gates", "findings", "warnings", "pictures", "matrix", "numbers", "definitions",
    "samples", "settings", "repeat",
]  # fmt: skip
"""Warnings are there if there are any, the matrix with three engines."""
PICTURES = [
    "log-ratio", "exceedance", "logprobs", "by-position", "by-probability", "ratios", "sequences",
    "clip-by-length", "gap-slope", "logit-grid",
]  # fmt: skip
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module", params=["drift", "tiny", "hostile", "three"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a canned run."""
    home = tmp_path_factory.mktemp(request.param)
    of_three = request.param == "three"
    run = write_matrix(home / "run") if of_three else write_run(home / "run", PAGES[request.param])
    return rendered(run, home / f"{request.param}.html")


def rendered(run: Path, page: Path) -> Path:
    """The page of a run that no engine made."""
    call_cli("report", run, "--write", f"html={page}", cwd=page.parent)
    return page


@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_is_whole_and_asks_for_nothing(browser: Browser, path: Path, width: int) -> None:
    with opened(browser, path, width) as found:
        assert found.complaints == []
        assert found.requests == [path.as_uri()]
        page = found.page
        ids = page.locator("main > section").evaluate_all("all => all.map(e => e.id)")
        assert ids == [name for name in SECTIONS if name in ids]
        assert len(ids) >= len(SECTIONS) - 2
        names = page.locator(".drawing").evaluate_all("all => all.map(e => e.id)")
        assert names == [f"picture-{name}" for name in PICTURES]
        boxes = page.locator("svg.plot").evaluate_all("all => all.map(e => e.clientWidth)")
        assert all(200 < box <= width for box in boxes)
        assert found.overflow() <= 0


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_with_everything_unfolded(
    browser: Browser, path: Path, width: int
) -> None:
    with opened(browser, path, width) as found:
        found.page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
        assert found.overflow() <= 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_accessible_and_legible(browser: Browser, path: Path, scheme: str) -> None:
    with opened(browser, path, color_scheme=scheme) as found:
        background = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 21, 24)"}[scheme]
        assert found.faults() == []


def test_paper_shows_the_folded_tables(browser: Browser, path: Path) -> None:
    with opened(browser, path, 720) as found:
        found.page.emulate_media(media="print")
        assert found.page.locator(".tokens table").first.is_visible()
        assert found.overflow() <= 0


def test_a_page_reads_without_javascript(browser: Browser, path: Path) -> None:
    with opened(browser, path, java_script_enabled=False) as found:
        assert found.page.locator("h1").inner_text().count("against") == 1
        assert found.page.locator("svg.plot").count() >= len(PICTURES)


def test_a_hostile_page_runs_no_script(browser: Browser, tmp_path: Path) -> None:
    page = rendered(write_run(tmp_path / "run", HOSTILE), tmp_path / "hostile.html")
    with opened(browser, page) as found:
        assert found.complaints == []
        assert "owned" not in found.page.title()
        assert found.page.locator("script").count() == 1
        assert found.page.locator("img").count() == 0
        report = found.page.evaluate("JSON.parse(document.getElementById('report').textContent)")
        assert all("</summary><script>" in token["sample_id"] for token in report["worst_tokens"])
        shown = found.page.locator(".text bdi.t").all_inner_texts()
        assert "<script>document.title='owned'</script>" in shown
        assert {"\\ud800", "↵↵", "⇥", "\\u00a0", "\\u00b7", "{{·7·*·7·}}"} <= set(shown)
        assert any(text.endswith("… (10,240 characters)") for text in shown)
        heights = found.page.locator(".text bdi.t").evaluate_all(
            "all => all.filter(e => e.textContent.length < 9).map(e => e.offsetHeight)"
        )
        assert max(heights) < 40


def test_the_page_of_three_engines_shows_every_pair(browser: Browser, tmp_path: Path) -> None:
    page = rendered(write_matrix(tmp_path / "run"), tmp_path / "three.html")
    with opened(browser, page) as found:
        headings = found.page.locator("#gates h3").all_inner_texts()
        pairs = [
            "Candidate against reference, sampled by the reference",
            "Candidate against reference, sampled by the candidate",
            "Trainer against reference, sampled by the reference",
            "Trainer against candidate, sampled by the candidate",
        ]
        assert [heading.partition(", replayed")[0] for heading in headings] == pairs
        assert found.page.locator("#picture-log-ratio svg.plot").count() == len(pairs)
        assert found.page.locator("#matrix table").count() >= 4
        facts = found.page.locator(".sample > summary .muted").all_inner_texts()
        assert len({text.partition(" · ")[0] for text in facts}) == 3


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_an_ablation(browser: Browser, tmp_path: Path, width: int) -> None:
    page = rendered(write_ablation(tmp_path / "run"), tmp_path / "ablation.html")
    with opened(browser, page, width) as found:
        assert found.complaints == []
        assert found.requests == [page.as_uri()]
        names = found.page.locator(".drawing").evaluate_all("all => all.map(e => e.id)")
        assert names == ["picture-waterfall", "picture-flips"]
        assert found.overflow() <= 0
        assert found.faults() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_weight_update(browser: Browser, tmp_path: Path, width: int) -> None:
    page = tmp_path / "weight-sync.html"
    page.write_text(render(document(UPDATES["parity"]), "html"), encoding="utf-8")
    with opened(browser, page, width) as found:
        assert found.complaints == []
        assert found.requests == [page.as_uri()]
        names = found.page.locator(".drawing").evaluate_all("all => all.map(e => e.id)")
        assert names == ["picture-version", "picture-distance"]
        assert found.overflow() <= 0
        assert found.faults() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_training_comparison(browser: Browser, tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(training_document(TRAINED["story"]), "html"), encoding="utf-8")
    with opened(browser, page, width) as found:
        assert found.complaints == []
        assert found.requests == [page.as_uri()]
        names = found.page.locator(".drawing").evaluate_all("all => all.map(e => e.id)")
        assert names == ["picture-curves"]
        assert found.page.locator("#picture-curves svg.plot").count() == 6
        assert found.overflow() <= 0
        assert found.faults() == []


def test_the_axe_that_is_trusted_here_finds_faults(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text('<title>bad</title><img src="data:,"><p style="color: #ddd">pale</p>')
    with opened(browser, path) as found:
        faults = " ".join(found.faults())
    assert "image-alt" in faults
    assert "color-contrast" in faults
