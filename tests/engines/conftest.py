"""Real engines, each started once and shared by all tests of its version."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.support import HERE, VERSIONS, Engine, make_config, make_spec
from parity_check.engines.client import WORKER, WorkerEngine
from parity_check.engines.environment.environment import default_cache
from parity_check.recording import requests
from parity_check.traces.prompts import read_prompts


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test marked `versions` is not there for any other version."""
    elsewhere = [item for item in items if _is_for_others(item)]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def _is_for_others(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("versions")
    parameters = getattr(item, "callspec", None)
    return bool(marker and parameters and not set(marker.args) & set(parameters.params.values()))


@pytest.fixture(scope="session", params=VERSIONS)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    version: str = request.param
    directory = tmp_path_factory.mktemp(f"engine-{version}")
    log = directory / "engine.log"
    with WorkerEngine(make_spec(version), directory / "jobs", log, 300, lambda *_: None) as worker:
        worker.load()
        prompts = read_prompts("bundled:prompts")[:96:4]
        yield Engine(
            version,
            VERSIONS[version][1],
            worker,
            make_config(version),
            prompts,
            requests.tokenize(worker, prompts),
        )


@pytest.fixture(scope="session")
def in_process(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., dict[str, Any]]:
    """Run a script of this directory in a version's own interpreter; returns its JSON answer."""

    def run(
        version: str, script: str, payload: dict[str, Any], *packages: Path, **engine: Any
    ) -> dict[str, Any]:
        directory = tmp_path_factory.mktemp("in-process")
        spec = make_spec(version, **engine)
        question, answer = directory / "question.json", directory / "answer.json"
        load = {"op": "load", **spec.loaded()}
        question.write_text(json.dumps({"load": load, **payload}))
        done = subprocess.run(
            [str(spec.python), str(HERE / script), str(WORKER), str(question), str(answer)],
            env={
                **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
                "PYTHONPATH": os.pathsep.join(map(str, (WORKER / "extension", *packages))),
                **spec.environ,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(answer.read_text())
        return found

    return run


@pytest.fixture(scope="session")
def triton() -> Path:
    """Triton for the torch of 0.32.0, kept in the cache: no CPU engine loads it, so environments
    leave it out."""
    [metadata] = (
        Path(make_spec("0.32.0").python)
        .parents[1]
        .glob("lib/python*/site-packages/torch-*.dist-info/METADATA")
    )
    pinned = re.search(r"^Requires-Dist: (triton==[\d.]+)", metadata.read_text(), re.MULTILINE)
    assert pinned is not None
    version = metadata.parents[2].name.removeprefix("python")
    home = default_cache() / "tests" / f"{pinned[1]}-{version}"
    if not home.exists():
        part = Path(f"{home}.part")
        shutil.rmtree(part, ignore_errors=True)
        command = [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", part),
            *("--python-version", version, "--only-binary", ":all:", pinned[1]),
        ]
        subprocess.run(command, check=True)
        part.rename(home)
    return home
