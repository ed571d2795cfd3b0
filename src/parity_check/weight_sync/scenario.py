"""The weight-update scenario: its requests, and what each engine runs.

An engine goes through the updates. Cold engines, started with each version of the weights, then
replay the same tokens. The one with the first version also goes through the updates itself, with
forced tokens, the built-in loader and no cleared cache: its logprobs are those of the new weights
over the kept KV.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity_check import words
from parity_check.config.models import Config, ModelConfig, Role, WeightSync
from parity_check.engines.client import WorkerEngine
from parity_check.engines.pauses import Pauses
from parity_check.engines.replies import Flying, Logprob, Updated, WeightsInForce
from parity_check.errors import ConfigError, InputError
from parity_check.traces.checkpoint import locate_model
from parity_check.traces.engine import EngineDescription
from parity_check.traces.prompts import Prompt
from parity_check.weight_sync.observed import Mode, Phase

SHARED = 16
"""Prompts that share fewer leading tokens than this with the others are taken first."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A request of the plan."""

    sample_id: str
    prompt_id: str
    phase: Phase
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Recording:
    """One engine's scenario as recorded: a row per request, and what its updates did."""

    rows: list[Flying]
    result: Updated
    engine: EngineDescription


@dataclass(frozen=True, slots=True)
class Cold:
    """The same tokens replayed by an engine that was started with one version of the weights."""

    logprobs: list[list[Logprob]]
    weights: WeightsInForce
    kept: list[Flying]


# --- planning -----------------------------------------------------------------------------------


def plan_requests(
    prompts: Sequence[Prompt], token_ids: Sequence[list[int]], concurrency: int
) -> list[Planned]:
    """The longest prompts in flight, with few shared prefixes; they are sent again after the
    updates, with new prompts that share as few leading tokens with them as possible."""
    chosen = _spread(token_ids, concurrency, [])
    fresh = _spread(token_ids, concurrency, chosen)
    if len(chosen) < concurrency or not fresh:
        raise InputError(
            f"weight-sync needs more than {words.count(concurrency, 'prompt')}, got {len(prompts)}",
            hint="lower weight_sync.concurrency, or add prompts",
        )
    phases: tuple[tuple[Phase, list[int]], ...] = (
        ("in_flight", chosen),
        ("reissued", chosen),
        ("fresh", fresh),
    )
    return [
        Planned(f"{prompts[p].prompt_id}/{phase}", prompts[p].prompt_id, phase, token_ids[p])
        for phase, places in phases
        for p in places
    ]


def _spread(token_ids: Sequence[list[int]], count: int, taken: Sequence[int]) -> list[int]:
    """The longest prompts that are not taken; those that share a prefix come last."""
    longest = sorted(range(len(token_ids)), key=lambda place: -len(token_ids[place]))
    found: list[int] = []
    for least in (SHARED, sys.maxsize):
        for place in longest:
            others = [*taken, *found]
            if len(found) == count:
                break
            if place not in others and _shared(place, others, token_ids) < least:
                found.append(place)
    return found


def _shared(place: int, others: Sequence[int], token_ids: Sequence[list[int]]) -> int:
    """The longest prefix that a prompt shares with any of the others, in tokens."""
    return max((_common(token_ids[place], token_ids[other]) for other in others), default=0)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def locate_checkpoint(path: str) -> str:
    """The directory of a checkpoint that can be loaded into a running engine."""
    directory = Path(locate_model(ModelConfig(path=path)))
    if not any(directory.glob("*.safetensors")):
        raise InputError(f"weight_sync.weights: no *.safetensors in {directory}")
    return str(directory.absolute())


def declared_ways(
    pauses: Mapping[Role, Pauses], settings: WeightSync
) -> dict[Role, tuple[Mode, bool]]:
    """(mode, clear_cache) of each engine. Raises ConfigError for an unsupported mode.

    The mode is V1's. Next to a V1 engine, V0 updates between two steps and keeps everything.
    """
    ways: dict[Role, tuple[Mode, bool]] = {}
    families = {each.family for each in pauses.values()}
    for role, each in pauses.items():
        mode, clear_cache = settings.mode, settings.clear_cache
        if each.family == "v0" and "v1" in families:
            mode, clear_cache = "keep", False
        if reason := each.refusal(mode, clear_cache):
            raise ConfigError(f"weight_sync: {reason}")
        ways[role] = (mode, clear_cache)
    return ways


# --- on the engines -----------------------------------------------------------------------------


def record_updates(
    plan: Sequence[Planned], config: Config, checkpoints: Sequence[str], engine: WorkerEngine
) -> Recording:
    """Run the scenario on one engine."""
    settings = config.weight_sync
    assert settings is not None
    rows, result = engine.weight_sync(
        [
            {
                "sample_id": request.sample_id,
                "prompt_token_ids": request.token_ids,
                "in_flight": request.phase == "in_flight",
            }
            for request in plan
        ],
        **_parameters(config, checkpoints),
        clear_cache=settings.clear_cache,
        mode=settings.mode,
        update=settings.update,
        python_path=settings.python_path,
    )
    return Recording(rows, result, engine.description)


def replay(
    plan: Sequence[Planned],
    config: Config,
    keep: Sequence[str],
    recording: Recording,
    engine: WorkerEngine,
) -> Cold:
    """Replay the tokens on a cold engine, then run the updates `keep` on it, if any."""
    weights = engine.weights()
    requests = [
        {
            "sample_id": request.sample_id,
            "prompt_token_ids": request.token_ids,
            "completion_token_ids": row.token_ids,
            "in_flight": True,
        }
        for request, row in zip(plan, recording.rows, strict=True)
    ]
    rows = engine.score("replay", requests, sampling=config.workload.sampling(), top_logprobs=0)
    kept: list[Flying] = []
    if keep:
        in_flight = [
            request
            for request, planned in zip(requests, plan, strict=True)
            if planned.phase == "in_flight"
        ]
        kept, _ = engine.weight_sync(
            in_flight,
            **_parameters(config, keep),
            clear_cache=False,
            mode="keep",
            update=None,
            python_path=None,
        )
    return Cold([row.logprobs for row in rows], weights, kept)


def _parameters(config: Config, checkpoints: Sequence[str]) -> dict[str, Any]:
    assert config.weight_sync is not None
    return {
        "checkpoints": list(checkpoints),
        "update_after_tokens": config.weight_sync.update_after_tokens,
        "max_tokens": config.workload.max_tokens,
        "sampling": config.workload.sampling(),
    }
