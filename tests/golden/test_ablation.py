"""What users see of an ablation, file by file: `pytest --regen` writes the golden files anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from golden.outline import outline
from helpers.canned_ablation import write_ablation
from helpers.support import Finished, about, call_cli

HERE = Path(__file__).parent
SUFFIXES = {
    "text": "txt", "markdown": "md", "json": "json", "html": "page", "github": "github",
    "junit": "xml",
}  # fmt: skip
TERMINAL = 100


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, dict[str, str]]:
    """What `report` printed of a canned ablation, and the files that it wrote."""
    home = tmp_path_factory.mktemp("ablation")
    path = write_ablation(home / "run")
    files = [each for name in SUFFIXES for each in ("--write", f"{name}={home / name}")]
    done = call_cli("report", path, *files, cwd=home)
    texts = {name: (home / name).read_text(encoding="utf-8") for name in SUFFIXES}
    return done, {**texts, "html": outline(texts["html"])}


@pytest.mark.parametrize("format", SUFFIXES)
def test_golden(
    reported: tuple[Finished, dict[str, str]], format: str, pytestconfig: pytest.Config
) -> None:
    done, texts = reported
    golden = HERE / f"ablation.{SUFFIXES[format]}"
    if pytestconfig.getoption("regen"):
        golden.write_text(texts[format], encoding="utf-8")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == texts["text"]
    expected = golden.read_text(encoding="utf-8")
    if format == "json":
        assert json.loads(texts[format]) == about(json.loads(expected))
    else:
        assert texts[format] == expected


def test_text_fits_a_terminal() -> None:
    lines = (HERE / "ablation.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines[:-1] if len(line) > TERMINAL] == []
