"""In-flight updates on the three real versions: every check finds what it is for, and only that.

Three starts a version: one engine goes through all scenarios, its own weights put back before
each; one that was started with A and one with B replay all of their tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engines.support import HERE, VERSIONS, make_config, make_spec
from helpers.checkpoints import perturbed
from parity_check.config.models import Config, WeightSync
from parity_check.engines.client import WorkerEngine
from parity_check.errors import EngineError
from parity_check.recording import requests
from parity_check.traces.prompts import ASSETS, read_prompts
from parity_check.weight_sync.checks import Check, reference_analogue
from parity_check.weight_sync.command import engine_run
from parity_check.weight_sync.observed import EngineRun
from parity_check.weight_sync.scenario import (
    Cold,
    Planned,
    Recording,
    plan_requests,
    record_updates,
    replay,
)
from parity_check.weight_sync.timeline import EngineResult, judge, timeline

A = str(ASSETS / "tiny")
TOKENS, AFTER = 24, 8
LIMIT, LEVEL = 1e-3, 0.95
CACHING = {"0.8.5": False, "0.18.1": True, "0.32.0": False}
KEEP = {
    "keep": {"mode": "keep", "clear_cache": False},
    "keep, clear": {"mode": "keep", "clear_cache": True},
}
ALL_MODES = {
    **KEEP,
    "wait": {"mode": "wait", "clear_cache": True},
    "abort": {"mode": "abort", "clear_cache": True},
}
SABOTAGE = {
    name: {"mode": "keep", "clear_cache": True, "update": f"sabotage:{name}"}
    for name in (
        "skips_one_parameter",
        "does_nothing",
        "loads_into_a_copy",
        "swallows_its_failure",
        "keeps_its_float32_head",  # stays: the last but the one that leaves the engine paused
    )
}
SCENARIOS = {
    "0.8.5": {"keep": KEEP["keep"]},
    "0.18.1": {
        **ALL_MODES,
        "wait, not cleared": {"mode": "wait", "clear_cache": False},
        "the guide's": {**KEEP["keep, clear"], "update": "my_updates:receive_weight_update"},
        "refused reset": {"mode": "keep", "clear_cache": True, "update": "refused_reset:load"},
        **SABOTAGE,
    },
    "0.32.0": {**ALL_MODES, "two updates": {**KEEP["keep"], "weights": 2}},
}


class Outcome(NamedTuple):
    """A scenario as one engine ran it, and how it was judged."""

    run: EngineRun
    result: EngineResult
    checks: tuple[Check, ...]


class Fleet(NamedTuple):
    """The three engines of a version, and the requests that all scenarios put to them."""

    subject: WorkerEngine
    cold: tuple[WorkerEngine, WorkerEngine]
    plan: list[Planned]
    checkpoints: list[str]


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """B, as far from A as many updates."""
    return str(perturbed(tmp_path_factory.mktemp("checkpoint") / "other", 0.3))


def configured(version: str, checkpoints: Sequence[str], **settings: Any) -> Config:
    config = make_config(version)
    count = settings.pop("weights", 1)
    sync = WeightSync(
        weights=list(checkpoints[:count]),
        update_after_tokens=AFTER,
        python_path=settings.pop("python_path", str(HERE)),
        **settings,
    )
    workload = config.workload.model_copy(update={"max_tokens": TOKENS, "temperature": 0.8})
    return config.model_copy(update={"weight_sync": sync, "workload": workload})


@pytest.fixture(scope="module", params=VERSIONS)
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, other: str
) -> Iterator[tuple[str, Fleet]]:
    version: str = request.param
    home = tmp_path_factory.mktemp(f"fleet-{version}")
    cold = make_spec(version)
    specs = {
        "subject": make_spec(version, settings={"enable_prefix_caching": CACHING[version]}),
        "a": cold,
        "b": replace(cold, engine_args={**cold.engine_args, "model": other}),
    }
    with ExitStack() as stack:
        subject, a, b = (
            stack.enter_context(
                WorkerEngine(spec, home / name, home / f"{name}.log", 300, lambda *_: None)
            )
            for name, spec in specs.items()
        )
        for engine in (subject, a, b):
            engine.load()
        prompts = read_prompts("bundled:prompts")
        plan = plan_requests(prompts, requests.tokenize(subject, prompts), 8)
        yield version, Fleet(subject, (a, b), plan, [other, A])


@pytest.fixture(scope="module")
def outcomes(
    fleet: tuple[str, Fleet], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Outcome]]:
    version, engines = fleet
    beside = {"the guide's": {"python_path": the_guides_update(tmp_path_factory.mktemp("guide"))}}
    configs = {
        name: configured(version, engines.checkpoints, **settings, **beside.get(name, {}))
        for name, settings in SCENARIOS[version].items()
    }
    recordings: dict[str, Recording] = {}
    for name, config in configs.items():
        put_back(engines.subject, config)
        recordings[name] = record_updates(engines.plan, config, loaded(config), engines.subject)
    found = {}
    for name, config in configs.items():
        colds = replays(engines, config, recordings[name])
        way = (config.weight_sync.mode, config.weight_sync.clear_cache)
        run = engine_run("reference", way, engines.plan, TOKENS, recordings[name], colds)
        found[name] = Outcome(run, *judge(run, LIMIT, LEVEL))
    return version, found


def the_guides_update(directory: Path) -> str:
    """Where my_updates.py is, word for word as the guide has it."""
    guide = HERE.parents[1] / "docs" / "guides" / "weight-updates.md"
    [module] = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    (directory / "my_updates.py").write_text(module)
    return str(directory)


def loaded(config: Config) -> list[str]:
    assert config.weight_sync is not None
    return config.weight_sync.weights


def put_back(engine: WorkerEngine, config: Config) -> None:
    """A again, and an empty cache where there is one: a scenario without any request."""
    clear = engine.description.family == "v1"
    engine.weight_sync(
        [],
        checkpoints=[A],
        update_after_tokens=1,
        max_tokens=1,
        sampling=config.workload.sampling(),
        mode="keep",
        clear_cache=clear,
        update=None,
        python_path=None,
    )


def replays(engines: Fleet, config: Config, recording: Recording) -> list[Cold]:
    a, b = engines.cold
    kept = loaded(config) if config.weight_sync.mode == "keep" else []
    colds = [
        replay(engines.plan, config, kept, recording, a),
        replay(engines.plan, config, [], recording, b),
    ]
    put_back(a, config)
    return [*colds, colds[0]][: len(loaded(config)) + 1]


def check(outcome: Outcome, name: str) -> Check:
    return next(check for check in outcome.checks if check.name == name)


def verdicts(outcome: Outcome) -> dict[str, str]:
    return {check.name: check.verdict for check in outcome.checks}


def expected(**others: str) -> dict[str, str]:
    names = ("weights_arrived", "lm_head_refreshed", "no_stale_prefix", "in_flight_as_declared")
    return {**dict.fromkeys((*names, "nothing_lost"), "parity"), **others}


def test_every_mode_does_what_it_declares(outcomes: tuple[str, dict[str, Outcome]]) -> None:
    version, found = outcomes
    measured = {name: outcome.result.measured for name, outcome in found.items()}
    wanted = {
        "keep": "kept",
        "keep, clear": "recomputed",
        "wait": "drained",
        "abort": "aborted",
        "wait, not cleared": "drained",
        "two updates": "kept",
        "the guide's": "recomputed",
    }
    modes = [name for name in wanted if name in found]
    assert {name: measured[name] for name in modes} == {name: wanted[name] for name in modes}
    for name in modes:
        stale = CACHING[version] and not found[name].run.clear_cache
        assert verdicts(found[name]) == expected(no_stale_prefix="drift" if stale else "parity")


def test_kept_kv_is_that_of_the_old_weights(outcomes: tuple[str, dict[str, Outcome]]) -> None:
    """Bitwise, and far from recomputing it; which is what clearing does, bitwise too."""
    _, found = outcomes
    for name, exact, apart in (("keep", "to_kept", 3), ("keep, clear", "to_cold", 3)):
        if name not in found:
            continue
        run = found[name].run
        steps = [s for s in timeline(run) if s.phase == "in_flight" and s.version == 1]
        assert len(steps) == TOKENS - AFTER
        to_kept = sum(step.to_kept or 0.0 for step in steps)
        to_cold = sum(step.to_cold[1] for step in steps)
        near, far = (to_kept, to_cold) if exact == "to_kept" else (to_cold, to_kept)
        assert near < 1e-5
        assert far > len(steps) * apart * LIMIT
        assert {request.switches for request in run.of("in_flight")} == {(AFTER,)}


@pytest.mark.versions("0.32.0")
def test_two_updates_are_two_versions(outcomes: tuple[str, dict[str, Outcome]]) -> None:
    _, found = outcomes
    run, result, _ = found["two updates"]
    assert {request.switches for request in run.of("in_flight")} == {(AFTER, 2 * AFTER)}
    assert result.lags == pytest.approx((1 / 3, 1 / 3, 1 / 3))


@pytest.mark.versions("0.18.1")
def test_an_uncleared_prefix_cache_is_found(outcomes: tuple[str, dict[str, Outcome]]) -> None:
    _, found = outcomes
    for name in ("keep", "wait, not cleared"):
        stale = check(found[name], "no_stale_prefix")
        assert stale.value is not None
        assert stale.value > 3 * LIMIT
        assert "came from the prefix cache" in stale.reason
        assert "clear_cache = true" in stale.advice


@pytest.mark.versions("0.18.1")
def test_sabotage_is_named(outcomes: tuple[str, dict[str, Outcome]]) -> None:
    _, found = outcomes
    unsettled = {"no_stale_prefix": "inconclusive", "in_flight_as_declared": "inconclusive"}
    nothing = {"weights_arrived": "drift", "lm_head_refreshed": "drift", **unsettled}

    assert verdicts(found["skips_one_parameter"]) == expected(weights_arrived="drift", **unsettled)
    skipped = check(found["skips_one_parameter"], "weights_arrived")
    assert "1 of 44 parameters still have the old weights" in skipped.reason
    assert "model.layers.1.mlp.down_proj.weight" in skipped.reason

    for name in ("does_nothing", "loads_into_a_copy"):
        assert verdicts(found[name]) == expected(**nothing)
        reason = check(found[name], "weights_arrived").reason
        assert "none of the 27 parameters that should change has changed" in reason

    half = check(found["swallows_its_failure"], "weights_arrived")
    assert half.verdict == "drift"
    assert "still have the old weights" in half.reason

    head = found["keeps_its_float32_head"]
    assert verdicts(head)["lm_head_refreshed"] == "drift"
    assert head.result.unchanged == head.result.wrong == ()
    assert "float32" in check(head, "lm_head_refreshed").reason

    refused = found["refused reset"]
    assert verdicts(refused) == expected(in_flight_as_declared="drift", no_stale_prefix="drift")
    assert "the cache reset was refused" in check(refused, "in_flight_as_declared").reason
    assert refused.result.updates[0].cache_resets == (False,)
    assert refused.result.measured == "kept"


ACROSS: dict[tuple[str, str], EngineRun] = {}


def test_v1_is_the_analogue_of_v0_where_it_keeps(
    outcomes: tuple[str, dict[str, Outcome]],
) -> None:
    version, found = outcomes
    if version == "0.8.5":
        ACROSS["0.8.5", "keep"] = found["keep"].run
        return
    if not ACROSS:
        pytest.skip("0.8.5 was not run")
    reference = ACROSS["0.8.5", "keep"]
    for name in ALL_MODES:
        run, result, _ = found[name]
        candidate = replace(run, role="candidate")
        ways: dict[str, Any] = {"reference": "kept", "candidate": result.measured}
        analogue = reference_analogue(reference, candidate, ways)
        assert analogue.verdict == ("parity" if name == "keep" else "drift"), name


@pytest.mark.versions("0.18.1")
def test_an_update_that_fails_halfway_ends_the_run(fleet: tuple[str, Fleet]) -> None:
    """The last test of a version: it leaves its engine paused."""
    version, engines = fleet
    config = configured(version, engines.checkpoints, update="sabotage:fails_halfway")
    put_back(engines.subject, config)
    with pytest.raises(EngineError, match="the model is partially updated") as failed:
        record_updates(engines.plan, config, loaded(config), engines.subject)
    assert failed.value.kind == "update_failed"
