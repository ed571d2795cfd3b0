"""The shape of the code: who may import whom, and what starting up may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "parity_check"
WORKER = SOURCE / "engines" / "worker"
PURE = ("measure", "diagnosis")
"""numpy in, dataclasses out: no engine, no I/O, no terminal."""
HEAVY = {
    *("torch", "vllm", "transformers", "numpy", "pyarrow", "pandas", "scipy", "matplotlib"),
    *("jinja2", "httpx"),
}


def test_no_package_imports_upward() -> None:
    """The contracts stand in pyproject.toml, by package; a new module cannot escape them."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def loaded_by(*names: str) -> set[str]:
    """The modules that a fresh interpreter holds after importing these."""
    program = f"import sys, {', '.join(names)}; print(*sys.modules)"
    return set(subprocess.check_output([sys.executable, "-c", program], text=True).split())


def test_help_is_instant() -> None:
    assert not HEAVY & loaded_by("parity_check.cli.main")


def test_stored_traces_are_compared_without_engines_or_pictures() -> None:
    loaded = loaded_by("parity_check.comparison.recorded")
    assert loaded & HEAVY <= {"numpy", "scipy"}
    assert "scipy.stats" not in loaded
    assert not [name for name in loaded if name.startswith("parity_check.engines")]
    assert "parity_check.comparison.pictures.collect" not in loaded


def test_http_is_loaded_for_an_endpoint_alone() -> None:
    assert "httpx" not in loaded_by("parity_check.comparison.command")


def test_the_pure_packages_load_neither_terminal_nor_tables() -> None:
    paths = [path for name in PURE for path in (SOURCE / name).glob("[a-z]*.py")]
    parts = (path.relative_to(SOURCE).with_suffix("").parts for path in paths)
    loaded = loaded_by(*(".".join(("parity_check", *each)) for each in parts))
    assert not {"rich", "typer", "pandas", "torch"} & loaded
    assert not [name for name in loaded if name.startswith("parity_check.engines")]


@pytest.mark.parametrize("path", sorted(WORKER.rglob("*.py")), ids=lambda path: path.name)
def test_the_worker_runs_in_any_interpreter(path: Path) -> None:
    """It must be understood by Python 3.9, and use nothing of parity_check."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not [name for name in names if name.split(".")[0] == "parity_check"]
