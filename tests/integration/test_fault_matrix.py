"""The fault matrix's edited traces, on fake engines: each fault is named, a clean pair is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from faults import verdicts
from faults.cases import CLEAN, FAULTS, Case
from faults.record import Recording
from parity_check.config.load import parse_config
from parity_check.config.models import ROLES, Config, Role
from parity_check.engines.client import WorkerEngine
from parity_check.engines.kinds import configured_engine
from parity_check.traces.prompts import read_prompts

PROMPTS = read_prompts("bundled:prompts")[:96:4]
BY_NAME = {case.name: case for case in (*FAULTS, *CLEAN)}


def config_of(case: Case) -> Config:
    return parse_config(
        {
            **{role: {"kind": "fake"} for role in ROLES},
            "workload": {"samples_per_prompt": 1, "max_tokens": 24, **case.workload},
        },
        case.name,
    )


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[Role, WorkerEngine]]:
    home = tmp_path_factory.mktemp("fake-engines")
    made: dict[Role, WorkerEngine] = {}
    for role in ROLES:
        spec = configured_engine(role, config_of(BY_NAME["clean-t-1"])).spec("fake", None)
        made[role] = WorkerEngine(spec, home / role, home / f"{role}.log", 60, lambda *_: None)
        made[role].load()
    yield made
    for worker in made.values():
        worker.close()


@pytest.mark.parametrize(
    "name",
    [
        *("off-by-one", "zero-tails", "bad-rows", "duplicated-top", "temperature"),
        *("clean-t-1", "clean-t-0.6"),
    ],
)
def test_named(engines: Mapping[Role, WorkerEngine], tmp_path: Path, name: str) -> None:
    case, run = BY_NAME[name], tmp_path / name
    Recording(case, config_of(case), engines, {"name": "fake"}, PROMPTS, run).make()
    outcome = verdicts.judge(case, run)
    assert outcome.right, outcome.findings
