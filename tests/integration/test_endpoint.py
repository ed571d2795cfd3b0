"""A served endpoint as an engine: what works against a stub, and every way in which it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from parity_check.trace import Trace
from stub_server import KEY, Stub, endpoint_config, serving
from support import (
    Finished,
    assert_fails,
    assert_tidy,
    call_cli,
    lines_of,
    only_run,
    run_cli,
)

pytestmark = pytest.mark.timeout(60)


def compare(stub: Stub, directory: Path, **tables: dict[str, Any]) -> Finished:
    config = endpoint_config(directory, stub.url, **tables)
    return call_cli("compare", "-c", config, "--no-progress", cwd=directory)


def report_of(directory: Path) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads((only_run(directory) / "report.json").read_text())
    return tree


def test_an_endpoint_samples_and_the_other_engine_replays(tmp_path: Path) -> None:
    with serving() as stub:
        done = compare(stub, tmp_path, workload={"num_prompts": 12, "temperature": 0.7})
    assert done.returncode in (0, 4), done.stderr
    report = report_of(tmp_path)
    values = {metric["name"]: metric["value"] for metric in report["metrics"]}
    assert values["mean_abs_log_ratio"] == 0.0
    assert {metric["sampled_by"] for metric in report["metrics"]} == {"candidate"}
    assert_tidy(tmp_path)


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__]))
