"""`demo`: what it shows is what `compare` would say of these traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.support import call_cli
from parity_check.comparison.demo import DIRECTORY, NAMES

SMALLER_THAN = 2_000_000
FOUND = {
    "raw-logprobs": (1, "(raw_logprobs; semantic"),
    "bf16-head": (1, "(lm_head_precision; inference path"),
    "stale-cache": (4, "(prefix_cache; inference path"),
    "parity": (0, "✓ PARITY"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_names_its_fault_and_exits_as_compare_would(name: str, tmp_path: Path) -> None:
    code, words = FOUND[name]
    done = call_cli("demo", name, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stdout.split())
    assert ("likely causes" in done.stdout) == (name != "parity")
    assert "parity-check compare --model PATH" in done.stdout
    assert "confirm:" not in done.stdout
    assert not list(tmp_path.iterdir())
    report = call_cli("report", DIRECTORY / name, cwd=tmp_path)
    assert report.returncode == code


def test_an_unknown_demo_suggests_a_known_one(tmp_path: Path) -> None:
    done = call_cli("demo", "stale-cash", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "hint: did you mean stale-cache?"


def test_the_demos_are_small() -> None:
    files = [file for file in DIRECTORY.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < SMALLER_THAN
    assert {file.parent.name for file in files} == set(NAMES)
