"""How often rules name a cause where there is none: pairs whose Δ is noise at the floor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.synthetic import SETTINGS, Engine, Pair, Rows, Text, case_of, causes
from parity_check.diagnosis.rules import RULES

DRAWS = 1000
ALLOWED = 0.01


def clean_pair(rng: np.random.Generator) -> Pair:
    """Engines that differ by numeric noise alone, as different as clean engines get."""
    noise = 10.0 ** rng.uniform(-5.0, -1.7)
    build = {"version": "0.18.1", "family": "v1"} if rng.random() < 0.3 else {}
    # Equal builds differ by no more than each from itself; others may repeat themselves exactly.
    floor = noise * rng.uniform(0.5, 1.0) if build or rng.random() < 0.5 else 1e-9
    caching = {**SETTINGS, "enable_prefix_caching": bool(rng.random() < 0.3)}
    engine = Engine(
        noise=noise / np.sqrt(2.0),
        facts={**build, "floor": floor, "floor_share": 1.0, "settings": caching},
    )
    sampling = [{}, {}, {"top_p": 0.9}, {"top_k": 8}, {"min_p": 0.05}, {"repetition_penalty": 1.1}]
    return Pair(
        reference=engine,
        candidate=engine,
        sampling={
            "temperature": float(rng.choice([0.3, 0.6, 0.7, 1.0, 1.3])),
            **sampling[rng.integers(len(sampling))],
        },
        prompts=int(rng.integers(8, 20)),
        samples=int(rng.integers(1, 3)),
        length=(10, int(rng.integers(20, 60))),
        same_prefix=int(rng.choice([0, 24])),
        top=int(rng.choice([0, 1, 5, 5, 10])),
        spread=float(rng.uniform(1.5, 4.0)),
    )


@pytest.mark.slow
def test_noise_at_the_floor_has_no_cause() -> None:
    rng = np.random.default_rng(20261121)
    alarms: Counter[str] = Counter()
    for draw in range(DRAWS):
        case = case_of(clean_pair(rng), draw)
        # Each rule by itself: none may hide behind another that looks first.
        alarms.update(rule.cause for rule in RULES if rule.look(case) is not None)
    print(dict(alarms))
    assert {cause: n for cause, n in alarms.items() if n > ALLOWED * DRAWS} == {}


F32 = NDArray[np.float32]
SURE: dict[str, tuple[Callable[[Text], Any], dict[str, Any]]] = {
    "boilerplate at the beginning": (
        lambda text: np.arange(len(text.tokens)) < 21,
        {"prompt_length": (10, 13), "length": (60, 64)},
    ),
    "all but the first token": (lambda text: np.arange(len(text.tokens)) > 0, {}),
    "all but the last token": (
        lambda text: np.arange(len(text.tokens)) < len(text.tokens) - 1, {},
    ),
    "nine of ten samples": (lambda text: np.full(len(text.tokens), text.number % 10 > 0), {}),
    "all without the prefix": (
        lambda text: np.full(len(text.tokens), len(text.prompt) < 60),
        {"same_prefix": 64, "prompt_length": (4, 12)},
    ),
    "half of the samples": (lambda text: np.full(len(text.tokens), text.number % 2 > 0), {}),
}  # fmt: skip
"""Where the model is nearly sure of its tokens, whose logprobs no noise can move."""


@pytest.mark.parametrize("decimals", [None, 4, 2])
@pytest.mark.parametrize("noise", [0.005, 0.15])
@pytest.mark.parametrize("where", SURE)
def test_tokens_that_the_model_is_sure_of_are_no_place_that_agrees(
    where: str, noise: float, decimals: int | None
) -> None:
    """Of p about 0.9 to 0.9999; the logprobs of both sides may be rounded."""
    chosen, shape = SURE[where]

    def compute(_rng: np.random.Generator, text: Text, logits: Rows) -> Rows:
        likeliest = text.logits.argmax(axis=1)
        gap = np.random.default_rng(text.number).uniform(6, 12, len(logits))
        logits[np.flatnonzero(chosen(text)), likeliest[chosen(text)]] += gap[chosen(text)]
        return logits

    def write(logprobs: F32, _rng: np.random.Generator) -> F32:
        return logprobs if decimals is None else logprobs.round(decimals)

    engines = (
        Engine(compute=compute, write=write),
        Engine(compute=compute, noise=noise, write=write),
    )
    pair = Pair(*engines, prompts=200, samples=1, **shape)
    assert set(causes(pair)) <= {"different_computation", "rounded"}
