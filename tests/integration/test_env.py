"""`env`: the provisioned environments, listed and removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.support import call_cli
from parity_check.engines.environment import environment


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, ready in (("vllm-1", True), ("vllm-2", False)):
        home = tmp_path / "cache" / "envs" / name
        home.mkdir(parents=True)
        (home / "file").write_bytes(bytes(200_000_000 if ready else 1))
        if ready:
            (home / "ready.json").write_text("{}")
    monkeypatch.setattr(environment, "default_cache", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "envs"


def kept(cache: Path) -> set[str]:
    return {each.name for each in cache.iterdir() if each.is_dir()}


def test_list_shows_sizes(cache: Path, tmp_path: Path) -> None:
    first, second = call_cli("env", "list", cwd=tmp_path).stdout.splitlines()
    assert first.split() == ["vllm-1", "0.2", "GB"]
    assert second.endswith("not finished, or broken")


def test_prune_removes_what_is_not_ready(cache: Path, tmp_path: Path) -> None:
    done = call_cli("env", "prune", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert kept(cache) == {"vllm-1"}
    assert "nothing to remove" in call_cli("env", "prune", cwd=tmp_path).stderr


def test_remove_takes_all_names_or_none(cache: Path, tmp_path: Path) -> None:
    done = call_cli("env", "remove", "vllm-1", "vllm-3", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean" in done.stderr
    assert kept(cache) == {"vllm-1", "vllm-2"}
    assert call_cli("env", "remove", "vllm-1", cwd=tmp_path).returncode == 0
    assert kept(cache) == {"vllm-2"}
