"""The command line itself: help, versions, usage errors, streams, and bugs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from typer import Context
from typer.main import get_command

import parity_check
from helpers import support
from helpers.support import assert_fails, call_cli, environment, fake_config, run_cli
from parity_check.cli.main import cli
from parity_check.comparison import command
from parity_check.measure.limits import PROFILES

COMMANDS = ("compare", "record", "replay", "doctor")


def test_help_names_every_command_and_exit_code(tmp_path: Path) -> None:
    done = run_cli("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for word in (*COMMANDS, "0 parity", "1 drift", "2 usage", "3 an engine", "130 interrupted"):
        assert word in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(tmp_path: Path, command: str) -> None:
    done = call_cli(command, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config" in done.stdout


def test_version(tmp_path: Path) -> None:
    done = call_cli("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"parity-check {parity_check.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["comparr"], "No such command 'comparr'"),
        (["compare", "--confg", "x"], "No such option: --confg"),
        (["compare"], "pass a configuration (-c), or --reference and --candidate"),
        (["record", "-c", "x.toml", "-o", "t"], "Missing option '--engine'"),
        (["replay", "-c", "x", "-o", "t", "--engine", "reference"], "Missing option '--trace'"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = call_cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["record", "replay"])
def test_every_command_has_a_dry_run(tmp_path: Path, command: str) -> None:
    config = fake_config(tmp_path)
    extra = []
    if command == "replay":
        recorded = ("record", "-c", config, "--engine", "reference", "-o", "t.parquet")
        assert call_cli(*recorded, cwd=tmp_path).returncode == 0
        extra = ["--trace", "t.parquet"]
    before = sorted(tmp_path.iterdir())
    done = call_cli(
        command, "-c", config, "--engine", "reference", "-o", "t", *extra, "--dry-run", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)["reference"]["kind"] == "fake"
    assert sorted(tmp_path.iterdir()) == before


def test_errors_are_said_even_when_quiet(tmp_path: Path) -> None:
    done = call_cli("compare", "-q", "-c", "none.toml", cwd=tmp_path)
    assert_fails(done, 2, "cannot read the configuration none.toml")


def test_without_progress_the_plan_and_errors_alone_are_said(tmp_path: Path) -> None:
    done = call_cli("compare", "--no-progress", "-c", fake_config(tmp_path), cwd=tmp_path)
    assert done.returncode == 4
    [line] = done.stderr.splitlines()
    assert line.startswith("plan: ")
    assert done.stdout


def test_text_in_brackets_is_no_markup(tmp_path: Path) -> None:
    """Tokens and paths hold brackets, which a terminal library may take for styles."""
    done = call_cli("compare", "-c", "[bold]no[/bold].toml", cwd=tmp_path)
    assert_fails(done, 2, "cannot read the configuration [bold]no[/bold].toml")


def test_colour_only_when_asked_or_on_a_terminal(tmp_path: Path) -> None:
    assert "\x1b[" not in call_cli("compare", "-c", "none.toml", cwd=tmp_path).stderr
    done = call_cli("compare", "--color", "-c", "none.toml", cwd=tmp_path)
    assert "\x1b[1;31m" in done.stderr


def test_a_bug_shows_its_traceback_and_exits_with_70(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("not expected")

    monkeypatch.setattr(command, "analyse", broken)
    done = call_cli("compare", "-c", fake_config(tmp_path), cwd=tmp_path)
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: not expected" in done.stderr
    assert done.stderr.splitlines()[-1] == "this is a bug in parity-check; please report it"


def test_a_reader_that_goes_away_is_no_bug(tmp_path: Path) -> None:
    """As in `parity-check compare … | head -1`."""
    import os

    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        done = run_cli("compare", "-c", fake_config(tmp_path), cwd=tmp_path, stdout=stdout)
    assert done.returncode == 141
    assert "error" not in done.stderr


def test_engines_without_modules_cannot_be_located(tmp_path: Path) -> None:
    done = call_cli("locate", "-c", fake_config(tmp_path), cwd=tmp_path)
    assert_fails(done, 2, "locate: the reference is a fake engine, whose modules parity-check")


def test_help_has_headings_and_no_type_for_flags(tmp_path: Path) -> None:
    text = call_cli("compare", "--help", cwd=tmp_path).stdout
    assert [text.count(f"─ {name} ─") for name in ("Options", "Output", "Exit code")] == [1, 1, 1]
    assert "--verbose" in text
    assert "<bool>" not in text
    for names in ((), ("env",), ("env", "list"), ("train",)):
        assert "<bool>" not in call_cli(*names, "--help", cwd=tmp_path).stdout


GROUP = get_command(cli)


@pytest.mark.parametrize("name", GROUP.list_commands(Context(GROUP)))
def test_help_cuts_no_word_at_80_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(support, "environment", lambda: {**environment(), "COLUMNS": "80"})
    shown = call_cli(name, "--help", cwd=tmp_path).stdout
    assert max(map(len, shown.splitlines())) == 80
    command = GROUP.get_command(Context(GROUP), name)
    assert command is not None
    for parameter in command.params:
        assert (parameter.metavar or "") in shown
    assert "… " not in shown.replace("VALUE…", "").replace("FILE…", "")


def test_help_names_every_profile(tmp_path: Path) -> None:
    text = " ".join(call_cli("compare", "--help", cwd=tmp_path).stdout.replace("│", "").split())
    named = text.partition("The limits: ")[2].partition("Default")[0]
    assert [name for name in PROFILES if name not in named] == []
