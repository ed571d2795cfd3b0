"""The guides and the reference say what the program does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml

from helpers.support import call_cli, fake_config
from parity_check.cli.main import cli
from parity_check.config.load import dump_config, load_config
from parity_check.importers.formats import IMPORTERS
from parity_check.measure.metrics import METRICS
from parity_check.measure.objectives import OBJECTIVES
from parity_check.report.renderers import RENDERERS

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def workflow() -> dict[str, dict[str, object]]:
    [text] = blocks(ROOT / "docs" / "guides" / "ci.md", "yaml")
    tree: dict[str, dict[str, object]] = yaml.safe_load(text)
    return tree


def shell_lines() -> Iterator[str]:
    for guide in GUIDES:
        yield from "\n".join(blocks(guide, "sh")).splitlines()
    steps = workflow()["jobs"]["parity"]["steps"]  # type: ignore[index]
    yield from (step["run"] for step in steps if "run" in step)


COMMANDS = [line for line in shell_lines() if line.startswith("parity-check ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_exists(line: str, tmp_path: Path) -> None:
    _, name, *arguments = shlex.split(line)
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    params = commands[name].params
    known = {option for each in params for option in (*each.opts, *each.secondary_opts)}
    options = [argument for argument in arguments if argument.startswith("-")]
    assert set(options) <= known, line
    for option, value in pairwise(arguments):
        if option == "--write":
            assert value.split("=")[0] in RENDERERS
        if option == "--format":
            assert value in RENDERERS
        if option == "--set" and "…" not in value:
            bundled = [each for each in arguments if each.startswith("bundled:")]
            base = Path(bundled[0]) if bundled else fake_config(tmp_path)
            dump_config(load_config(base, [value]))


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 12


def test_the_workflow_is_complete() -> None:
    tree = workflow()
    assert {"name", "permissions", "jobs"} <= set(tree)
    assert True in tree, "YAML reads the key `on` as true"
    job = tree["jobs"]["parity"]
    assert job["runs-on"]  # type: ignore[index]
    steps = job["steps"]  # type: ignore[index]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    assert steps[-1]["if"] == "always()", "what was found is kept when the job fails"


def test_the_reference_is_what_the_tables_say() -> None:
    script = ROOT / "scripts" / "make_reference.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_reference_names_everything() -> None:
    page = REFERENCE.read_text(encoding="utf-8")
    assert not [name for name in (*METRICS, *OBJECTIVES) if f"`{name}`" not in page]


@pytest.mark.parametrize("page", [*GUIDES, REFERENCE], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def console_steps(page: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Commands of the console blocks of a page with the lines that they are said to print."""
    for block in blocks(page, "console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = step.rstrip().splitlines()
            yield shlex.split(command)[1:], [line for line in shown if line.strip(" …")]


def test_the_import_guide_shows_what_is_printed(tmp_path: Path) -> None:
    """Every command of the page, in its order; numbers and all."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    imported = set()
    for arguments, shown in console_steps(ROOT / "docs" / "guides" / "import.md"):
        done = call_cli(*arguments, cwd=tmp_path)
        assert done.returncode in (0, 4), done.stderr
        assert shown, arguments
        printed = (done.stdout + done.stderr).splitlines()
        assert [line for line in shown if line not in printed] == []
        if arguments[0] == "import":
            detected = [line.partition("detected format: ")[2] for line in printed]
            imported.add(next(filter(None, detected), arguments[1]))
    assert imported == IMPORTERS.keys()
