"""parity.toml as typed tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from parity_check.config.engines import EngineConfig, Table
from parity_check.errors import ConfigError

Role = Literal["reference", "candidate"]
ROLES: tuple[Role, Role] = ("reference", "candidate")
OTHER: Mapping[Role, Role] = {"reference": "candidate", "candidate": "reference"}
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
ENGINE_NAME = re.compile(r"[a-z][a-z0-9_-]*")
SHAPING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
"""The sampling parameters that shape the distribution."""


T = TypeVar("T", bound=Table)


class ModelConfig(Table):
    path: str = "bundled:tiny"
    """A directory, a hub name (then `revision` is needed), or `bundled:tiny`."""
    revision: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Always explicit: what `auto` means depends on the engine's transformers version."""


class Workload(Table):
    prompts: str = "bundled:prompts"
    """JSONL or Parquet with prompt | prompt_token_ids | messages, prompt_id?, prompt_group?"""
    num_prompts: Annotated[int, Field(ge=1)] | None = None
    """Use the first so many prompts; all when left out."""
    samples_per_prompt: Annotated[int, Field(ge=1)] = 2
    max_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1)] = -1
    """-1 is off in every version (0.8.5 refuses 0)."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    ignore_eos: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 5
    seed: int = 1234
    """Seeds each engine; requests carry no seed of their own (V1 on CPU dies of that)."""
    sampled_by: Literal["both", "reference", "candidate"] = "both"
    repeats: Annotated[int, Field(ge=0)] = 1
    """A/A runs of each engine, in another batch order and composition."""

    @model_validator(mode="after")
    def _top_k_off_is_minus_one(self) -> Self:
        if self.top_k == 0:
            raise ValueError("top_k: 0 is not accepted by every version, -1 is off")
        return self

    def sampling(self) -> dict[str, float | int]:
        """Every parameter that shapes the distribution, explicitly."""
        return {name: getattr(self, name) for name in SHAPING}

    def samplers(self) -> tuple[Role, ...]:
        """The engines that sample."""
        return ROLES if self.sampled_by == "both" else (self.sampled_by,)


class ObjectiveConfig(Table):
    """Whose clip rate is estimated; the others are in the JSON report."""

    kind: str = "grpo"
    logprobs: Literal["recompute", "bypass"] | None = None
    """Whether the loss recomputes its old logprobs with the trainer, or takes the rollout's."""
    epsilon_low: float | None = None
    epsilon_high: float | None = None
    positive_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of tokens with a positive advantage; an engine comparison cannot know it."""


class GatesConfig(BaseModel):
    """A profile, and any metric's own limit by its name, e.g. `k3_kl = 1e-3`."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, float] = Field(init=False)

    profile: str = "standard"

    def overrides(self) -> dict[str, float]:
        return dict(self.__pydantic_extra__ or {})


class StatsConfig(Table):
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    cluster_by: Annotated[str, Field(min_length=1)] = "prompt"
    """What is independent: `prompt`, `group` (the prompts of a prompt_group together), `sample`, or
    a column of the prompts; there a prompt without a value is independent of all others."""
    tail_threshold: Annotated[float, Field(gt=0)] = 1.0
    """tail_fraction counts tokens whose |Δ| is above this many nats."""


class WeightSync(Table):
    """What `weight-sync` does to an engine while requests are under way."""

    weights: list[str] = Field(default_factory=lambda: ["bundled:tiny-next"], min_length=1)
    """Checkpoints of the model's own shape, applied in order: directories of safetensors."""
    update_after_tokens: Annotated[int, Field(ge=1)] = 16
    """Tokens of every request in flight before the first update, and between two."""
    mode: Literal["keep", "wait", "abort"] = "keep"
    """How V1 is paused, as in `pause_generation`; V0 has its step boundary, which keeps."""
    clear_cache: bool = False
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Requests in flight, each with a prompt of its own; under 8 there are no intervals."""
    update: str | None = None
    """`module:function` of the engine's environment, called in place of the built-in loader."""
    python_path: str | None = None
    """Where `update` is imported from; the configuration file's own directory when left out."""
    limit: Annotated[float, Field(gt=0)] = 1e-3
    """Largest mean |Δ| to a replay by a cold engine, nats; judged by the interval."""

    @field_validator("update")
    @classmethod
    def _names_a_function(cls, name: str | None) -> str | None:
        if name is not None and not FUNCTION.fullmatch(name):
            raise ValueError("expected module:function")
        return name


class RunConfig(Table):
    out: str = "runs"
    """Each run gets a directory of its own in here."""
    stall_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """A worker without any sign of progress for so long is killed."""


class Judging(Table):
    """The part of a configuration that needs no engine: how numbers are judged."""

    objective: ObjectiveConfig = ObjectiveConfig()
    gates: GatesConfig = GatesConfig()
    stats: StatsConfig = StatsConfig()


class Config(Judging):
    """A whole parity.toml."""

    model: ModelConfig = ModelConfig()
    reference: EngineConfig
    candidate: EngineConfig
    engines: dict[str, EngineConfig] = Field(default_factory=dict)
    """Further engines by their names, as `[engines.trainer]`: a comparison of all of them."""
    workload: Workload = Workload()
    run: RunConfig = RunConfig()
    weight_sync: WeightSync | None = None
    """Read by `weight-sync` alone, which has defaults for all of it."""

    @field_validator("engines")
    @classmethod
    def _names(cls, engines: dict[str, EngineConfig]) -> dict[str, EngineConfig]:
        for name in engines:
            if name in ROLES:
                raise ValueError(f"`{name}` has a table of its own, [{name}]")
            if not ENGINE_NAME.fullmatch(name):
                raise ValueError(f"`{name}`: a name is lower-case letters, digits, - and _")
        return engines

    @property
    def names(self) -> tuple[str, ...]:
        """All engines: the two roles first."""
        return (*ROLES, *self.engines)

    def engine(self, name: str) -> EngineConfig:
        """Raises ConfigError for an engine that is not there."""
        found = {"reference": self.reference, "candidate": self.candidate, **self.engines}
        if name not in found:
            raise ConfigError(f"no engine `{name}`", hint=f"there is {', '.join(found)}")
        return found[name]

    def body_dtype(self, name: str) -> str:
        """What an engine is asked to compute in."""
        return self.engine(name).body_dtype or self.model.dtype
