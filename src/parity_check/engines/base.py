"""The interface of an engine: what it can do, how it starts, what it returns.

Each kind of engine has a `ConfiguredEngine`, which is known before an environment exists. It
returns a `Spec`, which starts the `Engine`. Code outside the file of a kind does not depend on the
kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from parity_check.config.engines import EngineTable, Placement, Settings
from parity_check.config.models import Config
from parity_check.engines.devices import Wanted
from parity_check.engines.environment import environment
from parity_check.engines.environment.environment import Environment, EnvironmentPlan
from parity_check.engines.environment.provision import Say
from parity_check.engines.gpus import Gpu
from parity_check.engines.pauses import Pauses
from parity_check.engines.replies import Sampled, Scored
from parity_check.engines.settings import Way
from parity_check.errors import ConfigError, EngineEnvironmentError
from parity_check.traces import checkpoint
from parity_check.traces.adapter import MERGE, Adapter, read_adapter
from parity_check.traces.engine import EngineDescription, EvaluatesBy

T = TypeVar("T", bound=EngineTable)
Rows = list[dict[str, Any]]


class Progress(Protocol):
    """Called while an operation runs."""

    def __call__(self, operation: str, done: int, total: int | None, tokens: int = 0, /) -> None:
        """`total` is None if unknown; `tokens` are those of the samples that are done."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What every engine of a kind can do."""

    noun: str
    """The kind in a sentence: `the candidate is an endpoint`."""
    evaluates_by: EvaluatesBy
    """How it computes the logprobs of given tokens: one per step, or all at once."""
    samples: bool = True
    repeats: bool = True
    """Whether it can replay tokens, for the A/A floor."""
    updates_weights: bool = False
    """Whether its weights can be updated while requests are in flight."""
    shows_modules: bool = False
    """Whether it can be probed: what every module of its model puts out."""
    adapts: bool = False
    """Whether it can load a LoRA adapter."""
    shows_noise: bool = False
    """Whether a probe can add rounding errors: the noise that a reference is asked for."""


