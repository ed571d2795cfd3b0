"""A trainer as an engine: what it computes, and how it stands to rollout engines."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from engines.support import VERSIONS, logprobs_of, make_environment
from parity_check.config.load import parse_config
from parity_check.config.models import Config
from parity_check.engines.client import WorkerEngine
from parity_check.engines.kinds import configured_engine
from parity_check.errors import EngineError, InputError
from parity_check.recording import requests
from parity_check.traces.checkpoint import locate_model
from parity_check.traces.prompts import read_prompts
from parity_check.traces.trace import Sample

TRAINER_TOML = Path(__file__).parents[2] / "configs" / "trainer.toml"
ONE_AT_A_TIME = {"samples_per_batch": 1}


class Trainer(NamedTuple):
    version: str
    worker: WorkerEngine
    config: Config
    samples: list[Sample]

    def score(self, samples: list[Sample] | None = None, **options: Any) -> list[Sample]:
        sampling = {**self.config.workload.sampling(), **options.pop("sampling", {})}
        return requests.score(
            self.worker, "rescore", samples or self.samples, sampling, 5, **options
        )


def trainer_config(version: str, **keys: Any) -> Config:
    engine = {"kind": "transformers", "requirement": VERSIONS[version][0], "transformers": keys}
    workload = {"temperature": 0.8, "max_tokens": 24}
    return parse_config(
        {"reference": engine, "candidate": engine, "workload": workload}, source="test"
    )


def start(version: str, directory: Path, **keys: Any) -> WorkerEngine:
    config = trainer_config(version, **keys)
    model = locate_model(config.model)
    spec = configured_engine("candidate", config).spec(model, make_environment(version))
    return WorkerEngine(spec, directory / "jobs", directory / "log", 300, lambda *_: None)


@pytest.fixture(scope="module", params=["0.8.5", "0.18.1"])
def trainer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trainer]:
    """One that truncates where it is asked to, with a few of its own samples."""
    version: str = request.param
    config = trainer_config(version, truncation=True)
    with start(version, tmp_path_factory.mktemp("trainer"), truncation=True) as worker:
        worker.load()
        prompts = read_prompts("bundled:prompts")[:96:12]
        ids = requests.tokenize(worker, prompts)
        workload = config.workload.model_copy(update={"samples_per_prompt": 1})
        samples = requests.generate(worker, prompts, ids, workload)
        yield Trainer(version, worker, config, samples)


def test_it_computes_what_a_plain_forward_computes(
    trainer: Trainer, in_process: Callable[..., dict[str, Any]]
) -> None:
    samples = [
        {"prompt": list(s.prompt_token_ids), "completion": list(s.completion_token_ids)}
        for s in trainer.samples
    ]
    expected = in_process(
        trainer.version,
        "forward.py",
        {"samples": samples, "temperature": 0.8, "top_p": 0.9, "body": "bfloat16"},
    )
    plain, cut = (
        logprobs_of(trainer.score(sampling=shape, **ONE_AT_A_TIME))
        for shape in ({"temperature": 1.0}, {"top_p": 0.9})
    )
    raw, processed = (
        np.array([np.nan if v is None else v for row in expected[name] for v in row])
        for name in ("raw", "processed")
    )
    np.testing.assert_allclose(plain, raw, atol=2e-5)
    outside = np.isnan(processed)
    assert (np.isneginf(cut) == outside).all()
    np.testing.assert_allclose(cut[~outside], processed[~outside], atol=2e-5)


def test_alternatives_and_the_entropy_of_the_full_distribution(trainer: Trainer) -> None:
    for sample in trainer.score():
        assert sample.entropy is not None
        assert sample.top_logprobs is not None
        assert len(sample.entropy) == len(sample.logprobs)
        for entropy, top in zip(sample.entropy, sample.top_logprobs, strict=True):
            weights = np.exp(top)
            known = -(weights * np.array(top)).sum()
            rest = max(0.0, 1.0 - weights.sum())
            # What is not among the alternatives adds at most that of a uniform rest.
            most = known + (rest * np.log(4091 / rest) if rest > 1e-9 else 0.0)
            assert known - 1e-5 <= entropy <= most + 1e-3


def test_scoring_again_is_bitwise_and_other_batch_shapes_are_near(trainer: Trainer) -> None:
    once = logprobs_of(trainer.score())
    np.testing.assert_array_equal(logprobs_of(trainer.score()), once)
    alone = logprobs_of(trainer.score(**ONE_AT_A_TIME))
    # Measured 0.0004 to 0.0008: a bf16 body computes another shape otherwise.
    assert 0.0 <= np.abs(alone - once).mean() < 0.003


def test_its_own_samples_are_near_their_prefill(trainer: Trainer) -> None:
    sampled, scored = logprobs_of(trainer.samples), logprobs_of(trainer.score())
    assert np.isfinite(sampled).all()
    assert np.abs(scored - sampled).mean() < 0.003


def test_greedy_sampling_takes_the_likeliest(trainer: Trainer) -> None:
    prompts = read_prompts("bundled:prompts")[:2]
    ids = requests.tokenize(trainer.worker, prompts)
    workload = trainer.config.workload.model_copy(
        update={"temperature": 0.0, "samples_per_prompt": 1, "max_tokens": 6}
    )
    for sample in requests.generate(trainer.worker, prompts, ids, workload):
        assert sample.top_token_ids is not None
        likeliest = [ids[0] for ids in sample.top_token_ids]
        assert likeliest == list(sample.completion_token_ids)


def test_what_it_cannot_do_is_said(trainer: Trainer) -> None:
    with pytest.raises(EngineError, match="a trainer only scores by prefill: use rescore"):
        requests.score(trainer.worker, "replay", trainer.samples, {}, 5)
    shaped = trainer.config.workload.model_copy(update={"presence_penalty": 0.5})
    with pytest.raises(EngineError, match="this trainer does not apply presence_penalty"):
        requests.generate(trainer.worker, [], [], shaped)
    foreign = [replace(trainer.samples[0], completion_token_ids=[4096])]
    with pytest.raises(InputError, match="token id 4096 is outside the vocabulary of 4096"):
        trainer.score(foreign)
    long = [replace(trainer.samples[0], completion_token_ids=[5] * 1025)]
    with pytest.raises(InputError, match="exceed the model's 1024 positions"):
        trainer.score(long)


def test_an_attention_that_leaves_the_soft_cap_out_is_refused(
    trainer: Trainer, tmp_path: Path
) -> None:
    """Before any weight is read: transformers' sdpa ignores the cap without an error."""
    checkpoint = tmp_path / "gemma2"
    checkpoint.mkdir()
    config = {"model_type": "gemma2", "attn_logit_softcapping": 50.0}
    (checkpoint / "config.json").write_text(json.dumps(config))
    spec = start(trainer.version, tmp_path).spec
    spec = replace(spec, engine_args={**spec.engine_args, "model": str(checkpoint)})
    worker = WorkerEngine(spec, tmp_path / "capped", tmp_path / "capped.log", 300, lambda *_: None)
    with pytest.raises(EngineError, match='set attention = "eager"'):
        worker.load()


