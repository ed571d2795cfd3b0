"""Faults on real engines, each named from one run; an engine against itself has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.support import Engine
from faults import verdicts
from faults.cases import CLEAN, FAULTS, PARITY, Case
from faults.record import WORKLOAD, Recording
from parity_check.config.load import parse_config
from parity_check.config.models import Config

BY_NAME = {case.name: case for case in (*FAULTS, *CLEAN)}


def config_of(case: Case, engine: Engine) -> Config:
    table = engine.config.reference.model_dump(exclude={"settings"}, exclude_none=True)
    role = {**table, "settings": PARITY}
    workload = {**WORKLOAD, **case.workload}
    return parse_config({"reference": role, "candidate": role, "workload": workload}, case.name)


# Both roles are the one engine, started with all four settings right.
@pytest.mark.parametrize("engine", ["0.8.5", "0.18.1"], indirect=True)
@pytest.mark.parametrize("name", ["temperature", "top-p", "presence-penalty", "clean-t-0.6"])
def test_named(engine: Engine, tmp_path: Path, name: str) -> None:
    case, run = BY_NAME[name], tmp_path / name
    engines = {"reference": engine.worker, "candidate": engine.worker}
    model = {"name": "tiny"}
    Recording(case, config_of(case, engine), engines, model, engine.prompts, run).make()
    outcome = verdicts.judge(case, run)
    assert outcome.right, outcome.findings
