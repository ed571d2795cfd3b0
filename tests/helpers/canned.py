"""Runs that no engine made: synthetic traces with fixed ids, times and host, for golden files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from helpers.described import described
from helpers.support import SMALL_RUN
from parity_check.config.models import OTHER, ROLES, Role
from parity_check.traces import manifest
from parity_check.traces.trace import Sample, TraceHeader, write_trace

Rows = NDArray[np.float64]
Drawn = tuple[Sample, Rows]
Change = Callable[[list[float | None]], list[float | None]]

WORDS = ("the", " sum", " of", " 3", " and", " 4", " is", " 7", ".", "\n", " `x`", " [/b]", " a|b")
SAMPLING = {
    "temperature": 0.8, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "repetition_penalty": 1.0, "max_tokens": 64, "ignore_eos": False,
}  # fmt: skip
RUN_ID = "20261121-080000-c0de"
TOP = 5
PROCESSED = {"logprobs_mode": "processed_logprobs", "enable_prefix_caching": False}
VERSIONS = {"reference": ("vllm 0.8.5", "v0"), "candidate": ("vllm 0.18.1", "v1")}


@dataclass(frozen=True)
class Canned:
    """One canned run.

    `noise` is the error of the other engine's logits, nats; `own_noise` is what an engine adds
    when it repeats itself (None for no repeats). `raw`: the candidate returns raw logprobs.
    `spoil` changes the candidate's logprobs of the first sample.
    """

    prompts: int = 24
    samples: int = 2
    length: tuple[int, int] = (20, 40)
    noise: float = 0.0
    own_noise: float | None = 0.0
    samplers: tuple[Role, ...] = ROLES
    raw: bool = False
    spoil: Change | None = None
    words: tuple[str, ...] = WORDS
    prompt_id: str = "p{:02d}"
    config: dict[str, Any] = field(default_factory=dict)


def spoil(logprobs: list[float | None]) -> list[float | None]:
    """Everything that may be wrong with a logprob."""
    return [None, None, float("nan"), -9999.0, 1.0, *logprobs[5:]]


HOSTILE = Canned(
    length=(60, 90),
    noise=0.4,
    words=(
        "<script>document.title='owned'</script>", "</script>", "]]>", "<!--", "{{ 7 * 7 }}",
        "<img src=x onerror=\"document.title='owned'\">", "\"quotes' &amp;", "<|eos|>", "\xb7",
        "\u202eright to left\u202c", "\u05e9\u05dc\u05d5\u05dd", "zero\u200bwidth\ufeff", "\u2028",
        "\U0001f469\u200d\U0001f680", "\ud800", "\udfff lone", "\ufffd", "\x00\x07\x1b[31m", "\xa0",
        "\n", "\n\n", "\t", " ", "  ", "\u0301", "a" + 5 * "\u0301", 10_240 * "x",
    ),
    prompt_id="p{:02d}</summary><script>document.title='owned'</script>\u202e",
)  # fmt: skip
"""Tokens and ids that want out of the page."""

CANNED = {
    "parity": Canned(
        noise=2e-4,
        own_noise=1e-5,
        config={"gates": SMALL_RUN},
    ),
    "drift": Canned(length=(90, 170), noise=0.02, raw=True, config={"objective": {"kind": "gspo"}}),
    "inconclusive": Canned(prompts=12, noise=0.04, own_noise=2e-3),
    "noisy-engine": Canned(noise=0.02, own_noise=0.1),
    "invalid-logprobs": Canned(
        noise=2e-4,
        spoil=spoil,
        config={"gates": SMALL_RUN},
    ),
    "one-direction": Canned(
        prompts=96,
        noise=2e-3,
        own_noise=None,
        samplers=("candidate",),
        config={"objective": {"kind": "mis"}, "gates": {"profile": "relaxed"}},
    ),
    "unnamed": Canned(prompts=96, noise=0.068),
    "tiny": Canned(prompts=3, samples=1, noise=0.01, own_noise=None),
    "identical": Canned(own_noise=0.0, config={"gates": {"profile": "exact"}}),
}


def write_run(directory: Path, canned: Canned) -> Path:
    """A finished run's directory: traces and config.toml."""
    directory.mkdir(parents=True, exist_ok=True)
    engines = {role: {"kind": "fake", "settings": settings(canned, role)} for role in ROLES}
    repeats = 0 if canned.own_noise is None else 1
    both = len(canned.samplers) == 2
    workload = {"sampled_by": "both" if both else canned.samplers[0], "repeats": repeats}
    tree = {"workload": workload, **engines, **canned.config}
    (directory / "config.toml").write_text(tomli_w.dumps(tree))
    rng = np.random.default_rng(20261121)
    for role in canned.samplers:
        other = OTHER[role]
        drawn = [
            sample(rng, prompt, index, canned)
            for prompt in range(canned.prompts)
            for index in range(canned.samples)
        ]

        def traced(engine: Role, noise: float, drawn: list[Drawn] = drawn) -> list[Sample]:
            return [scored(one, returned(rng, rows, canned, engine, noise)) for one, rows in drawn]

        sampled = traced(role, 0.0)
        if role == "candidate" and canned.spoil is not None:
            sampled[0] = replace(sampled[0], logprobs=canned.spoil(list(sampled[0].logprobs)))
        header = write(directory / f"{role}.parquet", sampled, canned, role, role)
        digest = header.token_digest
        name = f"{role}-replayed-by-{other}.parquet"
        replayed = traced(other, canned.noise)
        write(directory / name, replayed, canned, role, other, digest)
        if canned.own_noise is not None:
            repeated = traced(role, canned.own_noise)
            write(directory / f"{role}-repeat-1.parquet", repeated, canned, role, role, digest)
    return finished(directory, ROLES, canned)


