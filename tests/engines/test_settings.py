"""The four settings on real engines: flipped both ways, proved both ways, and lied about."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from engines.support import Engine
from parity_check.traces.prompts import ASSETS

InProcess = Callable[..., dict[str, Any]]
Samples = list[dict[str, list[int]]]
HEADS = ("model", "float32")
ALL_ON_GRID = r"(\d{3}) of \1 top-k gaps are multiples of 2\^-10"
ASKED = {
    "logprobs_mode": "processed_logprobs",
    "enable_prefix_caching": False,
    "async_scheduling": False,
    "lm_head_dtype": "float32",
}


class Heads(NamedTuple):
    """One model on one version, with either head; and the same model in transformers."""

    reports: dict[str, dict[str, Any]]
    expected: list[list[float]]

    def distance(self, head: str) -> float:
        """Mean |Δ| of the engine's logprobs to those of bf16 body and fp32 head, in nats."""
        ours, theirs = (
            np.concatenate([np.asarray(row) for row in rows])
            for rows in (self.reports[head]["logprobs"], self.expected)
        )
        assert len(ours) > 300
        return float(np.abs(ours - theirs).mean())


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with its lm_head in the place of the embedding, and no lm_head."""
    directory = tmp_path_factory.mktemp("models") / "tied"
    shutil.copytree(ASSETS / "tiny", directory)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    weights = directory / "model.safetensors"
    stored = weights.read_bytes()
    (size,) = struct.unpack("<Q", stored[:8])
    header, data = json.loads(stored[8 : 8 + size]), stored[8 + size :]
    header["model.embed_tokens.weight"] = header.pop("lm_head.weight")
    # The format allows no gaps: what is left is moved together.
    tensors, offset, parts = {}, 0, []
    for name, entry in header.items():
        if name == "__metadata__":
            tensors[name] = entry
            continue
        begin, end = entry["data_offsets"]
        parts.append(data[begin:end])
        tensors[name] = {**entry, "data_offsets": [offset, offset + end - begin]}
        offset += end - begin
    written = json.dumps(tensors).encode()
    weights.write_bytes(struct.pack("<Q", len(written)) + written + b"".join(parts))
    return directory


@pytest.fixture(scope="session")
def samples(engine: Engine) -> Samples:
    """The bundled prompts, cut in two: plain text, the same on every engine."""
    return [
        {"prompt": ids[: len(ids) // 2], "completion": ids[len(ids) // 2 :][:40]}
        for ids in engine.token_ids
    ]


@pytest.fixture(scope="session")
def flipped(engine: Engine, samples: Samples, in_process: InProcess) -> dict[str, Any]:
    """An engine with the other value of every setting that this platform lets choose.

    It is then made to claim those of ASKED, and async scheduling.
    """
    settings: dict[str, Any] = {"lm_head_dtype": "model"}
    if engine.family == "v1":
        settings |= {"logprobs_mode": "raw_logprobs", "enable_prefix_caching": True}
    claims = {**ASKED, "async_scheduling": True}
    if engine.family == "v0":
        claims["enable_prefix_caching"] = True
    question = {"samples": samples, "claims": claims}
    return in_process(engine.version, "proved.py", question, settings=settings)


@pytest.fixture(scope="session")
def forward(in_process: InProcess) -> Callable[..., list[list[float]]]:
    """Logprobs of bf16 body and fp32 head in transformers; once a model, for all versions."""
    known: dict[str, list[list[float]]] = {}

    def run(name: str, samples: Samples, **engine: Any) -> list[list[float]]:
        if name not in known:
            question = {"samples": samples, "temperature": 1.0, "top_p": 1.0, "body": "bfloat16"}
            known[name] = in_process("0.18.1", "forward.py", question, **engine)["raw"]
        return known[name]

    return run


@pytest.fixture(scope="session")
def untied(
    engine: Engine,
    samples: Samples,
    flipped: dict[str, Any],
    forward: Callable[..., list[list[float]]],
) -> Heads:
    requests = [
        {
            "sample_id": str(number),
            "prompt_token_ids": sample["prompt"],
            "completion_token_ids": sample["completion"],
        }
        for number, sample in enumerate(samples)
    ]
    sampling = engine.config.workload.model_copy(update={"temperature": 1.0}).sampling()
    rows = engine.worker.score("replay", requests, sampling=sampling, top_logprobs=1)
    float32 = {**engine.worker.description.stated(), "logprobs": [row.logprobs for row in rows]}
    return Heads({"model": flipped, "float32": float32}, forward("untied", samples))


@pytest.fixture(scope="session")
def tied(
    engine: Engine,
    samples: Samples,
    tied_model: Path,
    in_process: InProcess,
    forward: Callable[..., list[list[float]]],
) -> Heads:
    model = {"engine_args": {"model": str(tied_model)}}
    return Heads(
        {
            head: in_process(
                engine.version,
                "proved.py",
                {"samples": samples},
                settings={"lm_head_dtype": head},
                **model,
            )
            for head in HEADS
        },
        forward("tied", samples, **model),
    )


@pytest.mark.parametrize("model", ["untied", "tied"])
def test_the_proof_tells_the_heads_apart(model: str, untied: Heads, tied: Heads) -> None:
    heads = {"untied": untied, "tied": tied}[model]
    for head in HEADS:
        setting = heads.reports[head]["settings"]["lm_head_dtype"]
        assert setting["in_force"] == head, setting
    distances = {head: heads.distance(head) for head in HEADS}
    print(f"mean |Δ| against transformers, fp32 head: {distances}")
    assert distances["float32"] < distances["model"]


def test_every_setting_is_proved_the_other_way(engine: Engine, flipped: dict[str, Any]) -> None:
    settings = flipped["settings"]
    assert settings["lm_head_dtype"]["in_force"] == "model"
    assert re.search(ALL_ON_GRID, settings["lm_head_dtype"]["proof"])
    if engine.family == "v0":
        for name in ("enable_prefix_caching", "async_scheduling"):
            assert settings[name]["in_force"] is False
        assert "forced off by this platform" in settings["enable_prefix_caching"]["proof"]
        assert "V0 has no async scheduling" in settings["async_scheduling"]["proof"]
        return
    assert settings["logprobs_mode"]["in_force"] == "raw_logprobs"
    assert "1.000 times" in settings["logprobs_mode"]["proof"]
    assert settings["enable_prefix_caching"]["in_force"] is True
    assert "took 256 tokens from the cache" in settings["enable_prefix_caching"]["proof"]
    assert "forced off by this platform" in settings["async_scheduling"]["proof"]


@pytest.mark.parametrize(
    ("setting", "evidence"),
    [
        ("logprobs_mode", "are 1.000 times those at T = 1"),
        ("enable_prefix_caching", "from the cache"),
        ("async_scheduling", "async_scheduling = true was requested, but false is in force"),
        ("lm_head_dtype", ALL_ON_GRID),
    ],
)
def test_an_ignored_flag_is_caught(
    engine: Engine, flipped: dict[str, Any], setting: str, evidence: str
) -> None:
    """The engine's own config tells every one of these as it was asked for."""
    message = flipped["refused"][setting]
    assert message is not None
    assert message.startswith("setting_not_applied: ")
    assert re.search(evidence, message)
    if setting == "lm_head_dtype":
        assert "the projection's output is float32" in message


def test_the_self_check_is_quick(engine: Engine, flipped: dict[str, Any]) -> None:
    print(f"self-check: {engine.worker.description.self_check_s}, {flipped['self_check_s']} s")
    assert flipped["self_check_s"] < 10  # idle: 0.2 s


def test_a_float32_head_in_parts_is_the_whole_one(in_process: InProcess) -> None:
    """What a GPU with torch before 2.8 does to a large vocabulary, to keep its memory."""
    errors = in_process("0.8.5", "head.py", {})["errors"]
    assert len(errors) == 5
    assert max(errors.values()) < 1e-5  # logits of up to 30: the rounding of float32 sums
