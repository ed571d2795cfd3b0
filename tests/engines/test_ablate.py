"""The ladder on real engines, as a user types it: V0 as the reference, V1 at its defaults."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity_check.traces.trace import Trace

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.toml"
DEFAULTS = {
    f"candidate.settings.{name}": "default"
    for name in ("logprobs_mode", "enable_prefix_caching", "async_scheduling", "lm_head_dtype")
}
SMALL = {
    "workload.temperature": 0.7,
    "workload.num_prompts": 24,
    "workload.samples_per_prompt": 1,
    "workload.max_tokens": 24,
    # Limits that so few tokens can settle.
    "gates.mean_log_ratio": 1e-2,
    "gates.mean_importance_ratio": 0.25,
    "gates.k3_kl": 0.2,
    "gates.ess": 0.2,
    "gates.impossible_fraction": 0.05,
    "gates.burst_fraction": 0.3,
    "gates.burst_cluster_fraction": 0.3,
    "gates.tail_fraction": 0.05,
    "gates.clip_fraction": 0.05,
}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The ablation's directory and its JSON; six starts of engines."""
    out = tmp_path_factory.mktemp("ablate")
    command = [
        sys.executable,
        "-m",
        "parity_check",
        "ablate",
        "-c",
        str(QUICKSTART),
        "-o",
        str(out),
    ]
    for key, value in {**DEFAULTS, **SMALL}.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(
        [*command, "-o", str(out), "--no-flips", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    [path] = out.iterdir()
    return path, json.loads(done.stdout)


def drift(step: dict[str, Any]) -> float:
    [found] = [
        metric["value"]
        for metric in step["metrics"]
        if (metric["name"], metric["sampled_by"]) == ("mean_abs_log_ratio", "reference")
    ]
    return float(found)


def replayed(path: Path, step: dict[str, Any]) -> np.ndarray[Any, Any]:
    trace = Trace(path / step["directory"] / "reference-replayed-by-candidate.parquet")
    return np.concatenate([np.asarray(sample.logprobs) for sample in trace.samples()])


def test_the_ladder_names_the_cause_and_ends_in_parity(
    ladder: tuple[Path, dict[str, Any]],
) -> None:
    path, tree = ladder
    start, processed, *others = tree["steps"]
    assert [step["state"] for step in tree["steps"]] == ["finished"] * 5
    settings = start["candidate"]["settings"]
    assert settings["logprobs_mode"]["in_force"] == "raw_logprobs"
    assert start["verdict"] != "parity"
    assert processed["effect"] == "changed"
    assert processed["removed_share"]["value"] > 0.8  # measured 0.95
    assert others[-1]["verdict"] == "parity" or others[-1]["at_floor"]
    assert others[-1]["candidate"]["settings"]["lm_head_dtype"]["in_force"] == "float32"

    shares = [step["removed_share"]["value"] for step in tree["steps"][1:]]
    drifts = [drift(step) for step in tree["steps"]]
    assert shares == pytest.approx((-np.diff(drifts) / drifts[0]).tolist(), abs=1e-9)
    assert sum(shares) == pytest.approx(1 - drifts[-1] / drifts[0], abs=1e-9)

    logprobs = [replayed(path, step) for step in tree["steps"]]
    for step, before, after in zip(tree["steps"][1:], logprobs, logprobs[1:], strict=False):
        assert step["differing_tokens"] == np.count_nonzero(before != after)
    # A CPU schedules synchronously whatever it is asked for.
    assert (others[1]["key"], others[1]["effect"]) == ("async_scheduling", "already so")
