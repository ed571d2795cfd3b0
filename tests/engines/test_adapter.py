"""A LoRA adapter: every engine loads it, and computes the same with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from engines.support import VERSIONS, logprobs_of, make_environment
from helpers.checkpoints import lora_adapter
from parity_check.config.load import parse_config
from parity_check.config.models import Workload
from parity_check.engines.client import WorkerEngine, WorkerSpec
from parity_check.engines.kinds import configured_engine
from parity_check.errors import EngineError
from parity_check.recording import requests
from parity_check.traces.checkpoint import locate_model
from parity_check.traces.prompts import read_prompts
from parity_check.traces.trace import Sample


def spec(version: str, kind: str, lora: Path | None) -> WorkerSpec:
    engine = {"kind": kind, "requirement": VERSIONS[version][0]}
    tree: dict[str, Any] = {"reference": engine, "candidate": engine}
    config = parse_config({**tree, "model": {"lora": None if lora is None else str(lora)}}, "test")
    made = configured_engine("candidate", config).spec(
        locate_model(config.model), make_environment(version)
    )
    assert isinstance(made, WorkerSpec)
    return made


class Adapted(NamedTuple):
    """Samples of V0 with an adapter, and a directory for other engines."""

    adapter: Path
    samples: list[Sample]
    directory: Path

    def scored(self, version: str, kind: str, adapter: Path | None) -> list[Sample]:
        with worker(spec(version, kind, adapter), self.directory) as engine:
            shown = engine.load().config["adapter"]
            assert (shown is None) == (adapter is None)
            if adapter is not None:
                assert shown.startswith(f"{adapter.name} (rank 4, scale 2, ")
            operation: requests.LogprobOperation = "replay" if kind == "vllm" else "rescore"
            sampling = Workload().sampling()
            return requests.score(engine, operation, self.samples, sampling, 5)

    def rms(self, scored: list[Sample]) -> float:
        """Of Δ, nats."""
        return float(np.sqrt(np.mean((logprobs_of(scored) - logprobs_of(self.samples)) ** 2)))


def worker(spec: WorkerSpec, directory: Path) -> WorkerEngine:
    return WorkerEngine(spec, directory / "jobs", directory / "log", 300, lambda *_: None)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    directory = tmp_path_factory.mktemp("adapted")
    adapter = lora_adapter(directory / "policy")
    with worker(spec("0.8.5", "vllm", adapter), directory) as engine:
        engine.load()
        prompts = read_prompts("bundled:prompts")[:96:8]
        workload = Workload(samples_per_prompt=1, max_tokens=24)
        ids = requests.tokenize(engine, prompts)
        samples = requests.generate(engine, prompts, ids, workload)
        again = requests.score(engine, "replay", samples, workload.sampling(), 5)
    assert np.abs(logprobs_of(samples) - logprobs_of(again)).max() < 0.05
    return Adapted(adapter, samples, directory)


@pytest.mark.parametrize(
    ("version", "kind"), [("0.18.1", "vllm"), ("0.32.0", "vllm"), ("0.18.1", "transformers")]
)
def test_engines_agree_with_an_adapter(adapted: Adapted, version: str, kind: str) -> None:
    assert adapted.rms(adapted.scored(version, kind, adapted.adapter)) < 0.02


def test_without_the_adapter_it_is_another_model(adapted: Adapted) -> None:
    assert adapted.rms(adapted.scored("0.18.1", "transformers", None)) > 0.2


def test_the_scale_of_rslora_is_computed_by_all(adapted: Adapted, tmp_path: Path) -> None:
    """alpha / sqrt(rank) instead of alpha / rank: twice the scale here, so it is not the same."""
    other = lora_adapter(tmp_path / "policy", use_rslora=True)
    with worker(spec("0.18.1", "vllm", other), tmp_path) as engine:
        assert "scale 4" in str(engine.load().config["adapter"])
        sampling = Workload().sampling()
        ours = requests.score(engine, "replay", adapted.samples, sampling, 5)
    with worker(spec("0.18.1", "transformers", other), tmp_path) as engine:
        engine.load()
        theirs = requests.score(engine, "rescore", adapted.samples, sampling, 5)
    assert adapted.rms(ours) > 0.2
    assert np.sqrt(np.mean((logprobs_of(ours) - logprobs_of(theirs)) ** 2)) < 0.02


def test_an_adapter_without_effect_is_refused(tmp_path: Path) -> None:
    """So small that no logprob moves: vLLM would load it, and a run would be of the base model."""
    tiny = lora_adapter(tmp_path / "policy", size=1e-30)
    with (
        worker(spec("0.18.1", "vllm", tiny), tmp_path) as engine,
        pytest.raises(EngineError, match=r"the LoRA adapter policy \(.*changes no logprob"),
    ):
        engine.load()
