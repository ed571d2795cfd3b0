"""A kind of engine that only this file knows, made as docs/contributing.md says, is compared.

It gives all tokens the same probability, by prefill alone; it cannot sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pytest

from helpers.support import SMALL, only_run
from parity_check.ablation.command import Picks, make_plan
from parity_check.cli import doctor, dry_run
from parity_check.comparison import command
from parity_check.config.engines import EngineConfig, EngineTable, Settings
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines.base import Capabilities, ConfiguredEngine, Progress
from parity_check.engines.environment.environment import Environment
from parity_check.engines.kinds import KINDS
from parity_check.engines.replies import Sampled, Scored
from parity_check.errors import ConfigError, ExitCode
from parity_check.locate import loaded
from parity_check.recording import command as recording
from parity_check.report.deliver import Delivery
from parity_check.traces.engine import EngineDescription, EngineSetting
from parity_check.traces.trace import Trace
from parity_check.weight_sync.command import run_scenario

# --- the table: config/engines.py ---------------------------------------------------------------


class UniformTable(EngineTable):
    kind: Literal["uniform"]
    vocabulary: int = 256
    settings: Settings = Settings()


# --- the file: engines/uniform.py ---------------------------------------------------------------

CAN = Capabilities(noun="a uniform model", evaluates_by="prefill", samples=False)


@dataclass(frozen=True)
class ConfiguredUniform(ConfiguredEngine[UniformTable]):
    can = CAN

    @property
    def headline(self) -> str:
        return f"a uniform model of {self.table.vocabulary} tokens"

    def spec(self, model_path: str, environment: Environment | None) -> UniformSpec:
        return UniformSpec(self.role, self.table)


@dataclass(frozen=True)
class UniformSpec:
    role: str
    table: UniformTable
    label: ClassVar[str] = "uniform"
    can: ClassVar[Capabilities] = CAN
    repeats_with: ClassVar[Mapping[str, int]] = {}
    pauses: ClassVar[None] = None
    devices: ClassVar[frozenset[str]] = frozenset()

    @property
    def settings(self) -> Settings:
        return self.table.settings

    def memory_share(self) -> float:
        return 0.0

    def claims(self) -> tuple[()]:
        return ()

    def start(
        self, work: Path, log: Path, stall_timeout_s: float, progress: Progress
    ) -> UniformEngine:
        return UniformEngine(self)


class UniformEngine:
    def __init__(self, spec: UniformSpec) -> None:
        self.spec = spec

    def load(self) -> EngineDescription:
        asked = self.spec.settings.model_dump()
        self.description = EngineDescription(
            label=self.spec.label,
            backend="uniform",
            version="1",
            family="uniform",
            evaluates_by=CAN.evaluates_by,
            device="none",
            packages={},
            settings={name: EngineSetting(v, v, "by definition") for name, v in asked.items()},
            config={},
            environment={},
        )
        return self.description

    def tokenize(self, prompts: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        return [list(prompt["text"].encode()) for prompt in prompts]

    def decode(self, ids: Sequence[int]) -> list[str]:
        return [chr(token) for token in ids]

    def generate(
        self, requests: Sequence[Mapping[str, Any]], *, max_tokens: int, **parameters: Any
    ) -> list[Sampled]:
        raise AssertionError("it cannot sample")

    def score(
        self, op: str, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> list[Scored]:
        assert op == "rescore"
        value = -math.log(self.spec.table.vocabulary)
        return [
            Scored(
                sample_id=request["sample_id"],
                logprobs=[value] * len(request["completion_token_ids"]),
                top_token_ids=[],
                top_logprobs=[],
            )
            for request in requests
        ]

    def forget(self) -> None: ...
    def close(self) -> None: ...
    def kill(self) -> None: ...


# --- what follows from the two ------------------------------------------------------------------


class WithUniform(Config):
    candidate: UniformTable


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WithUniform:
    monkeypatch.setitem(KINDS, "uniform", ConfiguredUniform)
    return WithUniform.model_validate(
        {
            "reference": {"kind": "fake"},
            "candidate": {"kind": "uniform"},
            "workload": {**SMALL, "num_prompts": 12, "repeats": 1, "sampled_by": "reference"},
            "run": {"out": str(tmp_path / "runs")},
        }
    )


def test_it_is_compared(config: WithUniform, tmp_path: Path) -> None:
    assert command.compare(config, Delivery(), Console(progress=False), loaded) is ExitCode.DRIFT
    run = only_run(tmp_path)
    trace = Trace(run / "reference-replayed-by-candidate.parquet")
    assert trace.header.logprob_path == "prefill"
    assert trace.header.engine.backend == "uniform"
    values = [value for sample in trace.samples() for value in sample.logprobs]
    assert values == pytest.approx([-math.log(256)] * trace.header.tokens)
    assert (run / "candidate-repeat-1.parquet").is_file()


def test_it_is_not_asked_to_sample(config: WithUniform, tmp_path: Path) -> None:
    workload = config.workload.model_copy(update={"sampled_by": "both"})
    both = config.model_copy(update={"workload": workload})
    with pytest.raises(ConfigError, match="the candidate is a uniform model, which cannot sample"):
        command.compare(both, Delivery(), Console(), loaded)
    with pytest.raises(ConfigError, match="cannot sample"):
        recording.record(config, "candidate", tmp_path / "t.parquet", Console())
    assert not (tmp_path / "runs").exists()


def test_what_it_cannot_do_is_refused_in_its_own_words(
    config: WithUniform, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="decode, which a uniform model cannot do"):
        make_plan(config, Picks())
    with pytest.raises(
        ConfigError, match="is a uniform model, whose weights parity-check cannot update"
    ):
        run_scenario(config, ("candidate",), Console())
    dry_run.run(config, Console(), lambda: None)
    assert "candidate: a uniform model of 256 tokens" in capsys.readouterr().err
    assert doctor.run(config, Console()) is ExitCode.PARITY
    assert "candidate  a uniform model of 256 tokens" in capsys.readouterr().out


def test_every_kind_has_a_table_and_a_file() -> None:
    union, _ = get_args(EngineConfig)
    tables = [get_args(member)[0] for member in get_args(union)]
    kinds = [get_args(table.model_fields["kind"].annotation)[0] for table in tables]
    assert kinds == list(KINDS)
