"""The package: a wheel that is small, reproducible, and works in an empty folder."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from uv import find_uv_bin

from helpers.support import fake_config

ROOT = Path(__file__).parents[2]
SMALLER_THAN = 25 * 2**20


def uv(*arguments: object) -> None:
    done = subprocess.run(
        [find_uv_bin(), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def build(out: Path) -> Path:
    uv("build", "--wheel", "--out-dir", out, ROOT)
    [wheel] = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_is_small_and_reproducible(wheel: Path, tmp_path: Path) -> None:
    assert wheel.name.startswith("rollout_parity-")
    assert wheel.stat().st_size < SMALLER_THAN
    first, second = (
        hashlib.sha256(each.read_bytes()).hexdigest() for each in (wheel, build(tmp_path))
    )
    assert first == second


def test_it_works_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    uv("venv", tmp_path / "venv")
    uv("pip", "install", "--python", tmp_path / "venv", wheel)
    command, home = tmp_path / "venv" / "bin" / "parity-check", tmp_path / "empty"
    home.mkdir()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *arguments], cwd=home, capture_output=True, text=True, check=False
        )

    shown = run("demo")
    assert shown.returncode == 1, shown.stderr
    assert "raw_logprobs" in shown.stdout
    written = run("init")
    assert written.returncode == 0, written.stderr
    assert tomllib.loads((home / "parity.toml").read_text())["reference"]


def test_it_runs_without_being_installed() -> None:
    """The line of the README; `uvx` is short for `uv tool run`."""
    assert "`uvx --from . parity-check demo`" in (ROOT / "README.md").read_text()
    uv("tool", "run", "--from", ROOT, "parity-check", "demo", "parity")


def test_no_page_installs_another_project() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    found = [
        page
        for page in pages
        if re.search(r"pip install [^\n`&]*\bparity-check\b", page.read_text())
    ]
    assert found == []


ACTION = yaml.safe_load((ROOT / "action.yml").read_text())


def run_action(directory: Path, inputs: Mapping[str, str]) -> tuple[int, dict[str, str]]:
    """The exit code and the outputs of the action's comparison, run as GitHub would run it."""
    [step] = [each for each in ACTION["runs"]["steps"] if each.get("id") == "compare"]
    defaults = {name: row.get("default", "") for name, row in ACTION["inputs"].items()}
    values = {f"inputs.{name}": value for name, value in {**defaults, **inputs}.items()}
    values["runner.temp"] = str(directory / "temp")

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ (\S+) \}\}", lambda match: values[match[1]], text)

    output, summary = directory / "output", directory / "summary"
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", filled(step["run"])],
        env={
            **os.environ,
            **{name: filled(value) for name, value in step["env"].items()},
            "GITHUB_ACTIONS": "true",
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(summary),
        },
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = output.read_text().splitlines()
    return done.returncode, dict(line.split("=", 1) for line in lines)


def test_the_action_compares_and_says_where_the_report_is(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    code, outputs = run_action(tmp_path, {"config": str(config), "profile": "relaxed"})
    assert (code, outputs["verdict"]) == (4, "inconclusive")
    assert (Path(outputs["report-path"]) / "report.html").is_file()
    assert "INCONCLUSIVE" in (tmp_path / "summary").read_text()


def test_the_action_fails_where_nothing_was_compared(tmp_path: Path) -> None:
    code, outputs = run_action(tmp_path, {"config": "missing.toml"})
    assert (code, outputs) == (2, {"verdict": "failed", "report-path": ""})


def test_the_action_declares_what_it_uses() -> None:
    text = (ROOT / "action.yml").read_text()
    used = set(re.findall(r"inputs\.([a-z-]+)", text))
    assert used == set(ACTION["inputs"])
    assert set(ACTION["outputs"]) == {"verdict", "report-path"}
