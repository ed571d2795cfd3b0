"""Runs that no engine made: synthetic traces with fixed ids, times and host, for golden files."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from parity_check.config import OTHER, ROLES, Role
from parity_check.trace import Sample, TraceHeader, write_trace

Change = Callable[[list[float | None]], list[float | None]]

WORDS = ("the", " sum", " of", " 3", " and", " 4", " is", " 7", ".", "\n", " `x`", " [/b]", " a|b")
SAMPLING = {
    "temperature": 0.8, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "repetition_penalty": 1.0, "max_tokens": 64, "ignore_eos": False,
}  # fmt: skip
PROCESSED = {"logprobs_mode": "processed_logprobs", "enable_prefix_caching": False}
VERSIONS = {"reference": ("vllm 0.8.5", "v0"), "candidate": ("vllm 0.18.1", "v1")}


@dataclass(frozen=True)
class Canned:
    """One canned run.

    Δ is normal with `bias` and `noise`; `own_noise` is what an engine adds when it repeats itself
    (None for no repeats). `spoil` changes the candidate's logprobs of the first sample.
    """

    prompts: int = 24
    samples: int = 2
    length: tuple[int, int] = (20, 40)
    bias: float = 0.0
    noise: float = 0.0
    own_noise: float | None = 0.0
    samplers: tuple[Role, ...] = ROLES
    raw: bool = False
    spoil: Change | None = None
    config: dict[str, Any] = field(default_factory=dict)


def spoil(logprobs: list[float | None]) -> list[float | None]:
    """Everything that may be wrong with a logprob."""
    return [None, None, float("nan"), -9999.0, 1.0, *logprobs[5:]]


CANNED = {
    "parity": Canned(
        noise=2e-4,
        own_noise=1e-5,
        config={"gates": {"tail_fraction": 1e-2, "clip_fraction": 1e-2}},
    ),
    "drift": Canned(
        length=(90, 170), bias=-0.02, noise=0.15, raw=True, config={"objective": {"kind": "gspo"}}
    ),
    "inconclusive": Canned(prompts=12, noise=0.04, own_noise=2e-3),
    "noisy-engine": Canned(noise=0.02, own_noise=0.1),
    "hygiene": Canned(
        noise=2e-4,
        spoil=spoil,
        config={"gates": {"tail_fraction": 1e-2, "clip_fraction": 1e-2}},
    ),
    "one-direction": Canned(
        prompts=96,
        noise=2e-3,
        own_noise=None,
        samplers=("candidate",),
        config={"objective": {"kind": "mis"}, "gates": {"profile": "relaxed"}},
    ),
    "tiny": Canned(prompts=3, samples=1, noise=0.01, own_noise=None),
    "identical": Canned(own_noise=0.0, config={"gates": {"profile": "exact"}}),
}


def write_run(directory: Path, canned: Canned) -> Path:
    """A finished run's directory: traces and config.toml."""
    directory.mkdir(parents=True, exist_ok=True)
    engines = {role: {"kind": "fake", "settings": settings(canned, role)} for role in ROLES}
    (directory / "config.toml").write_text(tomli_w.dumps({**engines, **canned.config}))
    rng = random.Random(20261121)
    for role in canned.samplers:
        other = OTHER[role]
        sampled = [
            sample(rng, prompt, index, canned.length)
            for prompt in range(canned.prompts)
            for index in range(canned.samples)
        ]
        if role == "candidate" and canned.spoil is not None:
            sampled[0] = replace(sampled[0], logprobs=canned.spoil(list(sampled[0].logprobs)))
        sign = 1.0 if role == "reference" else -1.0
        replayed = [disturb(rng, each, sign * canned.bias, canned.noise) for each in sampled]
        header = write(directory / f"{role}.parquet", sampled, canned, role, role)
        digest = header.token_digest
        name = f"{role}-replayed-by-{other}.parquet"
        write(directory / name, replayed, canned, role, other, digest)
        if canned.own_noise is not None:
            repeated = [disturb(rng, each, 0.0, canned.own_noise) for each in sampled]
            write(directory / f"{role}-repeat-1.parquet", repeated, canned, role, role, digest)
    return directory


def sample(rng: random.Random, prompt: int, index: int, length: tuple[int, int]) -> Sample:
    size = rng.randint(*length)
    ids = [rng.randrange(len(WORDS)) for _ in range(size)]
    logprobs = [float(np.float32(-rng.expovariate(1.0))) for _ in range(size)]
    others = [sorted({(token + step) % len(WORDS) for step in (1, 2, 3)}) for token in ids]
    return Sample(
        sample_id=f"p{prompt:02d}/{index}",
        prompt_id=f"p{prompt:02d}",
        sample_index=index,
        prompt_group=("arithmetic", "story")[prompt % 2],
        prompt_token_ids=[0, 1, 2],
        completion_token_ids=ids,
        logprobs=logprobs,
        top_token_ids=[[token, *rest[:1]] for token, rest in zip(ids, others, strict=True)],
        top_logprobs=[[x, float(np.float32(x - 1.0))] for x in logprobs],
        finish_reason="length",
        seed=None,
        policy_version=None,
        text="".join(WORDS[token] for token in ids),
    )


def disturb(rng: random.Random, original: Sample, bias: float, noise: float) -> Sample:
    """The same tokens with other logprobs."""
    moved = [
        None if x is None else float(np.float32(min(0.0, x + bias + noise * rng.gauss(0.0, 1.0))))
        for x in original.logprobs
    ]
    # The replaying engine is in order where the sampling one was not.
    kept = [-0.5 if x is None or not -100 < x <= 0 else x for x in moved]
    return replace(original, logprobs=kept if noise else original.logprobs)


def settings(canned: Canned, role: str) -> dict[str, Any]:
    raw = {"logprobs_mode": "raw_logprobs"} if canned.raw and role == "candidate" else {}
    return {**PROCESSED, **raw}


def write(
    path: Path,
    samples: list[Sample],
    canned: Canned,
    sampled_by: str,
    evaluated_by: str,
    replayed_from: str | None = None,
) -> TraceHeader:
    label, family = VERSIONS[evaluated_by]
    wanted = settings(canned, evaluated_by)
    engine = {
        "label": label,
        "version": label.partition(" ")[2],
        "family": family,
        "device": "NVIDIA H200",
        "packages": {"torch": "2.6.0" if family == "v0" else "2.10.0", "python": "3.12.7"},
        "settings": {
            name: {"requested": value, "in_force": value, "proof": "canned"}
            for name, value in wanted.items()
        },
        "config": {"block_size": 16, "max_num_batched_tokens": 2048 if family == "v0" else 8192},
        "environment": {},
        "model": {},
    }
    raw = wanted["logprobs_mode"] == "raw_logprobs"
    header = TraceHeader(
        run_id="20261121-080000-c0de",
        created_utc="2026-11-21T08:00:00+00:00",
        command="parity-check compare -c parity.toml",
        sampled_by=sampled_by,
        evaluated_by=evaluated_by,
        engine=engine,
        model={"name": "canned-1b", "config_sha256": "0" * 64},
        sampling=SAMPLING,
        logprob_path="decode",
        logprob_distribution="raw" if raw else "processed",
        host={"parity_check": "0.1.0", "system": "Linux", "processor": "canned", "cpus": 2},
        config={},
        replayed_from=replayed_from,
    )
    return write_trace(path, samples, header, dict(enumerate(WORDS)))
