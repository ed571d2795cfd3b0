"""Pairs of traces that no engine made: distributions with one fault, as a diagnosis sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis.case import Case, EngineFacts
from parity_check.diagnosis.diagnose import diagnose
from parity_check.diagnosis.evidence import evidence_of
from parity_check.diagnosis.findings import Diagnosis
from parity_check.measure.gates import Verdict
from parity_check.traces.batch import SampleBatch

Rows = NDArray[np.float64]
WORDS = 48
SAMPLING = {
    "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "repetition_penalty": 1.0,
}  # fmt: skip
SETTINGS = {
    "logprobs_mode": "processed_logprobs",
    "enable_prefix_caching": False,
    "async_scheduling": False,
    "lm_head_dtype": "float32",
}


@dataclass(frozen=True)
class Text:
    """One sample: where it is, and the logits [tokens, WORDS] that both engines would compute."""

    number: int
    prompt: NDArray[np.int32]
    tokens: NDArray[np.int32]
    logits: Rows

    @property
    def context(self) -> NDArray[np.int64]:
        """How many tokens each token is computed from."""
        return len(self.prompt) + np.arange(len(self.tokens))


Compute = Callable[[np.random.Generator, Text, Rows], Rows]
"""What an engine makes of the logits of a sample."""


@dataclass(frozen=True)
class Engine:
    """How one side computes, processes and writes.

    `noise` is the error of its logits, nats; `compute` is a fault of the logits. `sampling` is
    what its logprobs follow, where that is not what was requested; `raw`, whether they follow
    nothing. `order`: V0 truncates by top_p first, V1 by min_p. `write` edits its logprobs [tokens].
    """

    noise: float = 0.0
    compute: Compute | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    raw: bool = False
    order: str = "v1"
    write: Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A workload and two engines."""

    reference: Engine = Engine()
    candidate: Engine = Engine(noise=0.005)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    prompts: int = 24
    samples: int = 2
    length: tuple[int, int] = (30, 60)
    prompt_length: tuple[int, int] = (4, 40)
    same_prefix: int = 0
    """Tokens that every second prompt begins with."""
    doubled_bos: bool = False
    top: int = 5
    samplers: tuple[Role, ...] = ROLES
    spread: float = 2.5
    edit: Callable[[SampleBatch, SampleBatch], tuple[SampleBatch, SampleBatch]] | None = None

    def engine(self, role: Role) -> Engine:
        return self.reference if role == "reference" else self.candidate


def case_of(pair: Pair, seed: int = 0) -> Case:
    """The case that a run of this pair would give."""
    rng = np.random.default_rng(seed)
    batches = []
    for role in pair.samplers:
        texts = [_text(rng, pair, number, pair.engine(role)) for number in _numbers(pair)]
        own, other = (_batch(rng, texts, pair, pair.engine(each)) for each in (role, OTHER[role]))
        if pair.edit is not None:
            own, other = pair.edit(own, other)
        batches.append((own, other, role))
    evidence = evidence_of(batches, sum(len(own.token_ids) for own, _, _ in batches))
    return Case(
        evidence=evidence,
        engines={role: facts(pair.engine(role), role) for role in ROLES},
        sampling={**SAMPLING, **pair.sampling},
        run="runs/synthetic",
        trace="runs/synthetic/reference.parquet",
    )


def diagnosis_of(pair: Pair, seed: int = 0, verdict: Verdict = "drift") -> Diagnosis:
    return diagnose(case_of(pair, seed), verdict)


def causes(pair: Pair, seed: int = 0) -> list[str]:
    """The causes that are named, the first one first."""
    return [finding.cause for finding in diagnosis_of(pair, seed).findings]


def facts(engine: Engine, role: Role) -> EngineFacts:
    plain = EngineFacts(
        version={"reference": "0.8.5", "candidate": "0.18.1"}[role],
        family={"reference": "v0", "candidate": "v1"}[role],
        distribution="raw" if engine.raw else "processed",
        settings=SETTINGS,
        config={"dtype": "bfloat16", "block_size": 16},
        model={},
        floor=1e-9,
        floor_share=0.0,
        defects={},
    )
    return replace(plain, **engine.facts)


def _numbers(pair: Pair) -> range:
    return range(pair.prompts * pair.samples)


