"""`vllm serve` as an engine, against the same engine in process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.served import Served, endpoint_engine, served
from engines.support import Engine, logprobs_of
from helpers.support import wait_for
from parity_check.config.engines import Settings
from parity_check.engines.endpoint.engine import EndpointEngine
from parity_check.errors import EngineError
from parity_check.recording import requests
from parity_check.traces.trace import Sample

LAST_BITS = 2e-5
"""Of a float32 logprob of size 10, in nats; measured up to 6e-6."""

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.parametrize("engine", ["0.18.1", "0.32.0"], indirect=True),
]


@pytest.fixture(scope="module")
def server(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(engine.version, tmp_path_factory.mktemp("serve")) as found:
        yield found


@pytest.fixture(scope="module")
def endpoint(
    engine: Engine, server: Served, tmp_path_factory: pytest.TempPathFactory
) -> EndpointEngine:
    found = endpoint_engine(engine.version, server.url, tmp_path_factory.mktemp("endpoint"))
    found.load()
    return found


def generate(endpoint: EndpointEngine, engine: Engine, **workload: Any) -> list[Sample]:
    config = engine.config.workload.model_copy(
        update={"samples_per_prompt": 1, "max_tokens": 40, **workload}
    )
    return requests.generate(endpoint, engine.prompts, engine.token_ids, config)


def test_what_the_server_proves_is_what_the_engine_in_process_does(
    engine: Engine, endpoint: EndpointEngine
) -> None:
    found = {name: setting.in_force for name, setting in endpoint.description.settings.items()}
    inside = {
        name: setting.in_force for name, setting in engine.worker.description.settings.items()
    }
    assert found == {**inside, "async_scheduling": "unknown"}
    assert endpoint.description.version == engine.worker.description.version
    assert endpoint.description.family == "v1"
    assert endpoint.description.prompt_logprobs.in_force == "raw"
    limit = "max_model_len"
    assert endpoint.description.config[limit] == engine.worker.description.config[limit]


def test_it_reads_and_writes_text_as_the_engine_does(
    engine: Engine, endpoint: EndpointEngine
) -> None:
    prompts = [
        {"prompt_id": "text", "text": "Hello there, 12 + 3 =", "messages": None},
        {"prompt_id": "chat", "text": None, "messages": [{"role": "user", "content": "hi"}]},
    ]
    assert endpoint.tokenize(prompts) == engine.worker.tokenize(prompts)
    ids = list(range(100, 300, 7))
    assert endpoint.decode(ids) == engine.worker.decode(ids)


@pytest.mark.parametrize("sampling", [{"temperature": 0.7}, {"temperature": 1.0, "top_k": 20}])
def test_what_it_samples_alone_is_replayed_to_the_bit(
    engine: Engine, server: Served, tmp_path: Path, sampling: dict[str, float]
) -> None:
    """One request at a time on both sides: nothing is left that could differ."""
    one_at_a_time = endpoint_engine(engine.version, server.url, tmp_path, concurrency=1)
    few = engine._replace(prompts=engine.prompts[::4], token_ids=engine.token_ids[::4])
    samples = generate(one_at_a_time, few, **sampling)
    replayed = [engine.score("replay", [sample], **sampling)[0] for sample in samples]
    assert len(logprobs_of(samples)) > 100
    np.testing.assert_array_equal(logprobs_of(samples), logprobs_of(replayed))
    for ours, theirs in zip(samples, replayed, strict=True):
        assert ours.top_logprobs == theirs.top_logprobs


def test_what_it_samples_in_company_is_replayed_to_the_last_bits(
    engine: Engine, endpoint: EndpointEngine
) -> None:
    """A server batches requests as they come; a float32 head sums one row otherwise than many."""
    samples = generate(endpoint, engine, temperature=0.7)
    replayed = engine.score("replay", samples, temperature=0.7)
    assert len(logprobs_of(samples)) > 300
    difference = np.abs(logprobs_of(samples) - logprobs_of(replayed))
    assert difference.max() < LAST_BITS
    assert (difference == 0).mean() > 0.5


def test_it_scores_what_the_engine_sampled_to_the_bit(
    engine: Engine, endpoint: EndpointEngine
) -> None:
    samples = engine.generate(temperature=1.0)
    sampling = engine.config.workload.model_copy(update={"temperature": 1.0}).sampling()
    scored = requests.score(endpoint, "rescore", samples, sampling, 5)
    np.testing.assert_array_equal(logprobs_of(samples), logprobs_of(scored))
    for ours, theirs in zip(samples, scored, strict=True):
        assert ours.top_logprobs == theirs.top_logprobs


def test_what_cannot_be_compared_is_refused(engine: Engine, endpoint: EndpointEngine) -> None:
    sampling = engine.config.workload.model_copy(update={"temperature": 0.7}).sampling()
    for operation, message in [
        ("replay", "cannot replay: a server can only sample"),
        ("rescore", "prompt logprobs, which do not include temperature"),
    ]:
        with pytest.raises(EngineError, match=message):
            requests.score(endpoint, operation, engine.generate(max_tokens=2), sampling, 5)


def test_what_the_server_refuses_is_passed_on(
    engine: Engine, server: Served, tmp_path: Path
) -> None:
    wrong = endpoint_engine(engine.version, server.url, tmp_path, model="other")
    with pytest.raises(EngineError, match="does not serve the model 'other'"):
        wrong.load()
    asked = Settings(enable_prefix_caching=True, async_scheduling="default")
    with pytest.raises(
        EngineError, match="enable_prefix_caching = true was requested, but false is"
    ):
        endpoint_engine(engine.version, server.url, tmp_path, asked).load()
    endpoint = endpoint_engine(engine.version, server.url, tmp_path)
    with pytest.raises(EngineError, match=r"answered 400 during generate for .*max_tokens=10000"):
        generate(endpoint, engine, max_tokens=10_000)


def test_a_server_that_is_killed(engine: Engine, server: Served, tmp_path: Path) -> None:
    """The last test of a version: the others need the server."""
    endpoint = endpoint_engine(engine.version, server.url, tmp_path, concurrency=2)
    part = tmp_path / "jobs" / "generate-1.jsonl.part"

    def kill() -> None:
        wait_for(lambda: part.exists() and part.read_bytes().count(b"\n") >= 2, "two rows")
        server.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(EngineError, match=r"(closed the connection|cannot be reached).*in a row"):
        generate(endpoint, engine, samples_per_prompt=20)
    killer.join()
    assert part.read_bytes().count(b"\n") >= 2
