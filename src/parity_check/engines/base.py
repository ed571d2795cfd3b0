"""What an engine is to everything else: what it can do, how it is started, what it answers.

A kind of engine is a `ConfiguredEngine`, what is known of one before anything is made for it, and
the `Spec` that it gives, which starts the `Engine`. Nothing outside a kind's own file asks which
kind an engine is of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from parity_check.config.engines import EngineTable, Settings
from parity_check.config.models import Config
from parity_check.engines.environment import environment
from parity_check.engines.environment.environment import Environment, EnvironmentPlan
from parity_check.engines.pauses import Pauses
from parity_check.engines.settings import Way
from parity_check.errors import ConfigError
from parity_check.traces.engine import EngineDescription, EvaluatesBy

T = TypeVar("T", bound=EngineTable)
Progress = Callable[[str, int, int | None], None]
"""Called with (operation, done, total) while an operation runs; total None is not known."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What every engine of a kind can do."""

    noun: str
    """The kind in a sentence: `the candidate is an endpoint`."""
    evaluates_by: EvaluatesBy
    """How it computes the logprobs of given tokens: one a step, or all at once."""
    samples: bool = True
    repeats: bool = True
    """Whether it can replay tokens, for the A/A floor."""
    updates_weights: bool = False
    """Whether its weights can be changed while requests are under way."""


class Spec(Protocol):
    """What is known of an engine before it is started."""

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
        """Parameters of `rescore` for another batch shape in an A/A run, as a trainer has.

        Every A/A run also has another batch order and composition.
        """

    @property
    def pauses(self) -> Pauses | None:
        """How it can be paused for a weight update; None where it cannot."""

    @property
    def devices(self) -> frozenset[str] | None:
        """The accelerators that it will run on; None where it may be any of them."""

    def memory_share(self) -> float:
        """The share of a device's memory that it will take."""

    def start(self, work: Path, log: Path, stall_timeout_s: float, progress: Progress) -> Engine:
        """Start it, with `work` for its files; `load` is still to be called. Raises EngineError."""


class Engine(Protocol):
    """A started engine, wherever it runs. One operation at a time; `kill` from any thread."""

    description: EngineDescription
    """Of the engine as it was loaded."""

    @property
    def spec(self) -> Spec: ...
    def load(self) -> EngineDescription: ...
    def tokenize(self, prompts: Sequence[Mapping[str, Any]]) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int]) -> list[str]: ...
    def sample(self, op: str, requests: Sequence[Mapping[str, Any]], **parameters: Any) -> Rows: ...
    def forget(self) -> None: ...
    def close(self) -> None: ...
    def kill(self) -> None: ...


class Interpreter(NamedTuple):
    """The interpreter that an engine runs in, as it is named or made: exactly one of the two."""

    python: str | None
    requirement: str | None
    needs_vllm: bool


class Asked(NamedTuple):
    """One thing that a configuration asks of an engine."""

    noun: str
    name: str
    value: Any
    way: Way | None
    """How its version takes the request; None where that is not known, or as it stands."""

    @property
    def honoured(self) -> bool:
        return self.way is None or self.way.honours(self.value)


class Knobs(NamedTuple):
    """What an engine can be restarted with otherwise."""

    settings: Mapping[str, str | bool]
    engine_args: Mapping[str, Any]


@dataclass(frozen=True)
class ConfiguredEngine(ABC, Generic[T]):
    """One engine of a configuration, before anything is made or started for it."""

    can: ClassVar[Capabilities]
    role: str
    config: Config
    table: T

    @property
    @abstractmethod
    def headline(self) -> str:
        """What it is, in one line."""

    @abstractmethod
    def spec(self, model_path: str, environment: Environment | None) -> Spec:
        """How to start it; `environment` is what `resolve` gave. Raises ConfigError."""

    @property
    def interpreter(self) -> Interpreter | None:
        """What it needs to have provisioned; None where that is nothing."""
        return None

    @property
    def knobs(self) -> Knobs | None:
        """What `ablate` may change of it; None where it cannot be restarted otherwise."""
        return None

    def facts(self) -> Iterator[tuple[str, str]]:
        """Further lines about it, beside what is known of its interpreter."""
        yield from ()

    def asked(self, plan: EnvironmentPlan) -> Iterator[Asked]:
        """What is asked of it, and how it takes each."""
        yield from ()

    def way(self, setting: str, plan: EnvironmentPlan) -> Way | None:
        """How it takes a request for a parity setting; None where that is not known."""
        return None

    def check_sampling(self) -> None:
        """Refuse in advance an engine that cannot sample. Raises ConfigError."""
        if not self.can.samples:
            raise ConfigError(
                f"the {self.role} is {self.can.noun}, which cannot sample",
                hint="let the other engine sample: workload.sampled_by",
            )

    def check_evaluation(self, stated: Mapping[str, Any]) -> None:
        """Refuse in advance tokens that cannot be evaluated. Raises ConfigError.

        `stated` is what their trace says of how they were sampled; the configuration says the rest.
        """

    def check_operation(self, operation: str, stated: Mapping[str, Any]) -> None:
        """The same for one operation, `replay` or `rescore`. Raises ConfigError."""
        if operation == "replay" and self.can.evaluates_by == "prefill":
            raise ConfigError(
                f"the {self.role} is {self.can.noun}, which cannot be made to decode given tokens",
                hint="score them by prefill: --path prefill",
            )
        self.check_evaluation(stated)

    # --- its environment ----------------------------------------------------------------------

    def plan(self) -> EnvironmentPlan | None:
        """What `resolve` would find or make, found out without installing anything."""
        needed = self.interpreter
        if needed is None:
            return None
        return environment.plan(cache=environment.default_cache(), **needed._asdict())

    def resolve(self, say: Callable[[str], None]) -> Environment | None:
        """Find or make what it needs; `say` receives short status lines.

        Raises ConfigError and EngineEnvironmentError.
        """
        needed = self.interpreter
        if needed is None:
            return None
        return environment.resolve(cache=environment.default_cache(), say=say, **needed._asdict())

    def usable(self, plan: EnvironmentPlan) -> bool:
        """Whether it can run as it is asked to, as far as that is known before a start."""
        return plan.state in ("ready", "to provision") and all(
            each.honoured for each in self.asked(plan)
        )


def hub_variables(config: Config) -> dict[str, str]:
    """Offline, unless the configuration names a hub model."""
    if config.model.revision:
        return {}
    return {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
