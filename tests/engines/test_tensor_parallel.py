"""Two devices an engine: the answers of one device, proofs and weights of both ranks.

On V0 the CPU engine gathers over gloo, on V1 over shared memory. The bundled model has four heads,
so two ranks share every layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from engines.support import HERE, Engine, logprobs_of, make_config, make_spec
from helpers.checkpoints import perturbed
from parity_check.engines.client import WorkerEngine
from parity_check.engines.replies import WeightsInForce
from parity_check.recording import requests
from parity_check.traces.prompts import ASSETS

TWO = {"tensor_parallel_size": 2}
NOISE = 0.006
"""Mean |Δ| in nats that another order of bf16 sums may cause: as of bf16 against float32."""


@pytest.fixture(scope="module")
def two(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The same engine on two devices."""
    home = tmp_path_factory.mktemp(f"two-{engine.version}")
    spec = make_spec(engine.version, engine_args=TWO, env={"VLLM_CPU_KVCACHE_SPACE": "1"})
    with WorkerEngine(spec, home / "jobs", home / "log", 120, lambda *_: None) as worker:
        worker.load()
        ids = requests.tokenize(worker, engine.prompts)
        yield Engine(
            engine.version, engine.family, worker, make_config(engine.version), engine.prompts, ids
        )


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(perturbed(tmp_path_factory.mktemp("checkpoint") / "other", 0.3))


def test_two_devices_give_the_logprobs_of_one(engine: Engine, two: Engine) -> None:
    for sampler, evaluator in ((engine, two), (two, engine)):
        sampled = sampler.generate(temperature=0.8, top_k=20)
        replayed = evaluator.score("replay", sampled, temperature=0.8, top_k=20)
        ours, theirs = logprobs_of(sampled), logprobs_of(replayed)
        both = np.isfinite(theirs)  # noise moves a few tokens over the edge of the support
        assert len(ours) > 500
        assert both.mean() > 0.99
        delta = np.abs(ours - theirs)[both]
        assert 0 < delta.mean() < NOISE


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0.8}, {"temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.2}],
    ids=str,
)
def test_replay_of_own_rollouts_is_bitwise(two: Engine, sampling: dict[str, float]) -> None:
    sampled = two.generate(**sampling)
    replayed = two.score("replay", sampled, **sampling)
    np.testing.assert_array_equal(logprobs_of(replayed), logprobs_of(sampled))


def test_every_rank_is_asked_for_its_proofs_and_weights(two: Engine) -> None:
    description = two.worker.description
    assert description.config["tensor_parallel_size"] == 2
    assert {name: s.in_force for name, s in description.settings.items()} == {
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": False,
        "async_scheduling": False,
        "lm_head_dtype": "float32",
    }
    assert "2 ranks asked" in description.settings["lm_head_dtype"].proof
    weights = description.model["weights"]
    assert {name.partition(":")[0] for name in weights} == {"rank 0", "rank 1"}
    assert weights["rank 0: model.norm.weight"] == weights["rank 1: model.norm.weight"]
    assert weights["rank 0: lm_head.weight"] != weights["rank 1: lm_head.weight"]


def test_a_probe_has_what_is_whole_on_every_rank(engine: Engine, two: Engine) -> None:
    sampled = engine.generate(temperature=1.0, max_tokens=4)[:2]
    asked = requests.evaluated(sampled)
    sampling = two.config.workload.sampling()
    one, both = (each.worker.probe(asked, noise=False, sampling=sampling) for each in (engine, two))
    assert "model.layers.3" in both.modules
    assert "model.layers.0.self_attn.qkv_proj" not in both.modules  # a rank has its own heads
    for name in ("model.embed_tokens", "model.layers.0", "model.layers.3"):
        scale = np.abs(one.modules[name]).mean()
        assert np.abs(one.modules[name] - both.modules[name]).mean() < 0.01 * scale


def updated(two: Engine, checkpoints: list[str], update: str | None = None) -> Any:
    return two.worker.weight_sync(
        [],
        checkpoints=checkpoints,
        update_after_tokens=1,
        max_tokens=1,
        sampling=two.config.workload.sampling(),
        mode="keep",
        clear_cache=two.family == "v1",
        update=update,
        python_path=str(HERE),
    )[1]


def ranks_of(before: WeightsInForce, after: WeightsInForce) -> set[str]:
    """The ranks on which a parameter changed."""
    then = before.parameters
    return {name.partition(":")[0] for name in then if then[name] != after.parameters[name]}


def test_an_update_reaches_both_ranks_and_can_be_undone(two: Engine, other: str) -> None:
    there = updated(two, [other])
    assert ranks_of(there.weights_before, there.weights_after) == {"rank 0", "rank 1"}
    back = updated(two, [str(ASSETS / "tiny")])
    assert back.weights_after == there.weights_before


def test_an_update_in_flight_reaches_both_ranks(two: Engine, other: str) -> None:
    flying = [
        {"sample_id": str(n), "prompt_token_ids": ids, "in_flight": True}
        for n, ids in enumerate(two.token_ids[:4])
    ]
    rows, found = two.worker.weight_sync(
        flying,
        checkpoints=[other],
        update_after_tokens=6,
        max_tokens=16,
        sampling=two.config.workload.sampling(),
        mode="keep",
        clear_cache=two.family == "v1",
        update=None,
        python_path=None,
    )
    assert [row.switches for row in rows] == [[6]] * 4
    assert [len(row.token_ids) for row in rows] == [16] * 4
    assert ranks_of(found.weights_before, found.weights_after) == {"rank 0", "rank 1"}
    updated(two, [str(ASSETS / "tiny")])


@pytest.mark.versions("0.18.1", "0.32.0")
def test_an_update_that_forgets_a_rank_shows(two: Engine, other: str) -> None:
    found = updated(two, [other], "sabotage:forgets_rank_1")
    assert ranks_of(found.weights_before, found.weights_after) == {"rank 0"}
    updated(two, [str(ASSETS / "tiny")])
