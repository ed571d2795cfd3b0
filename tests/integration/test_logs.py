"""`parity-check logs` from the command line: exit codes, formats, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.schemas import validator
from helpers.support import assert_fails, call_cli
from parity_check.logs.names import NAMES

LOG = "step,rollout_corr/kl,rollout_corr/k3_kl\n" + "".join(
    f"{step},{0.03 if step > 5 else 1e-4},4e-4\n" for step in range(1, 11)
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "run.csv"
    path.write_text(LOG)
    return path


def test_it_says_since_when_and_gives_no_verdict(log: Path) -> None:
    done = call_cli("logs", log.name, cwd=log.parent)
    assert done.returncode == 4, done.stderr
    assert "since step 6 (at 5 of 10 steps)" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("– NO VERDICT  1 of 2 curves")


def test_a_curve_inside_every_limit_is_no_parity(log: Path) -> None:
    done = call_cli("logs", log.name, "--set", "gates.mean_log_ratio=0.1", cwd=log.parent)
    assert done.returncode == 4
    assert "no curve leaves its limit" in done.stdout
    assert "parity  " not in done.stdout.lower().replace("parity-check", "")


@pytest.mark.parametrize(
    ("option", "code"), [("--exit-zero", 0), ("--inconclusive=pass", 0), ("--inconclusive=fail", 1)]
)
def test_the_exit_code_can_be_chosen(log: Path, option: str, code: int) -> None:
    assert call_cli("logs", log.name, option, cwd=log.parent).returncode == code


def test_json_and_page(log: Path) -> None:
    done = call_cli(
        "logs", log.name, "--format", "json", "--write", "html=log.html", cwd=log.parent
    )
    tree = json.loads(done.stdout)
    validator("logs").validate(tree)
    assert tree["verdict"] is None
    assert tree["series"][0]["crossing"] == {"steps": 5, "first": 6, "last": 10, "since": 6}
    page = (log.parent / "log.html").read_text()
    assert "No verdict" in page
    assert page.count('<svg class="plot"') == 2


def test_a_profile_moves_the_limits(log: Path) -> None:
    strict = call_cli("logs", log.name, "--set", "gates.profile=strict", cwd=log.parent)
    assert "≤ 5.00e-04" in strict.stdout
    assert_fails(
        call_cli("logs", log.name, "--set", "gates.profile=none", cwd=log.parent), 2, "profile"
    )


def test_the_report_cannot_replace_the_log(log: Path) -> None:
    done = call_cli("logs", log.name, "--write", f"json={log.name}", cwd=log.parent)
    assert_fails(done, 2, "also reads or writes")
    assert log.read_text() == LOG


def test_import_sends_a_log_here(log: Path) -> None:
    done = call_cli("import", log.name, "-o", "t.parquet", cwd=log.parent)
    assert_fails(done, 2, "without tokens", "parity-check logs run.csv")
    assert not (log.parent / "t.parquet").exists()


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "logs.md"


def test_the_guide_shows_what_its_example_prints(tmp_path: Path) -> None:
    example = GUIDE.with_suffix("") / "run.jsonl"
    done = call_cli("logs", example, cwd=tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    shown = text.partition("\nlogged as")[2].partition("```")[0]
    printed = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert len(shown.splitlines()) >= 4
    for line in shown.splitlines()[1:]:
        assert " ".join(line.split()) in printed


def test_the_guide_lists_every_name() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert [each.name for each in NAMES if f"`{each.name}`" not in text] == []
