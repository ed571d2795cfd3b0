"""A fake engine in a worker, without a model: for tests and to try a configuration."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from parity_check.config.engines import FakeTable, Placement
from parity_check.engines.base import Capabilities, ConfiguredEngine, Knobs
from parity_check.engines.client import WorkerSpec
from parity_check.engines.environment.environment import Environment
from parity_check.engines.pauses import Pauses
from parity_check.engines.placement.engine import PlacedSpec, on_a_cluster, placed
from parity_check.engines.vllm import HINTS

CAN = Capabilities(noun="a fake engine", evaluates_by="decode", updates_weights=True)


@dataclass(frozen=True)
class ConfiguredFake(ConfiguredEngine[FakeTable]):
    """`kind = "fake"`: it replaces vLLM and runs in parity-check's interpreter."""

    @property
    def can(self) -> Capabilities:
        return CAN if self.table.placement is None else on_a_cluster(CAN)

    @property
    def headline(self) -> str:
        return "fake engine, needs no environment"

    @property
    def placement(self) -> Placement | None:
        return self.table.placement

    @property
    def knobs(self) -> Knobs:
        return Knobs(self.table.settings.model_dump(), self.table.engine_args)

    def spec(self, model_path: str, environment: Environment | None) -> WorkerSpec | PlacedSpec:
        table = self.table
        worker = WorkerSpec(
            role=self.role,
            label="fake engine",
            can=CAN,
            backend="fake",
            python=Path(sys.executable),
            environ=table.env,
            engine_args={
                "model": model_path,
                "seed": self.config.workload.seed,
                **table.engine_args,
            },
            family=table.family,
            settings=table.settings,
            platform="cpu",
            pauses=Pauses("fake engine", table.family or "v1"),
            hints=HINTS,
        )
        return placed(worker, table.placement)
