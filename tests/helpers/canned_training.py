"""A training comparison with known curves, for the tests of its verdicts and of its report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from helpers.described import described
from parity_check.comparison.analyse import engine_report
from parity_check.comparison.report import EngineReport
from parity_check.config.load import dump_config, parse_config
from parity_check.config.models import Config
from parity_check.measure.gates import Verdict
from parity_check.report.document import Head
from parity_check.training import arms
from parity_check.training.curves import Step
from parity_check.training.judge import judge
from parity_check.training.report import ArmReport, TrainingReport

STEPS = 20
CLIP, KL = 0.05, 4e-5
TABLES: dict[str, Any] = {
    "reference": {"requirement": "vllm==0.8.5", "family": "v0"},
    "candidate": {"requirement": "vllm==0.18.1", "family": "v1"},
    "workload": {"temperature": 0.7, "max_tokens": 36},
}


def a_step(arm: str, seed: int, step: int, *, clip: float, kl: float, lag: int) -> Step:
    draw = np.random.default_rng([seed, step, len(arm)])
    shares = tuple([1 / (lag + 1)] * (lag + 1))
    return Step(
        arm=arm, seed=seed, step=step, samples=48, tokens=1500,
        clip_rate=float(clip + 0.01 * draw.normal()), clip_active=clip / 2,
        k3_kl=float(kl * np.exp(0.2 * draw.normal())), k1_kl=kl, mean_ratio=1.0 + kl,
        rms_log_ratio=float(np.sqrt(2 * kl)), ess=1.0,
        entropy=float(0.08 + 0.004 * draw.normal()), reward=float(0.35 + 0.03 * draw.normal()),
        reward_error=0.07, grad_norm=0.5, loss=0.0, lag=lag / 2, largest_lag=lag,
        lag_shares=shares, flat_groups=1, sample_s=0.5, learn_s=0.3, sync_s=0.03,
    )  # fmt: skip


def a_config(names: tuple[str, ...], **training: Any) -> Config:
    settings = dict.fromkeys(
        ("logprobs_mode", "enable_prefix_caching", "async_scheduling", "lm_head_dtype"), "default"
    )
    known: dict[str, Any] = {
        "initial": {"settings": settings, "lag": 4},
        "processed": {"lag": 4},
    }
    tables = {
        "steps": STEPS,
        "trainer": {"requirement": "vllm==0.18.1"},
        "arms": {name: known.get(name, {}) for name in names},
        **training,
    }
    return parse_config({**TABLES, "training": tables}, "test")


SAFE = {
    "logprobs_mode": "processed_logprobs",
    "enable_prefix_caching": False,
    "async_scheduling": False,
    "lm_head_dtype": "float32",
}
AS_IT_COMES = {
    "logprobs_mode": "raw_logprobs",
    "enable_prefix_caching": True,
    "async_scheduling": True,
    "lm_head_dtype": "model",
}


def an_engine(role: str, version: str, family: str) -> EngineReport:
    engine = described(
        AS_IT_COMES if role == "initial" else SAFE,
        label=f"vllm {version}",
        version=version,
        family=family,
        config={"dtype": "bfloat16"},
    )
    return engine_report(role, engine, "decode", None)


def a_trainer() -> EngineReport:
    engine = described(
        {"lm_head_dtype": "float32"},
        label="transformers 4.57.3",
        version="4.57.3",
        family="trainer",
        packages={"torch": "2.10.0", "transformers": "4.57.3"},
        config={"dtype": "bfloat16"},
    )
    return engine_report("trainer", engine, "prefill", None)


def version_of(arm: str) -> tuple[str, str]:
    return ("0.8.5", "v0") if arm == "reference" else ("0.18.1", "v1")


def a_report(
    shown: dict[str, tuple[float, float]],
    *,
    stopped: dict[str, str] | None = None,
    compared: dict[str, Verdict] | None = None,
    notices: tuple[str, ...] = (),
    **training_keys: Any,
) -> TrainingReport:
    """`shown` has the clip rate and the KL of each arm; a stopped one took half of the steps."""
    stopped, compared = stopped or {}, compared or {}
    config = a_config(tuple(shown), **training_keys)
    training = arms.training_of(config)

    def steps() -> Iterator[Step]:
        for run in arms.runs(config):
            clip, kl = shown.get(run.arm, (CLIP, KL))
            lag = arms.lag_of(arms.arms(config)[run.arm], training)
            count = STEPS // 2 if run.arm in stopped else STEPS
            for step in range(count):
                yield a_step(run.arm, run.seed, step, clip=clip, kl=kl, lag=lag)

    every = tuple(steps())
    return TrainingReport(
        head=Head(
            kind="training",
            run_id="20260101-000000-abcd",
            created_utc="2026-01-01T00:00:00+00:00",
            command="parity-check train -c training-curves.toml",
            parity_check="0.1.0",
            config=dump_config(config),
            model={"name": "tiny"},
            host={"cpu": "one"},
        ),
        trainer=a_trainer(),
        arms=tuple(
            ArmReport(
                name=name,
                engine=an_engine(name, *version_of(name)),
                lag=arms.lag_of(arm, training),
                mode=arm.mode,
                clear_cache=arm.clear_cache,
                seeds=tuple(run.seed for run in arms.runs(config) if run.arm == name),
                stopped=stopped.get(name),
                compared=compared.get(name),
            )
            for name, arm in arms.arms(config).items()
        ),
        wanted=STEPS,
        results=judge(every, training, 0.95),
        steps=every,
        notices=notices,
        artifacts=("training.json", "report.html"),
    )  # fmt: skip


TRAINED: dict[str, TrainingReport] = {
    "story": a_report(
        {"initial": (0.75, 3e-3), "processed": (0.4, 8e-4), "fixed": (0.05, 3e-5)},
        compared={"initial": "drift", "processed": "parity", "fixed": "parity"},
        notices=("9 of 100 steps had no gradient: all samples of each prompt had the same reward",),
    ),
    "parity": a_report({"fixed": (0.05, 4e-5)}, compared={"fixed": "parity"}),
    "reward-unresolved": a_report(
        {"fixed": (0.05, 4e-5)}, compared={"fixed": "parity"}, reward_resolution=1e-3
    ),
    "stopped": a_report(
        {"initial": (0.75, 3e-3), "fixed": (0.05, 4e-5)},
        stopped={"initial": "the trainer engine failed to learn: the loss is nan"},
    ),
}
