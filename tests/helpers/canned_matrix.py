"""A comparison of three engines that no engine made: synthetic traces, for golden files."""

from __future__ import annotations

import random
import tomllib
from dataclasses import replace
from pathlib import Path

import tomli_w

from helpers.canned import VERSIONS, Canned, finished, write_run
from helpers.support import SMALL_RUN
from parity_check.traces.engine import EngineSetting
from parity_check.traces.trace import Sample, Trace, write_trace

CANNED = Canned(noise=2e-3, own_noise=1e-5)
TRAINERS = {"trainer": ("model", 4e-2, -3e-3)}
"""Its lm_head, and the error and the bias of its logprobs."""


def disturb(rng: random.Random, original: Sample, bias: float, noise: float) -> Sample:
    """The same tokens with other logprobs."""
    moved = [
        None if x is None else min(0.0, x + bias + noise * rng.gauss(0.0, 1.0))
        for x in original.logprobs
    ]
    return replace(original, logprobs=moved)


def write_matrix(directory: Path) -> Path:
    """A trainer with a bf16 lm_head beside the reference and the candidate, far from both."""
    write_run(directory, CANNED)
    config = tomllib.loads((directory / "config.toml").read_text())
    trainer = {"kind": "transformers", "python": "current"}
    config["engines"] = {
        name: {**trainer, "transformers": {"lm_head_dtype": head}}
        for name, (head, _, _) in TRAINERS.items()
    }
    config["objective"] = {"logprobs": "recompute"}
    config["gates"] = SMALL_RUN
    (directory / "config.toml").write_text(tomli_w.dumps(config))
    rng = random.Random(8)
    for name, (head, noise, bias) in TRAINERS.items():
        for sampler in VERSIONS:
            source = Trace(directory / f"{sampler}.parquet")
            original = source.header
            samples = [
                replace(
                    disturb(rng, each, bias, noise), entropy=[1.25] * len(each.completion_token_ids)
                )
                for each in source.samples()
            ]
            engine = replace(
                original.engine,
                label="transformers 4.57.6",
                backend="transformers",
                family="trainer",
                evaluates_by="prefill",
                settings={
                    **original.engine.settings,
                    "lm_head_dtype": EngineSetting(head, head, "canned"),
                },
                config={
                    "dtype": "bfloat16", "truncation": False, "layout": "padded",
                    "samples_per_batch": 8, "tokens_per_batch": 4096,
                },
            )  # fmt: skip
            header = replace(
                original,
                evaluated_by=name,
                engine=engine,
                logprob_path="prefill",
                replayed_from=original.token_digest,
            )
            texts = source.vocabulary()
            write_trace(directory / f"{sampler}-replayed-by-{name}.parquet", samples, header, texts)
            if sampler == "reference":
                again = [disturb(rng, each, 0.0, 5e-4) for each in samples]
                write_trace(directory / f"{name}-repeat-1.parquet", again, header, texts)
    return finished(directory, (*VERSIONS, *TRAINERS), CANNED)
