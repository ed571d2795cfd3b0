"""`--prompts -`: prompts from standard input."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import termios
import tomllib
from array import array
from pathlib import Path

import pytest

from helpers.support import COMMAND, Finished, assert_fails, environment, fake_config, wait_for

pytestmark = pytest.mark.timeout(60)


def piped(text: bytes, *arguments: object, cwd: Path) -> Finished:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=text, cwd=cwd, env=environment(), capture_output=True, check=False,
    )  # fmt: skip
    return Finished(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        (b'{"prompt": "a b"}\n{"prompt": "c", "family": "x"}\n', "jsonl"),
        (b"a b\nc\n", "txt"),
        (b"[INST] a b [/INST]\n[INST] c [/INST]\n", "txt"),
    ],
)
def test_they_are_kept_and_the_run_can_be_repeated(
    tmp_path: Path, text: bytes, suffix: str
) -> None:
    config = fake_config(tmp_path)
    done = piped(text, "compare", "-c", config, "--prompts", "-", "--exit-zero", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [kept] = (tmp_path / "runs").glob(f"prompts-*.{suffix}")
    assert kept.read_bytes() == text
    [run] = (tmp_path / "runs").glob("*/config.toml")
    assert tomllib.loads(run.read_text())["workload"]["prompts"] == str(kept)
    again = piped(b"", "compare", "-c", run, "--exit-zero", "--format", "json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["workload"]["prompts"] == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", "standard input is empty"),
        (b" \n\n", "standard input is empty"),
        (b"\xff\xfe\n", "not UTF-8 at byte 0"),
        (b'{"prompt": \n', "not valid JSON"),
        (b'{"question": "a"}\n', "--prompt-column question"),
        (b'[{"prompt": "a"}]', "prompts -: a JSON list"),
        (b'[\n  "a", "b"\n]\n', "prompts -: a JSON list"),
        (b'{\n "prompt": "a"\n}\n', "one JSON document over several lines"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, text: bytes, expected: str) -> None:
    done = piped(text, "compare", "-c", fake_config(tmp_path), "--prompts", "-", cwd=tmp_path)
    assert_fails(done, 2, expected)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = piped(b"a\n", "compare", "-c", config, "--prompts", "-", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)["workload"]["prompts"] == "-"
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_of_that_name_is_another(tmp_path: Path) -> None:
    (tmp_path / "-").write_text("not these\n")
    config = fake_config(tmp_path)
    done = piped(b"a\n", "compare", "-c", config, "--prompts", "-", "--exit-zero", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [kept] = (tmp_path / "runs").glob("prompts-*.txt")
    assert kept.read_bytes() == b"a\n"


def test_a_terminal_is_not_waited_for(tmp_path: Path) -> None:
    config, (ours, theirs) = fake_config(tmp_path), pty.openpty()
    done = subprocess.run(
        [*COMMAND, "compare", "-c", str(config), "--prompts", "-"],
        stdin=theirs, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert "nothing is piped into standard input" in done.stderr


def test_an_interrupt_while_it_waits(tmp_path: Path) -> None:
    config = fake_config(tmp_path)
    with subprocess.Popen(
        [*COMMAND, "compare", "-c", str(config), "--prompts", "-"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment(), text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        process.stdin.write("a\n")
        process.stdin.flush()
        unread = array("i", [1])

        def it_is_read() -> bool:
            fcntl.ioctl(process.stdin, termios.FIONREAD, unread)
            return unread[0] == 0

        wait_for(it_is_read, "the first line")
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert process.stderr is not None
        assert process.stderr.read() == "interrupted; nothing was recorded\n"
    assert process.returncode == 130
