"""What users see of more than two engines: `pytest --regen` writes the golden files anew."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from golden.test_golden import about
from helpers.canned_matrix import write_matrix
from helpers.support import Finished, call_cli
from parity_check.report.matrix.json import schema

HERE = Path(__file__).parent
SUFFIXES = {"text": "txt", "markdown": "md", "json": "json"}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, dict[str, str]]:
    """What `report` printed of a canned comparison, and the files that it wrote."""
    home = tmp_path_factory.mktemp("matrix")
    path = write_matrix(home / "run")
    files = [each for name in SUFFIXES for each in ("--write", f"{name}={home / name}")]
    done = call_cli("report", path, *files, cwd=home)
    return done, {name: (home / name).read_text(encoding="utf-8") for name in SUFFIXES}


@pytest.mark.parametrize("format", SUFFIXES)
def test_golden(
    reported: tuple[Finished, dict[str, str]], format: str, pytestconfig: pytest.Config
) -> None:
    done, texts = reported
    golden = HERE / f"matrix.{SUFFIXES[format]}"
    if pytestconfig.getoption("regen"):
        golden.write_text(texts[format], encoding="utf-8")
    assert (done.stderr, done.returncode) == ("", 1)
    assert done.stdout == texts["text"]
    expected = golden.read_text(encoding="utf-8")
    if format == "json":
        assert json.loads(texts[format]) == about(json.loads(expected))
    else:
        assert texts[format] == expected


def test_the_golden_matrix_keeps_to_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    tree = json.loads((HERE / "matrix.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema()).validate(tree)
