"""Facts read from the modules: the same in every version, and what an override really does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engines.support import VERSIONS, make_config, make_environment, make_spec
from faults import architectures
from parity_check.engines.client import WorkerEngine
from parity_check.engines.kinds import configured_engine
from parity_check.traces.engine import EngineDescription
from parity_check.traces.prompts import ASSETS

PLAIN = {
    "rope_type": "RotaryEmbedding",
    "norm_eps": "1e-05",
    "sliding_window": "none",
    "attention_soft_cap": "none",
    "attention_scale": "0.125",
    "logits_soft_cap": "none",
    "logits_scale": "1",
    "head": "its own weight",
    "quantised": "none",
    "vocabulary": "4096",
}


def described(
    tmp_path: Path,
    version: str,
    model: Path | None = None,
    env: dict[str, str] | None = None,
    **args: Any,
) -> Any:
    tables: dict[str, Any] = {"engine_args": args, "env": env or {}}
    spec = make_spec(version, **tables)
    if model is not None:
        config = make_config(version, **tables)
        spec = configured_engine("reference", config).spec(str(model), make_environment(version))
    with WorkerEngine(spec, tmp_path / "jobs", tmp_path / "log", 300, lambda *_: None) as engine:
        engine.load()
        found: EngineDescription = engine.description
        return found.model


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bundled_model_is_built_the_same_in_every_version(tmp_path: Path, version: str) -> None:
    found = described(tmp_path, version)
    assert {name: found["modules"].get(name) for name in PLAIN} == PLAIN
    assert found["modules"]["rope_frequencies"] == "1 0.01 0.000133"
    assert found["without_effect"] == {}
    assert found["warnings"] == {}
    assert found["tokenizer_size"] == found["vocab_size"] == 4096


def test_an_ignored_rope_scaling_is_seen(tmp_path: Path) -> None:
    """0.18.1 applies dicts of hf_overrides after it has read the RoPE parameters."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    found = described(tmp_path, "0.18.1", hf_overrides={"rope_scaling": yarn})
    assert found["modules"]["rope_type"] == "RotaryEmbedding"
    assert found["without_effect"] == {
        "hf_overrides.rope_scaling": "the yarn scaling was requested, the model was built without "
        "scaling"
    }


def test_an_applied_override_is_in_the_facts(tmp_path: Path) -> None:
    found = described(tmp_path, "0.18.1", hf_overrides={"rms_norm_eps": 0.01})
    assert found["modules"]["norm_eps"] == "0.01"
    assert found["without_effect"] == {}


@pytest.mark.parametrize(("version", "cap"), [("0.8.5", "none"), ("0.18.1", "50")])
def test_v0_on_cpu_leaves_out_the_soft_cap(tmp_path: Path, version: str, cap: str) -> None:
    model = architectures.make("gemma2", ASSETS / "tiny", tmp_path / "model", seed=0)
    written = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**written, "attn_logit_softcapping": 50.0}))
    found = described(tmp_path, version, model)
    assert found["modules"]["attention_soft_cap"] == cap
    left_out = cap == "none"
    assert list(found["warnings"]) == (["soft-cap"] if left_out else [])
    assert list(found["without_effect"]) == (["attn_logit_softcapping"] if left_out else [])
    assert found["modules"]["head"] == "the embedding"
    assert "layers" in found["modules"]["sliding_window"]


@pytest.mark.parametrize("version", ["0.8.5", "0.18.1"])
def test_a_discarded_head_and_a_variable_that_nothing_reads(tmp_path: Path, version: str) -> None:
    model = Path(shutil.copytree(ASSETS / "tiny", tmp_path / "model"))
    written = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**written, "tie_word_embeddings": True}))
    found = described(tmp_path, version, model, env={"VLLM_ATENTION_BACKEND": "TORCH_SDPA"})
    assert found["modules"]["head"] == "the embedding"
    assert sorted(found["without_effect"]) == ["VLLM_ATENTION_BACKEND", "lm_head.weight"]


@pytest.mark.parametrize(
    "override",
    [{"rope_theta": 2e4}, {"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}}],
    ids=["flat", "nested"],
)
def test_an_overridden_rope_base_is_in_force(tmp_path: Path, override: dict[str, Any]) -> None:
    found = described(tmp_path, "0.18.1", hf_overrides=override)
    assert found["rope_theta"] == 2e4