class Spec(Protocol):
    """What is known about an engine before it starts."""

    @property
    def role(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def can(self) -> Capabilities: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def repeats_with(self) -> Mapping[str, int]:
        """Parameters of `rescore` that change the batch shape in an A/A run, for a trainer.

        Every A/A run also changes batch order and composition.
        """

    @property
    def pauses(self) -> Pauses | None:
        """How it can be paused for a weight update; None if it cannot."""

    @property
    def devices(self) -> frozenset[str] | None:
        """The accelerators that it will use; None if it could be any."""

    def memory_share(self) -> float:
        """The share of device memory that it will use."""

    def claims(self) -> tuple[Gpu, ...] | None:
        """The GPUs whose share must be free before it starts, as they are now; None if unknown."""

    def start(self, work: Path, log: Path, stall_timeout_s: float, progress: Progress) -> Engine:
        """Start it with its files in `work`, without `load`. Raises EngineError."""


class Engine(Protocol):
    """A started engine. One operation at a time; `kill` may be called from any thread."""

    description: EngineDescription
    """The engine as loaded."""

    @property
    def spec(self) -> Spec: ...
    def load(self) -> EngineDescription: ...
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


class Interpreter(NamedTuple):
    """The interpreter of an engine: exactly one of `python` and `requirement` is set."""

    python: str | None
    requirement: str | None
    needs_vllm: bool


class Asked(NamedTuple):
    """One value that a configuration requests."""

    noun: str
    name: str
    value: Any
    way: Way | None
    """How the engine's version applies it; None if unknown, or if it is passed on unchanged."""

    @property
    def refusal(self) -> str | None:
        """Why the engine cannot do it; None if it can, as far as is known before it starts."""
        if self.way is None or self.way.supports(self.value):
            return None
        value = str(self.value).lower() if isinstance(self.value, bool) else self.value
        return f"{self.name} = {value} is not supported: {self.way.how}"


class Knobs(NamedTuple):
    """What `ablate` can change when it restarts an engine."""

    settings: Mapping[str, str | bool]
    engine_args: Mapping[str, Any]


@dataclass(frozen=True)
class ConfiguredEngine(ABC, Generic[T]):
    """One engine of a configuration, before it is provisioned or started."""

    role: str
    config: Config
    table: T

    @property
    @abstractmethod
    def can(self) -> Capabilities:
        """What it can do as configured; a class attribute where that is the same for all."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The engine in one line."""

    @abstractmethod
    def spec(self, model_path: str, environment: Environment | None) -> Spec:
        """How to start it; `environment` comes from `resolve`. Raises ConfigError."""

    @property
    def interpreter(self) -> Interpreter | None:
        """The interpreter that it needs; None if it needs none."""
        return None

    @property
    def knobs(self) -> Knobs | None:
        """What `ablate` can change; None if the engine cannot be restarted with other values."""
        return None

    @property
    def placement(self) -> Placement | None:
        """The cluster that it runs on; None if it runs on this machine, or elsewhere by itself."""
        return None

    def facts(self) -> Iterator[tuple[str, str]]:
        """Further lines for `doctor`, in addition to its interpreter."""
        yield from ()

    def asked(self, plan: EnvironmentPlan) -> Iterator[Asked]:
        """The requested values, and how the engine applies them."""
        yield from ()

    def way(self, setting: str, plan: EnvironmentPlan) -> Way | None:
        """How it applies a parity setting; None if unknown."""
        return None

    def check_sampling(self) -> None:
        """Reject an engine that cannot sample, before it starts. Raises ConfigError."""
        if not self.can.samples:
            raise ConfigError(
                f"the {self.role} is {self.can.noun}, which cannot sample",
                hint="let the other engine sample: workload.sampled_by",
            )

    def check_evaluation(self, stated: Mapping[str, Any]) -> None:
        """Reject tokens that it cannot evaluate, before it starts. Raises ConfigError.

        `stated` has the sampling parameters in their trace; the rest comes from the configuration.
        """

    def check_operation(self, operation: str, stated: Mapping[str, Any]) -> None:
        """`check_evaluation` for one operation, `replay` or `rescore`. Raises ConfigError."""
        if operation == "replay" and self.can.evaluates_by == "prefill":
            raise ConfigError(
                f"the {self.role} is {self.can.noun}, which cannot decode given tokens",
                hint="score them by prefill: --path prefill",
            )
        self.check_evaluation(stated)

    def adapter(self) -> Adapter | None:
        """The LoRA adapter that it is to load. Raises ConfigError and InputError."""
        path = self.config.model.lora
        if path is None:
            return None
        if not self.can.adapts:
            raise ConfigError(
                f"model.lora: the {self.role} is {self.can.noun}, which loads no adapter for "
                "parity-check",
                hint=f"{MERGE}: of every engine, and of the server",
            )
        return read_adapter(path, checkpoint.locate_model(self.config.model))

    def check_start(self, model_path: str) -> None:
        """Reject an engine that cannot start here, before its environment is installed.

        Raises ConfigError, InputError and EngineEnvironmentError.
        """
        self.adapter()

    def check_settings(self) -> None:
        """Reject what a version cannot do, before it is installed.

        An interpreter is asked when it starts. Raises ConfigError and EngineEnvironmentError.
        """
        needed = self.interpreter
        plan = None if needed is None or needed.requirement is None else self.plan()
        for each in () if plan is None else self.asked(plan):
            if each.refusal is not None:
                raise EngineEnvironmentError(
                    f"{self.role}: {each.refusal}",
                    hint=f'request a supported value, or write "default": '
                    f"--set {self.role}.settings.{each.name}=default",
                )

    def wanted(self, environment: Environment | None) -> Wanted | None:
        """The GPUs of this machine that it takes; None if it takes none, or chooses by itself.

        `environment` is None where it is not installed yet.
        """
        return None

    def on(self, variables: Mapping[str, str]) -> Self:
        """The engine with further variables, which show it its GPUs; of one that `wanted` some."""
        return self

    def memory(self, model_path: str) -> str | None:
        """The device memory that it will need, in one line; None if it is not known."""
        return None

    # --- its environment ----------------------------------------------------------------------

    def plan(self) -> EnvironmentPlan | None:
        """What `resolve` would find or provision. Installs nothing."""
        needed = self.interpreter
        if needed is None:
            return None
        return environment.plan(cache=environment.default_cache(), **needed._asdict())

    def resolve(self, say: Say) -> Environment | None:
        """Find or provision its environment; `say` receives short status lines.

        Raises ConfigError and EngineEnvironmentError.
        """
        needed = self.interpreter
        if needed is None:
            return None
        return environment.resolve(cache=environment.default_cache(), say=say, **needed._asdict())

    def mend(self, damaged: Environment, say: Say) -> Environment | None:
        """Rebuild what no longer works in an environment; None if nothing can be rebuilt.

        Raises EngineEnvironmentError.
        """
        needed = self.interpreter
        if needed is None or needed.requirement is None:
            return None
        return environment.mend(needed.requirement, damaged, environment.default_cache(), say)

    def usable(self, plan: EnvironmentPlan) -> bool:
        """Whether it can run as configured, as far as is known before it starts."""
        return plan.state in ("ready", "to provision") and all(
            each.refusal is None for each in self.asked(plan)
        )


def hub_variables(config: Config) -> dict[str, str]:
    """Offline unless the configuration names a hub model."""
    if config.model.revision:
        return {}
    return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
