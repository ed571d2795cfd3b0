"""The measurements behind the four settings, on logprobs made for them."""

from __future__ import annotations

import importlib
import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parity_check.engines.client import WORKER

TOP = 20
STEPS = 8


def worker_module(name: str) -> Any:
    """A module of the worker; none of them imports vllm before an engine is made."""
    sys.path.insert(0, str(WORKER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(WORKER))


@pytest.fixture(scope="module")
def proofs() -> Any:
    return worker_module("proofs")


def engine(**facts: Any) -> Any:
    """As much of a started engine as the readings look at."""
    return SimpleNamespace(
        **{
            "family": "v1",
            "device": "cpu",
            "release": (0, 18, 1),
            "dtype": lambda: facts.get("dtype_name", "bfloat16"),
            "configured_logprobs_mode": lambda: facts.get("mode", "processed_logprobs"),
            "config": SimpleNamespace(
                cache_config=SimpleNamespace(enable_prefix_caching=facts.get("cache", False)),
                scheduler_config=SimpleNamespace(async_scheduling=facts.get("told", False)),
            ),
            **facts,
        }
    )


def half(values: Any, mantissa: int) -> Any:
    """Rounded to so many bits of mantissa, the leading one included."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.round(fraction * 2**mantissa) / 2**mantissa, exponent)


def rows(temperature: float = 1.0, top_k: int | None = None, mantissa: int = 24) -> Any:
    """Top logprobs of STEPS steps, {token: logprob}, in float32."""
    logits = half(np.random.default_rng(0).normal(2.0, 4.0, (STEPS, 4096)), mantissa) / temperature
    found = []
    for row in logits:
        ids = np.argsort(-row)[:TOP]
        kept = row[ids][: top_k or None]
        total = np.log(np.exp(row if top_k is None else kept).sum())
        values = np.full(TOP, -np.inf, np.float32)
        values[: len(kept)] = (kept - total).astype(np.float32)
        found.append(dict(zip(ids.tolist(), values.tolist(), strict=True)))
    return found


@pytest.mark.parametrize(
    ("cold", "top_k", "expected"),
    [
        (0.5, 1, "processed_logprobs"),
        (0.5, 2, "processed_logprobs"),  # a tie at the top survives top_k = 1
        (1.0, None, "raw_logprobs"),  # as "processed" of 0.10.0 is, too
        (0.5, None, "partly_processed_logprobs"),
    ],
)
def test_logprobs_mode(proofs: Any, cold: float, top_k: int | None, expected: str) -> None:
    probed = {"warm": rows(), "cold": rows(cold), "cut": rows(top_k=top_k)}
    found, proof = proofs.logprobs_mode(engine(), probed)
    assert found == expected
    assert f"{1 / cold:.3f} times" in proof


def test_logits_are_called_by_their_name(proofs: Any) -> None:
    probed = {"warm": rows(), "cold": rows(), "cut": rows()}
    assert proofs.logprobs_mode(engine(mode="raw_logits"), probed)[0] == "raw_logits"


@pytest.mark.parametrize(
    ("dtype", "mantissa", "output", "expected"),
    [
        ("bfloat16", 8, "bfloat16", "model"),
        ("bfloat16", 8, "float32", "model"),  # cast after the projection, not before
        ("bfloat16", 24, "float32", "float32"),
        ("float16", 11, "float32", "model"),
        ("float16", 24, "float32", "float32"),
        ("float32", 24, "float32", "model"),
    ],
)
def test_lm_head_dtype(proofs: Any, dtype: str, mantissa: int, output: str, expected: str) -> None:
    observed = {"lm_head_dtype": output, "fp32_heads": 1, "fp32_requested": False, "ranks": 1}
    found, proof = proofs.lm_head_dtype(engine(dtype_name=dtype), rows(mantissa=mantissa), observed)
    assert found == expected, proof


def test_the_extension_that_took_over_nothing_says_so(proofs: Any) -> None:
    observed = {"lm_head_dtype": "bfloat16", "fp32_heads": 0, "fp32_requested": True, "ranks": 2}
    found, proof = proofs.lm_head_dtype(engine(), rows(mantissa=8), observed)
    assert found == "model"
    assert "output is bfloat16 (2 ranks asked), the extension patched 0 projections" in proof


@pytest.mark.parametrize(
    ("cached", "told", "expected"),
    [(256, False, True), (0, True, False), (None, True, True), (None, False, False)],
)
def test_prefix_caching_is_what_was_seen(
    proofs: Any, cached: int | None, told: bool, expected: bool
) -> None:
    assert proofs.prefix_caching(engine(cache=told), cached)[0] is expected


@pytest.mark.parametrize(
    ("scheduler", "told", "expected"),
    [("AsyncScheduler", False, True), ("Scheduler", True, False), (None, True, True)],
)
def test_async_scheduling_is_the_class_of_the_scheduler(
    proofs: Any, scheduler: str | None, told: bool, expected: bool
) -> None:
    assert proofs.async_scheduling(engine(told=told), scheduler)[0] is expected


@pytest.mark.parametrize(
    ("setting", "family", "device", "version", "forced"),
    [
        ("async_scheduling", "v0", "cuda", (0, 8, 5), True),
        ("async_scheduling", "v1", "cpu", (0, 18, 1), True),
        ("async_scheduling", "v1", "cpu", (0, 11, 2), False),
        ("async_scheduling", "v1", "cuda", (0, 18, 1), False),
        ("enable_prefix_caching", "v0", "cpu", (0, 8, 5), True),
        ("enable_prefix_caching", "v0", "cuda", (0, 8, 5), False),
        ("enable_prefix_caching", "v1", "cpu", (0, 18, 1), False),
        ("logprobs_mode", "v0", "cpu", (0, 8, 5), False),
    ],
)
def test_platform_limits(
    proofs: Any, setting: str, family: str, device: str, version: tuple[int, ...], forced: bool
) -> None:
    assert bool(proofs.platform_limit(setting, family, device, version)) is forced


def test_gaps_leave_out_what_was_cut_off(proofs: Any) -> None:
    row = {1: -1.0, 2: -3.5, 3: -math.inf}
    assert proofs.gaps(row, row) == [2.5]


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (RuntimeError("lm_head_dtype = float32 needs an unquantized lm_head, found X"), True),
        (ValueError("A head_dtype … is only supported for an unquantized lm_head."), True),
        (ValueError("something else"), False),
    ],
)
def test_a_quantised_head_refuses_float32(error: Exception, refused: bool) -> None:
    failure = worker_module("vllm_engine").load_failure(error)
    assert (failure.kind == "setting_not_applied") is refused