def test_another_trainer_packs_and_keeps_its_head_in_bf16(trainer: Trainer, tmp_path: Path) -> None:
    packed = {"layout": "packed", "lm_head_dtype": "model", "attention": "eager"}
    with start(trainer.version, tmp_path, **packed) as worker:
        head = worker.load().settings["lm_head_dtype"]
        assert head.in_force == "model"
        assert "the projection's output is bfloat16" in head.proof
        sampling = trainer.config.workload.sampling()
        scored = requests.score(worker, "rescore", trainer.samples, sampling, 5)
        alone = requests.score(worker, "rescore", trainer.samples, sampling, 5, **ONE_AT_A_TIME)
    # Another sample of the row, seen by mistake, would move tokens by nats.
    assert np.abs(logprobs_of(scored) - logprobs_of(alone)).max() < 0.5
    assert 1e-4 < np.abs(logprobs_of(scored) - logprobs_of(trainer.score())).mean() < 0.02


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """V0, V1, a trainer with a float32 head and one without, as in the guide, a third as long."""
    out = tmp_path_factory.mktemp("four")
    short = [
        *("--set", "workload.num_prompts=96"),
        *("--set", "workload.max_tokens=32"),
        *("--set", "workload.sampled_by=candidate"),
    ]
    command = [sys.executable, "-m", "parity_check", "compare", "-c", str(TRAINER_TOML)]
    done = subprocess.run(
        [*command, "-o", str(out), *short],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 4), done.stderr[-3000:]
    [directory] = out.iterdir()
    return done.stdout, json.loads((directory / "report.json").read_text())


def test_matching_heads_are_nearer_than_a_one_sided_head(
    four: tuple[str, dict[str, Any]],
) -> None:
    size = {
        (pair["evaluating"], pair["behaviour"]): metric["value"]
        for pair in four[1]["matrix"]["scored"]
        for metric in pair["metrics"]
        if metric["name"] == "mean_abs_log_ratio"
    }
    far = [size["bf16-head", name] for name in ("candidate", "reference")]
    near = [size["trainer", name] for name in ("candidate", "reference")]
    assert max(near) < 0.8 * min(far)


def test_all_four_are_in_one_report(four: tuple[str, dict[str, Any]]) -> None:
    text, tree = four
    assert list(tree["engines"]) == ["reference", "candidate", "trainer", "bf16-head"]
    paths = [engine["logprob_path"] for engine in tree["engines"].values()]
    assert paths == ["decode", "decode", "prefill", "prefill"]
    heads = [e["settings"]["lm_head_dtype"]["in_force"] for e in tree["engines"].values()]
    assert heads == ["float32", "float32", "float32", "model"]
    assert tree["engines"]["trainer"]["entropy"] > 0
    assert "warning [trainer-path.trainer]" in text
    assert {each["status"] for each in tree["matrix"]["practices"]["checks"]} == {"pass"}