def _text(rng: np.random.Generator, pair: Pair, number: int, engine: Engine) -> Text:
    """A sample, drawn token by token where the distribution depends on what was drawn."""
    source = np.random.default_rng(1000 + number // pair.samples)
    prompt = source.integers(2, WORDS, source.integers(*pair.prompt_length)).astype(np.int32)
    if pair.same_prefix and (number // pair.samples) % 2:
        shared = np.random.default_rng(7).integers(2, WORDS, pair.same_prefix)
        prompt = np.concatenate([shared.astype(np.int32), prompt])
    prompt = np.concatenate([np.zeros(1 + pair.doubled_bos, np.int32), prompt])
    size = int(rng.integers(*pair.length))
    # Offsets of a few nats, as real logits have: penalties act on the logits themselves.
    text = Text(
        number, prompt, np.zeros(size, np.int32), 6 + pair.spread * rng.normal(size=(size, WORDS))
    )
    sampling = {**SAMPLING, **pair.sampling}
    if not engine.raw:
        sampling |= engine.sampling
    computed = _computed(rng, text, engine)
    chance = rng.gumbel(size=(size, WORDS))
    if not _penalised(sampling):
        rows = processed(computed, prompt, [], sampling, engine.order)
        return replace(text, tokens=(rows + chance).argmax(axis=1).astype(np.int32))
    tokens = text.tokens.copy()
    for place in range(size):
        row = processed(
            computed[place : place + 1], prompt, [tokens[:place]], sampling, engine.order
        )
        tokens[place] = (row[0] + chance[place]).argmax()
    return replace(text, tokens=tokens)


def _penalised(sampling: Mapping[str, Any]) -> bool:
    penalties = ("presence_penalty", "frequency_penalty", "repetition_penalty")
    return any(sampling[name] != SAMPLING[name] for name in penalties)


def _computed(rng: np.random.Generator, text: Text, engine: Engine) -> Rows:
    logits = text.logits + engine.noise * rng.normal(size=text.logits.shape)
    return logits if engine.compute is None else engine.compute(rng, text, logits)


def processed(
    logits: Rows,
    prompt: NDArray[np.int32],
    before: list[NDArray[np.int32]],
    sampling: Mapping[str, Any],
    order: str,
) -> Rows:
    """Logprobs after penalties, temperature and truncation; `before` are the drawn tokens."""
    rows = logits.copy()
    repetition = sampling["repetition_penalty"]
    if _penalised(sampling):
        for row, drawn in zip(rows, before, strict=True):
            seen = np.union1d(prompt, drawn)
            row[seen] = np.where(row[seen] > 0, row[seen] / repetition, row[seen] * repetition)
            counts = np.bincount(drawn, minlength=WORDS)
            row -= sampling["presence_penalty"] * (counts > 0)
            row -= sampling["frequency_penalty"] * counts
    rows = log_softmax(rows / (sampling["temperature"] or 1.0))
    steps = {"v0": (_top_p, _min_p), "v1": (_min_p, _top_p)}[order]
    rows = _top_k(rows, sampling)
    for step in steps:
        rows = step(rows, sampling)
    return rows


def log_softmax(logits: Rows) -> Rows:
    peak = logits.max(axis=1, keepdims=True)
    rows: Rows = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
    return rows


def _top_k(rows: Rows, sampling: Mapping[str, Any]) -> Rows:
    if sampling["top_k"] <= 0:
        return rows
    least = -np.sort(-rows, axis=1)[:, sampling["top_k"] - 1 : sampling["top_k"]]
    return log_softmax(np.where(rows >= least, rows, -np.inf))


def _top_p(rows: Rows, sampling: Mapping[str, Any]) -> Rows:
    if sampling["top_p"] >= 1.0:
        return rows
    ranked = -np.sort(-rows, axis=1)
    mass = np.cumsum(np.exp(ranked), axis=1) - np.exp(ranked)
    least = np.where(mass < sampling["top_p"], ranked, np.inf).min(axis=1, keepdims=True)
    return log_softmax(np.where(rows >= least, rows, -np.inf))


def _min_p(rows: Rows, sampling: Mapping[str, Any]) -> Rows:
    if sampling["min_p"] <= 0.0:
        return rows
    least = rows.max(axis=1, keepdims=True) + np.log(sampling["min_p"])
    return log_softmax(np.where(rows >= least, rows, -np.inf))


def _batch(rng: np.random.Generator, texts: list[Text], pair: Pair, engine: Engine) -> SampleBatch:
    """What an engine's trace holds of these samples."""
    sampling = {**SAMPLING, **pair.sampling, **engine.sampling}
    rows = []
    for text in texts:
        computed = _computed(rng, text, engine)
        if engine.raw:
            rows.append(log_softmax(computed))
            continue
        before = [text.tokens[:place] for place in range(len(text.tokens))]
        rows.append(processed(computed, text.prompt, before, sampling, engine.order))
    values = np.concatenate(rows).astype(np.float32)
    tokens = np.concatenate([text.tokens for text in texts])
    logprobs = values[np.arange(len(tokens)), tokens]
    if engine.write is not None:
        logprobs = engine.write(logprobs, rng)
    order = np.argsort(-values, axis=1, kind="stable")[:, : pair.top]
    return SampleBatch(
        sample_ids=[
            f"p{text.number // pair.samples}/{text.number % pair.samples}" for text in texts
        ],
        prompt_ids=[f"p{text.number // pair.samples}" for text in texts],
        prompt_groups=["all"] * len(texts),
        prompt_starts=np.cumsum([0, *(len(text.prompt) for text in texts)]),
        prompt_token_ids=np.concatenate([text.prompt for text in texts]),
        starts=np.cumsum([0, *(len(text.tokens) for text in texts)]),
        token_ids=tokens,
        logprobs=logprobs,
        nulls=0,
        top_token_ids=order.astype(np.int32) if pair.top else None,
        top_logprobs=np.take_along_axis(values, order, axis=1) if pair.top else None,
    )
