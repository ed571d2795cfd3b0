"""Fixtures of all tests."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

from helpers.support import Finished, fake_config, only_run, run_cli

# Time says more about the machine's other work than about an example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


# Under nohup, and in the background of a script, they are ignored, which the programs that a test
# starts would inherit.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen", action="store_true", help="Write the golden files anew.")


class Run(NamedTuple):
    """A finished `compare`: where it ran, its directory, its streams and its report."""

    home: Path
    path: Path
    done: Finished
    report: dict[str, Any]


@pytest.fixture(scope="session")
def drifting_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One `compare` of two fake engines that drift, with A/A repeats; shared, read-only."""
    home = tmp_path_factory.mktemp("drifting-run")
    config = fake_config(
        home,
        candidate={"noise": 0.5},
        workload={"num_prompts": 12, "samples_per_prompt": 2, "max_tokens": 8, "repeats": 2},
    )
    done = run_cli("compare", "-c", config, cwd=home)
    path = only_run(home)
    return Run(home, path, done, json.loads((path / "report.json").read_text()))
