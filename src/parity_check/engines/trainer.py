"""A trainer's forward pass in a worker: torch and transformers, by prefill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

from parity_check.config.engines import TrainerTable
from parity_check.engines.base import (
    Asked,
    Capabilities,
    ConfiguredEngine,
    Interpreter,
    hub_variables,
)
from parity_check.engines.client import WorkerSpec
from parity_check.engines.devices import Wanted, wanted
from parity_check.engines.environment.environment import Environment, EnvironmentPlan
from parity_check.traces import checkpoint

CAN = Capabilities(noun="a trainer", evaluates_by="prefill", shows_modules=True, adapts=True)
HINTS = {
    "transformers_not_installed": "use an interpreter with torch and transformers",
    "setting_not_applied": "check `lm_head_dtype` in [{table}.transformers]",
    "out_of_memory": "lower tokens_per_batch in [{table}.transformers]",
    "adapter_not_applied": "check that the adapter was trained on this model",
    "load_failed": "check [{table}.transformers] and the model",
}
REPEATED_IN = 8
"""Samples per batch in the A/A run of a trainer that scores one sample at a time."""


@dataclass(frozen=True)
class ConfiguredTrainer(ConfiguredEngine[TrainerTable]):
    """`kind = "transformers"`."""

    can = CAN

    @property
    def headline(self) -> str:
        return self.table.source

    @property
    def interpreter(self) -> Interpreter:
        return Interpreter(self.table.python, self.table.requirement, needs_vllm=False)

    def check_start(self, model_path: str) -> None:
        super().check_start(model_path)
        checkpoint.check_files(model_path)

    def asked(self, plan: EnvironmentPlan) -> Iterator[Asked]:
        for name, value in self.table.transformers.model_dump(exclude_none=True).items():
            yield Asked("trainer", name, value, None)

    def wanted(self, environment: Environment | None) -> Wanted | None:
        """One, if its device has no number."""
        return wanted({}, self.table.env) if self.table.transformers.device == "cuda" else None

    def on(self, variables: Mapping[str, str]) -> Self:
        table = self.table.model_copy(update={"env": {**variables, **self.table.env}})
        return replace(self, table=table)

    def spec(self, model_path: str, environment: Environment | None) -> WorkerSpec:
        assert environment is not None
        own = self.table.transformers
        return WorkerSpec(
            role=self.role,
            label=f"transformers {environment.packages.get('transformers', '')}".rstrip(),
            can=CAN,
            backend="transformers",
            python=environment.python,
            environ={**hub_variables(self.config), **environment.environ, **self.table.env},
            engine_args={
                "model": model_path,
                "revision": self.config.model.revision,
                "seed": self.config.workload.seed,
                **own.model_dump(),
                "dtype": self.config.body_dtype(self.role),
            },
            family=None,
            settings=self.table.settings,
            platform="cuda" if own.device.startswith("cuda") else "cpu",
            adapter=self.adapter(),
            repeats_with={"samples_per_batch": 1 if own.samples_per_batch > 1 else REPEATED_IN},
            hints=HINTS,
        )
