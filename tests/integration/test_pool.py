"""Engines side by side, by turns, and together on a shared device; through real workers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from parity_check.config.engines import Settings
from parity_check.config.models import ROLES, Role
from parity_check.engines.client import WorkerEngine, WorkerSpec
from parity_check.engines.fake import CAN
from parity_check.engines.pool import EnginePool
from parity_check.errors import EngineError


def spec(role: Role, platform: str = "cpu", devices: str | None = None, **args: Any) -> WorkerSpec:
    return WorkerSpec(
        role=role,
        label="fake engine",
        can=CAN,
        backend="fake",
        python=Path(sys.executable),
        environ={} if devices is None else {"CUDA_VISIBLE_DEVICES": devices},
        engine_args=args,
        family=None,
        settings=Settings(),
        platform=platform,
    )


def pool(specs: Mapping[Role, WorkerSpec], directory: Path) -> EnginePool:
    return EnginePool(specs, directory, directory, 30, lambda _: lambda *_: None)


def alive(engine: WorkerEngine) -> bool:
    return engine._process.poll() is None


def test_engines_on_one_device_run_by_turns(tmp_path: Path) -> None:
    seen: list[tuple[str, list[bool]]] = []
    started: list[WorkerEngine] = []

    def job(engine: WorkerEngine) -> None:
        if engine not in started:
            started.append(engine)
        seen.append((engine.spec.role, [alive(each) for each in started]))

    with pool({role: spec(role, "cuda") for role in ROLES}, tmp_path) as engines:
        assert not engines.side_by_side
        engines.run(dict.fromkeys(ROLES, job))
        engines.run(dict.fromkeys(ROLES, job))
    assert [role for role, _ in seen] == ["reference", "candidate", "candidate", "reference"]
    assert [sum(states) for _, states in seen] == [1, 1, 1, 1]
    assert len(started) == 3  # the candidate stayed loaded between its two turns
    assert not any(alive(each) for each in started)


def test_engines_whose_memory_fits_stay_loaded_together(tmp_path: Path) -> None:
    half = {role: spec(role, "cuda", gpu_memory_utilization=0.45) for role in ROLES}
    engines = pool(half, tmp_path)
    assert (engines.side_by_side, engines.resident) == (False, True)
    engines = pool({role: spec(role, "cuda") for role in ROLES}, tmp_path)
    assert (engines.side_by_side, engines.resident) == (False, False)


@pytest.mark.parametrize(
    ("reference", "candidate", "side_by_side"),
    [("0", "1", True), ("0,1", "1", False), (None, "1", False)],
)
def test_devices_are_told_apart_by_what_each_engine_sees(
    tmp_path: Path, reference: str | None, candidate: str, side_by_side: bool
) -> None:
    specs: dict[Role, WorkerSpec] = {
        "reference": spec("reference", "cuda", reference),
        "candidate": spec("candidate", "cuda", candidate),
    }
    assert pool(specs, tmp_path).side_by_side is side_by_side


def test_engines_without_a_device_run_side_by_side(tmp_path: Path) -> None:
    with pool({role: spec(role) for role in ROLES}, tmp_path) as engines:
        assert engines.side_by_side
        answers = engines.run(dict.fromkeys(ROLES, lambda engine: engine.decode([65, 66])))
    assert answers == {"reference": ["A", "B"], "candidate": ["A", "B"]}


def test_one_engine_is_exchanged_while_the_other_stays(tmp_path: Path) -> None:
    def itself(engine: WorkerEngine) -> WorkerEngine:
        return engine

    logs = tmp_path / "step"
    logs.mkdir()
    with pool({role: spec(role) for role in ROLES}, tmp_path) as engines:
        before = engines.run(dict.fromkeys(ROLES, itself))
        engines.exchange(spec("candidate", max_model_len=7), logs)
        assert [alive(before[role]) for role in ROLES] == [True, False]
        after = engines.run(dict.fromkeys(ROLES, itself))
        assert after["reference"] is before["reference"]
        assert after["candidate"].description.config == {"max_model_len": 7}
    assert (logs / "candidate.log").exists()


def test_an_engine_that_fails_alone_is_started_anew(tmp_path: Path) -> None:
    def decode(engine: WorkerEngine) -> WorkerEngine:
        engine.decode([65])
        return engine

    def tokenize(engine: WorkerEngine) -> None:
        engine.tokenize([{"prompt_id": "p", "text": "x", "messages": None}])

    fault = {"op": "tokenize", "how": "crash"}
    specs = {"reference": spec("reference"), "candidate": spec("candidate", fault=fault)}
    with pool(cast("Mapping[Role, WorkerSpec]", specs), tmp_path) as engines:
        before = engines.run(dict.fromkeys(ROLES, decode))
        with pytest.raises(EngineError, match="SIGKILL"):
            engines.run({"candidate": tokenize})
        after = engines.run(dict.fromkeys(ROLES, decode))
    assert after["reference"] is before["reference"]
    assert after["candidate"] is not before["candidate"]
