"""Terminals, streams and users of every kind: processes, as a shell or a container starts them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from helpers.support import COMMAND, Finished, call_cli, environment, fake_config
from hostile.support import USAGE, VERDICTS
from parity_check.config.engines import EndpointConfig
from parity_check.engines.endpoint.engine import read_key
from parity_check.engines.environment.environment import default_cache
from parity_check.errors import ConfigError, ExitCode

pytestmark = pytest.mark.timeout(60, func_only=True)


def run(
    *arguments: object, cwd: Path, env: dict[str, str | None] | None = None, **options: Any
) -> Finished:
    """A process with a changed environment; None takes a variable away."""
    changed = {**environment(), **(env or {})}
    kept = {name: value for name, value in changed.items() if value is not None}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd, env=kept, timeout=50, check=False, **{**streams, **options},
    )  # fmt: skip
    texts = [(each or b"").decode(errors="replace") for each in (done.stdout, done.stderr)]
    assert "Traceback" not in texts[1], texts[1]
    assert "Exception ignored" not in texts[1], texts[1]
    return Finished(done.args, done.returncode, *texts)


@pytest.fixture(scope="module")
def home(drifting_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two traces and a run, whose names are beyond ASCII; read-only."""
    home = tmp_path_factory.mktemp("terminals")
    shutil.copytree(drifting_run.path, home / "run")
    shutil.copy(drifting_run.path / "candidate.parquet", home / "a.parquet")
    shutil.copy(drifting_run.path / "candidate-replayed-by-reference.parquet", home / "b.parquet")
    fake_config(home)
    return home


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16", "gb18030"])
@pytest.mark.parametrize(
    ("command", "codes"),
    [
        ("--help", (0,)),
        ("compare --help", (0,)),
        ("report run", VERDICTS),
        ("report run --format json", VERDICTS),
        ("report run --format markdown", VERDICTS),
        ("report run --format github", VERDICTS),
        ("report run --format html", VERDICTS),
        ("report run/ü", (USAGE,)),
        ("compare --ü", (USAGE,)),
    ],
)
def test_any_encoding_of_a_terminal(
    home: Path, encoding: str, command: str, codes: tuple[int, ...]
) -> None:
    done = call_cli(*command.split(" "), cwd=home, encoding=encoding)
    assert done.returncode in codes, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["--help", "report run"])
def test_a_terminal_of_ascii(home: Path, command: str) -> None:
    done = run(*command.split(" "), cwd=home, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode in VERDICTS
    assert done.stdout.isascii()


@pytest.mark.parametrize("locale", ["C", "no_such.locale"])
def test_any_locale(home: Path, locale: str) -> None:
    env: dict[str, str | None] = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    assert run("report", "run", cwd=home, env=env).returncode in VERDICTS


def closed(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


def broken() -> int:
    """The end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


COMMANDS = ("--help", "report run")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_of_stdout_that_goes_away(home: Path, command: str) -> None:
    writer = broken()
    done = run(*command.split(" "), cwd=home, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (ExitCode.CLOSED, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stdout_that_is_full(home: Path, command: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(*command.split(" "), cwd=home, stdout=full)
    assert done.returncode == USAGE
    assert "error: cannot write to stdout: No space left on device\n" in done.stderr


@pytest.mark.parametrize(("command", "code"), [("report run", 1), ("report none", 2)])
@pytest.mark.parametrize("kind", ["broken", "full", "closed"])
def test_a_stderr_that_nobody_reads_changes_no_code(
    home: Path, command: str, code: int, kind: str
) -> None:
    if kind == "closed":
        done = run(*command.split(" "), cwd=home, stderr=None, preexec_fn=closed(2))
    else:
        stream = broken() if kind == "broken" else os.open("/dev/full", os.O_WRONLY)
        done = run(*command.split(" "), cwd=home, stderr=stream)
        os.close(stream)
    assert done.returncode == code
    assert ("DRIFT" in done.stdout) == (code == 1)


def test_a_whole_run_that_nobody_listens_to(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    stream = broken()
    done = run("compare", "-c", config, "-v", cwd=tmp_path, stderr=stream)
    os.close(stream)
    assert done.returncode == ExitCode.INCONCLUSIVE
    assert "INCONCLUSIVE" in done.stdout


@pytest.mark.parametrize("command", ["--version", "report run"])
def test_a_stdout_that_is_closed(home: Path, command: str) -> None:
    done = run(*command.split(" "), cwd=home, stdout=None, preexec_fn=closed(1))
    assert done.returncode in (USAGE, ExitCode.CLOSED)


def test_no_stream_at_all(home: Path) -> None:
    def close_all() -> None:
        for number in (0, 1, 2):
            os.close(number)

    done = run(
        "report", "run", cwd=home, stdin=None, stdout=None, stderr=None, preexec_fn=close_all
    )
    assert done.returncode in (USAGE, ExitCode.CLOSED)


@pytest.mark.parametrize(
    ("command", "codes"),
    [("--help", (0,)), ("report run", (USAGE,)), ("compare -c parity.toml", (USAGE,))],
)  # fmt: skip
def test_a_working_directory_that_is_gone(
    tmp_path: Path, command: str, codes: tuple[int, ...]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = run(*command.split(" "), cwd=gone, preexec_fn=lambda: gone.rmdir())
    assert done.returncode in codes, done.stderr
    if codes == (USAGE,):
        assert done.stderr.startswith("error: the working directory no longer exists")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry in passwd and without HOME, as `docker run --user 54321`."""
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "PARITY_CHECK_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("command", ["report run", "report run --format html"])
def test_a_user_without_name_or_home_reads_a_report(home: Path, command: str) -> None:
    assert call_cli(*command.split(" "), cwd=home).returncode in VERDICTS


@pytest.mark.usefixtures("nobody")
def test_a_user_without_a_home_has_no_cache() -> None:
    with pytest.raises(ConfigError, match="this user has no home directory"):
        default_cache()


@pytest.mark.parametrize("key", ["sk-se\rcret", "sk-se\ncret", "sk-se cret", "sk-sécret", "\n"])
def test_a_key_that_is_none_is_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = EndpointConfig(base_url="http://h/v1", model="m", api_key_env="THE_KEY")
    monkeypatch.setenv("THE_KEY", key)
    with pytest.raises(ConfigError) as caught:
        read_key("candidate", endpoint)
    assert "THE_KEY" in caught.value.message
    assert "cret" not in f"{caught.value.message} {caught.value.hint}"


def test_the_end_of_a_line_is_no_part_of_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = EndpointConfig(base_url="http://h/v1", model="m", api_key_env="THE_KEY")
    monkeypatch.setenv("THE_KEY", " sk-secret\r\n")
    assert read_key("candidate", endpoint) == "sk-secret"


@pytest.mark.parametrize("raw", [b"\xff.toml", b"a\x1b[2J.toml", b"a\n::error::b.toml"])
@pytest.mark.parametrize("command", ["compare -c"])
def test_an_argument_that_is_no_text(tmp_path: Path, command: str, raw: bytes) -> None:
    done = run(*command.split(" "), os.fsdecode(raw), cwd=tmp_path)
    assert done.returncode == USAGE
    assert "\x1b" not in done.stderr
    assert "\n::" not in done.stderr


@pytest.mark.parametrize("width", ["0", "x"])
def test_any_width_of_a_terminal(home: Path, width: str) -> None:
    done = run("report", "run", cwd=home, env={"COLUMNS": width})
    assert done.returncode in VERDICTS
