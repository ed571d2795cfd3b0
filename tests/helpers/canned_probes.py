"""Probes of a model of two layers: equal up to noise, or different from one module on."""

from __future__ import annotations

import numpy as np

from helpers.described import described
from parity_check.comparison.analyse import engine_report
from parity_check.engines.probe import Probe
from parity_check.locate.differences import Processing, differences
from parity_check.locate.report import LocateReport
from parity_check.report.document import Head

INNER = ("input_layernorm", "self_attn.qkv_proj", "self_attn.o_proj", "mlp.down_proj")
MODULES = (
    "model.embed_tokens",
    *(f"model.layers.{layer}.{name}" for layer in (0, 1) for name in INNER),
    "model.norm",
    "logits_processor",
)
ROWS = np.array([[0, 3], [0, 4], [1, 6], [1, 7]])
WIDTH, ROUNDING = 64, 1e-3


def a_probe(seed: int | None = None, wrong_from: str | None = None, error: float = 0.1) -> Probe:
    """Random outputs; with a seed, each with rounding; from one module on, with an error."""
    healthy = np.random.default_rng(0)
    draw = np.random.default_rng(seed)
    modules, wrong = {}, False
    for name in MODULES:
        values = healthy.normal(size=(len(ROWS), WIDTH))
        if seed is not None:
            values = values * (1 + ROUNDING * draw.normal(size=values.shape))
        wrong = wrong or name == wrong_from
        if wrong:
            values = values * (1 + error * draw.normal(size=values.shape))
        modules[name] = values.astype(np.float32)
    dtypes = dict.fromkeys(MODULES, "bfloat16")
    return Probe(ROWS, modules, dtypes, [[-1.0, -2.0], [-1.0, -2.0]])


def a_report(
    wrong_from: str | None = None, off: float | None = 1e-6, off_raw: float | None = 0.5
) -> LocateReport:
    found = differences(a_probe(), a_probe(1, wrong_from), a_probe(2))
    one, other = (
        engine_report(role, described(label=label, version=version, family=family), "decode", None)
        for role, label, version, family in (
            ("reference", "vllm 0.8.5", "0.8.5", "v0"),
            ("candidate", "vllm 0.18.1", "0.18.1", "v1"),
        )
    )
    return LocateReport(
        head=Head(
            kind="locate",
            run_id="20260101-000000-abcd",
            created_utc="2026-01-01T00:00:00+00:00",
            command="parity-check locate -c parity.toml",
            parity_check="0.1.0",
            config={"workload": {"temperature": 0.8}},
            model={"name": "tiny"},
            host={},
        ),
        engines=(one, other),
        passes=len(ROWS),
        differences=found,
        unmatched=("model.layers.0.self_attn.q_norm",),
        processing=(Processing(1e-6, 0.5), Processing(off, off_raw)),
    )


LOCATED = {
    "clean": a_report(),
    "module": a_report("model.layers.1.self_attn.o_proj"),
    "processing": a_report(off=0.4, off_raw=1e-6),
    "not-finite": a_report(off=None, off_raw=None),
}