def finished(directory: Path, names: Sequence[str], canned: Canned) -> Path:
    """The directory with the manifest of a run that is done."""
    repeats = dict.fromkeys(names, 0 if canned.own_noise is None else 1)
    if canned.samplers != ROLES:
        repeats = {name: repeats[name] for name in canned.samplers}
    manifest.begin(directory, RUN_ID, manifest.parts_of(names, canned.samplers, repeats))
    manifest.finish(directory)
    return directory


def sample(
    rng: np.random.Generator, prompt: int, index: int, canned: Canned
) -> tuple[Sample, Rows]:
    """A sample without logprobs, and the distribution [tokens, words] that it was drawn from."""
    words, prompt_id = canned.words, canned.prompt_id.format(prompt)
    size = int(rng.integers(canned.length[0], canned.length[1] + 1))
    rows = normalised(rng.normal(0.0, 2.0, (size, len(words))))
    ids = [int(rng.choice(len(words), p=np.exp(row))) for row in rows]
    drawn = Sample(
        sample_id=f"{prompt_id}/{index}",
        prompt_id=prompt_id,
        sample_index=index,
        prompt_group=("arithmetic", "story")[prompt % 2],
        prompt_token_ids=[*divmod(prompt, len(words)), 0, 1, 2],
        completion_token_ids=ids,
        logprobs=[],
        top_token_ids=None,
        top_logprobs=None,
        finish_reason="length",
        seed=None,
        policy_version=None,
        text="".join(words[token] for token in ids).encode(errors="replace").decode(),
    )
    return drawn, rows


def normalised(logits: Rows) -> Rows:
    rows: Rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return rows


def scored(drawn: Sample, rows: Rows) -> Sample:
    """The sample with the logprobs that an engine returns, float32."""
    values = np.minimum(rows, 0.0).astype(np.float32).astype(float)
    order = np.argsort(-values, axis=1)[:, :TOP]
    return replace(
        drawn,
        logprobs=[
            float(row[token]) for row, token in zip(values, drawn.completion_token_ids, strict=True)
        ],
        top_token_ids=order.tolist(),
        top_logprobs=np.take_along_axis(values, order, axis=1).tolist(),
    )


def returned(
    rng: np.random.Generator, rows: Rows, canned: Canned, role: Role, noise: float
) -> Rows:
    """What an engine makes of the distribution: numeric noise, and its logprobs mode."""
    if noise:
        rows = normalised(rows + noise * rng.normal(0.0, 1.0, rows.shape))
    raw = settings(canned, role)["logprobs_mode"] == "raw_logprobs"
    return normalised(SAMPLING["temperature"] * rows) if raw else rows


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
    engine = described(
        wanted,
        label=label,
        version=label.partition(" ")[2],
        family=family,
        device="NVIDIA H200",
        packages={"torch": "2.6.0" if family == "v0" else "2.10.0", "python": "3.12.7"},
        config={"block_size": 16, "max_num_batched_tokens": 2048 if family == "v0" else 8192},
    )
    raw = wanted["logprobs_mode"] == "raw_logprobs"
    header = TraceHeader(
        run_id=RUN_ID,
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
    return write_trace(path, samples, header, dict(enumerate(canned.words)))
