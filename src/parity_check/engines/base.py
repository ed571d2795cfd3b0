"""What an engine is to everything else, and what it takes to start one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from packaging.version import Version

from parity_check.config.engines import EngineConfig, Settings
from parity_check.config.models import ROLES, Config
from parity_check.engines import settings as parity_settings
from parity_check.engines.environment.environment import Environment
from parity_check.engines.replies import Sampled, Scored

TRAINER = "transformers"
"""The backend that scores by prefill alone."""
WORKER = Path(__file__).parent / "worker"
ENDPOINT = "endpoint"

Progress = Callable[[str, int, int | None], None]
"""Called with (operation, done, total) while an operation runs; total None is not known."""


class Spec(Protocol):
    """What is known of an engine before it is started."""

    @property
    def role(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def settings(self) -> Settings: ...
    def shares_device_with(self, other: Spec) -> bool: ...
    def memory_share(self) -> float: ...


class Engine(Protocol):
    """A started engine, wherever it runs. One operation at a time; `kill` from any thread."""

    description: dict[str, Any]

    @property
    def spec(self) -> Spec: ...
    def load(self) -> dict[str, Any]: ...
    def tokenize(self, prompts: Sequence[Mapping[str, Any]]) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int]) -> list[str]: ...
    def generate(
        self, requests: Sequence[Mapping[str, Any]], *, max_tokens: int, **parameters: Any
    ) -> list[Sampled]: ...
    def score(
        self, op: str, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> list[Scored]: ...
    def forget(self) -> None: ...
    def close(self) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One engine, ready to be started: its interpreter, variables and arguments."""

    role: str
    label: str
    backend: str
    python: Path
    environ: Mapping[str, str]
    engine_args: Mapping[str, Any]
    family: str | None
    settings: Settings
    platform: str
    version: Version | None = None
    """Of vLLM; a fake engine has none."""

    def shares_device_with(self, other: Spec) -> bool:
        """Whether both would run on the same accelerator."""
        if not isinstance(other, EngineSpec):
            return False
        if self.platform != "cuda" or other.platform != "cuda":
            return False
        mine, theirs = self._visible_devices(), other._visible_devices()
        return mine is None or theirs is None or bool(mine & theirs)

    @property
    def table(self) -> str:
        """The engine's table in the configuration."""
        return self.role if self.role in ROLES else f"engines.{self.role}"

    def memory_share(self) -> float:
        """The share of the device's memory that the engine will take (vLLM's default is 0.9)."""
        return float(self.engine_args.get("gpu_memory_utilization", 0.9))

    def _visible_devices(self) -> set[str] | None:
        listed = self.environ.get("CUDA_VISIBLE_DEVICES")
        return None if listed is None else {device.strip() for device in listed.split(",")}


def engine_spec(role: str, config: Config, model_path: str, environment: Environment) -> EngineSpec:
    """Put together what the configuration, the recipe and the parity settings ask for.

    The user's `engine_args` and `env` win over everything else.
    """
    engine = config.engine(role)
    if engine.kind == "fake":
        return EngineSpec(
            role=role,
            label="fake engine",
            backend="fake",
            python=environment.python,
            environ=dict(engine.env),
            engine_args={"model": model_path, "seed": config.workload.seed, **engine.engine_args},
            family=engine.family,
            settings=engine.settings,
            platform="cpu",
        )
    if engine.kind == "transformers":
        return _trainer_spec(role, config, model_path, environment)
    version = Version(environment.packages["vllm"])
    return EngineSpec(
        role=role,
        label=f"{environment.distribution or 'vllm'} {version}",
        backend="vllm",
        python=environment.python,
        environ={
            **_hub_variables(config),
            **environment.environ,
            **parity_settings.environment_variables(engine.settings, version, engine.family),
            **engine.env,
        },
        engine_args=_engine_args(config, engine, model_path, environment, version),
        family=engine.family,
        settings=engine.settings,
        platform=environment.platform,
        version=version,
    )


def _trainer_spec(
    role: str, config: Config, model_path: str, environment: Environment
) -> EngineSpec:
    engine = config.engine(role)
    on_gpu = engine.trainer.device.startswith("cuda")
    return EngineSpec(
        role=role,
        label=f"transformers {environment.packages.get('transformers', '?')}",
        backend=TRAINER,
        python=environment.python,
        environ={**_hub_variables(config), **environment.environ, **engine.env},
        engine_args={
            "model": model_path,
            "revision": config.model.revision,
            "seed": config.workload.seed,
            **engine.trainer.model_dump(),
            "dtype": config.body_dtype(role),
        },
        family=None,
        settings=engine.parity_settings(),
        platform="cuda" if on_gpu else "cpu",
    )


def _engine_args(
    config: Config,
    engine: EngineConfig,
    model_path: str,
    environment: Environment,
    version: Version,
) -> dict[str, Any]:
    ours = parity_settings.engine_arguments(engine.settings, version)
    theirs: dict[str, Any] = dict(engine.engine_args)
    overrides = ours.pop("hf_overrides", {}) | (theirs.pop("hf_overrides", None) or {})
    arguments: dict[str, Any] = {
        "model": model_path,
        "dtype": config.model.dtype,
        "seed": config.workload.seed,
        # A checkpoint's generation_config.json must not change the sampling unasked.
        "generation_config": "vllm",
        "max_logprobs": 20,
        "worker_extension_cls": parity_settings.EXTENSION,
        **({"revision": config.model.revision} if config.model.revision else {}),
        **environment.engine_args,
        **ours,
        **theirs,
    }
    if overrides:
        arguments["hf_overrides"] = overrides
    return arguments


def _hub_variables(config: Config) -> dict[str, str]:
    """Offline, unless the configuration names a hub model."""
    if config.model.revision:
        return {}
    return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
