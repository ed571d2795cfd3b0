"""`locate` on real engines: it names the module that computes with a wrong weight, and no other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.support import VERSIONS, make_config, make_spec
from faults import checkpoints
from parity_check.engines.client import WorkerEngine
from parity_check.recording import requests
from parity_check.traces.prompts import ASSETS, read_prompts

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.toml"


def locate(out: Path, *sets: str, code: int) -> tuple[dict[str, Any], str]:
    """The record of a run with these `--set`, and the text report."""
    command = [sys.executable, "-m", "parity_check", "locate", "-c", str(QUICKSTART), "--out", out]
    done = subprocess.run(
        [*command, *(f"--set={each}" for each in sets)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr[-3000:]
    [run] = out.iterdir()
    return json.loads((run / "locate.json").read_text()), done.stdout


def test_a_healthy_pair_differs_nowhere(tmp_path: Path) -> None:
    record, text = locate(tmp_path / "runs", code=0)
    assert record["first"] is None
    assert len(record["differences"]) == 51
    assert max(each["relative"] for each in record["differences"]) > 1e-3  # other kernels
    assert "nowhere more than noise in 51 modules" in text
    [run] = (tmp_path / "runs").iterdir()
    assert "<svg" in (run / "report.html").read_text()
    again = subprocess.run(
        [sys.executable, "-m", "parity_check", "report", str(run)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, again.stdout) == (0, text)


def test_a_wrong_norm_and_raw_logprobs_are_both_named(tmp_path: Path) -> None:
    record, text = locate(
        tmp_path / "runs",
        'candidate.engine_args={"hf_overrides" = {"rms_norm_eps" = 0.01}}',
        "candidate.settings.logprobs_mode=raw_logprobs",
        code=1,
    )
    assert record["first"]["module"] == "model.layers.0.input_layernorm"
    assert record["processing"]["reference"]["off"] < 1e-4
    assert record["processing"]["candidate"]["off"] > 0.1
    assert record["processing"]["candidate"]["off_raw"] < 1e-4
    assert "the engines part in layer 0, input_layernorm" in text


@pytest.mark.parametrize(
    ("tensor", "module"),
    [
        ("model.layers.2.self_attn.v_proj.weight", "model.layers.2.self_attn.qkv_proj"),
        ("model.layers.3.mlp.down_proj.weight", "model.layers.3.mlp.down_proj"),
    ],
)
def test_a_wrong_matrix_is_named(tmp_path: Path, tensor: str, module: str) -> None:
    """The candidate reads a checkpoint with one wrong matrix, without either engine noticing."""
    wrong = Path(shutil.copytree(ASSETS / "tiny", tmp_path / "wrong"))
    tensors = checkpoints.read_weights(ASSETS / "tiny" / checkpoints.WEIGHTS)
    values = checkpoints.widen(tensors[tensor])
    error = np.random.default_rng(0).normal(0, 0.25 * values.std(), values.shape)
    tensors[tensor] = checkpoints.narrow((values + error).astype(np.float32))
    checkpoints.write_weights(wrong / checkpoints.WEIGHTS, tensors)
    record, _ = locate(tmp_path / "runs", f'candidate.engine_args={{"model" = "{wrong}"}}', code=1)
    assert record["first"]["module"] == module


@pytest.mark.parametrize("version", VERSIONS)
def test_a_probe_changes_no_logprob(tmp_path: Path, version: str) -> None:
    """Also not after a probe with noise, which would stay in a prefix cache."""
    spec = make_spec(version, engine_args={"enforce_eager": True})
    with WorkerEngine(spec, tmp_path / "jobs", tmp_path / "log", 300, lambda *_: None) as engine:
        engine.load()
        prompts = read_prompts("bundled:prompts")[:3]
        ids = requests.tokenize(engine, prompts)
        workload = make_config(version).workload.model_copy(
            update={"samples_per_prompt": 1, "max_tokens": 6, "top_logprobs": 0}
        )
        samples = requests.generate(engine, prompts, ids, workload)
        asked, sampling = requests.evaluated(samples), workload.sampling()

        def replayed() -> list[Any]:
            rows = engine.score("replay", asked, sampling=sampling, top_logprobs=0)
            return [row.logprobs for row in rows]

        before = replayed()
        plain = engine.probe(asked, noise=False, sampling=sampling)
        noisy = engine.probe(asked, noise=True, sampling=sampling)
        again = engine.probe(asked, noise=False, sampling=sampling)
        assert replayed() == before
        assert plain.logprobs == again.logprobs
        for name, values in plain.modules.items():
            np.testing.assert_array_equal(values, again.modules[name])
        assert noisy.logprobs != plain.logprobs
        passes = sum(len(sample.completion_token_ids) for sample in samples)
        assert {len(values) for values in plain.modules.values()} == {passes}
        assert "model.layers.3.self_attn.rotary_emb" in plain.modules  # one module, shared
