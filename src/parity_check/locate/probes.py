"""What `locate` runs on the engines: a few tokens, and probes of both engines on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from parity_check.config.engines import VllmTable
from parity_check.config.load import dump_config, parse_config
from parity_check.config.models import ROLES, Config, Role
from parity_check.engines.base import Engine
from parity_check.engines.client import WorkerEngine
from parity_check.engines.kinds import configured_engine
from parity_check.engines.probe import Probe
from parity_check.recording import requests
from parity_check.traces.engine import EngineDescription
from parity_check.traces.prompts import Prompt
from parity_check.traces.trace import Sample

PROMPTS, TOKENS = 4, 8
"""Few: an output of every module is kept for each token."""


class Probed(NamedTuple):
    """An engine as loaded, and its modules."""

    engine: EngineDescription
    probe: Probe


def why_not(role: Role, config: Config) -> str | None:
    """Why an engine of this kind cannot be probed in this role; None if it can."""
    can = configured_engine(role, config).can
    if config.model.lora is not None:
        return "model.lora is set, and an adapted layer has other modules in each engine"
    if not can.shows_modules:
        return f"the {role} is {can.noun}, whose modules parity-check cannot read"
    if role == "reference" and not can.shows_noise:
        return (
            f"the reference is {can.noun}, which cannot tell how much rounding changes its modules"
            " (make it the candidate, and a vLLM engine the reference)"
        )
    return None


def compiles(role: Role, config: Config) -> bool:
    """Whether the engine is of a kind that may run compiled graphs, which call no module."""
    return isinstance(config.engine(role), VllmTable)


def eager(config: Config) -> Config:
    """Engines without compiled graphs."""
    tree = dump_config(config)
    for role in ROLES:
        if not compiles(role, config):
            continue
        tree[role]["engine_args"] = {**tree[role]["engine_args"], "enforce_eager": True}
    return parse_config(tree, source="locate")


def few(prompts: Sequence[Prompt]) -> list[Prompt]:
    """A few prompts from all over the workload."""
    return list(prompts[:: max(1, len(prompts) // PROMPTS)][:PROMPTS])


def sample(
    config: Config, prompts: Sequence[Prompt], ids: Sequence[list[int]], engine: Engine
) -> list[Sample]:
    """A few tokens of each prompt, for both engines."""
    short = {"samples_per_prompt": 1, "max_tokens": TOKENS, "ignore_eos": True, "top_logprobs": 0}
    return requests.generate(engine, prompts, ids, config.workload.model_copy(update=short))


def probe(config: Config, samples: Sequence[Sample], noise: bool, engine: WorkerEngine) -> Probed:
    """One engine's modules on these tokens; with `noise`, each with one more rounding error."""
    sampling = config.workload.sampling()
    found = engine.probe(requests.evaluated(samples), noise=noise, sampling=sampling)
    return Probed(engine.description, found)
