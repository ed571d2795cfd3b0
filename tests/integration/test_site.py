"""The documentation site: it builds without a warning, and every page is in its navigation."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(find_spec("material") is None, reason="mkdocs-material is not installed")
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """A broken link or anchor, or a page that no menu has, is a warning, and fails."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--exit-zero" in (tmp_path / "site" / "reference" / "cli" / "index.html").read_text()
