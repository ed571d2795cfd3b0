"""The tables of parity.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from parity_check.config.engines import EngineConfig, FileName, FunctionName, Table
from parity_check.config.training import Training
from parity_check.errors import ConfigError, suggestion

Role = Literal["reference", "candidate"]
ROLES: tuple[Role, Role] = ("reference", "candidate")
OTHER: Mapping[Role, Role] = {"reference": "candidate", "candidate": "reference"}
LONGEST_S = 7 * 24 * 3600.0
LOOKS = 4
"""With `num_prompts = "enough"`."""
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


def place(name: str) -> str:
    """Where an engine's table is in a configuration: `candidate`, or `engines.NAME`."""
    return name if name in ROLES else f"engines.{name}"


class ModelConfig(Table):
    path: FileName = "bundled:tiny"
    """A directory, a hub name (requires `revision`), or `bundled:tiny`."""
    revision: str | None = None
    lora: FileName | None = None
    """A LoRA adapter that every engine loads: a directory in PEFT's format."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Always explicit: the meaning of `auto` depends on the transformers version."""


class Workload(Table):
    prompts: FileName = "bundled:prompts"
    """JSONL, Parquet, CSV or a saved dataset with prompt | prompt_token_ids | messages, prompt_id?,
    prompt_group?; .txt with a prompt a line; `-` is standard input."""
    prompt_column: Annotated[str, Field(min_length=1)] | None = None
    """The column that holds the prompt: text, chat messages or token ids. Default: the one of
    `prompt`, `messages` and `prompt_token_ids` that is there."""
    num_prompts: Annotated[int, Field(ge=1)] | Literal["enough"] | None = None
    """Use only the first N prompts. Default: all. With "enough", `compare` samples in a few looks
    of growing size, until every gate is decided or `most_tokens` are spent."""
    most_tokens: Annotated[int, Field(ge=1)] | None = None
    """With "enough", the most tokens that each engine samples. Default: three times what the gates
    ask for if nothing drifts."""
    samples_per_prompt: Annotated[int, Field(ge=1)] = 2
    max_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] = -1
    """-1 is off in every version (0.8.5 rejects 0)."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.0
    ignore_eos: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 5
    seed: int = 1234
    """Seeds each engine. Requests have no seed of their own, because V1 on CPU crashes on one."""
    sampled_by: Literal["both", "reference", "candidate"] = "both"
    repeats: Annotated[int, Field(ge=0)] = 1
    """A/A runs of each engine, in a different batch order."""

    def tokens(self, prompts: int) -> int:
        """The most tokens that an engine computes: sampled, replayed and repeated."""
        return prompts * self.samples_per_prompt * self.max_tokens * (2 + self.repeats)

    @model_validator(mode="after")
    def _top_k_off_is_minus_one(self) -> Self:
        if self.top_k == 0:
            raise ValueError("top_k: some versions reject 0; use -1 for off")
        return self

    @model_validator(mode="after")
    def _a_budget_is_for_looks(self) -> Self:
        if self.most_tokens is not None and self.num_prompts != "enough":
            raise ValueError('most_tokens: only with num_prompts = "enough"')
        return self

    def sampling(self) -> dict[str, float | int]:
        """All parameters that shape the distribution."""
        return {name: getattr(self, name) for name in SHAPING}

    def samplers(self) -> tuple[Role, ...]:
        """The engines that sample."""
        return ROLES if self.sampled_by == "both" else (self.sampled_by,)


class ObjectiveConfig(Table):
    """The objective whose clip rate is gated. The JSON report has all others too."""

    kind: Annotated[str, AfterValidator(str.lower)] = "grpo"
    logprobs: Literal["recompute", "bypass"] | None = None
    """Whether the loss recomputes old logprobs with the trainer or uses the rollout's."""
    epsilon_low: float | None = None
    epsilon_high: float | None = None
    positive_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of tokens with a positive advantage, which an engine comparison cannot measure."""


class GatesConfig(BaseModel):
    """A profile, and limits of single metrics, e.g. `k3_kl = 1e-3`."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, float] = Field(init=False)

    profile: Annotated[str, AfterValidator(str.lower)] = "standard"

    def overrides(self) -> dict[str, float]:
        return dict(self.__pydantic_extra__ or {})


class StatsConfig(Table):
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    cluster_by: Annotated[str, Field(min_length=1)] = "prompt"
    """The independent unit: `prompt`, `group` (all prompts of a prompt_group), `sample`, or a
    column of the prompts file, where a prompt without a value is independent of all others."""
    tail_threshold: Annotated[float, Field(gt=0)] = 1.0
    """tail_fraction counts tokens whose |Δ| is above this many nats."""


class WeightSync(Table):
    """What `weight-sync` does while requests are in flight."""

    weights: list[FileName] = Field(default_factory=lambda: ["bundled:tiny-next"], min_length=1)
    """Checkpoints of the same shape as the model, applied in order: safetensors directories."""
    update_after_tokens: Annotated[int, Field(ge=1)] = 16
    """Tokens that each request generates before the first update, and between updates."""
    mode: Literal["keep", "wait", "abort"] = "keep"
    """How V1 is paused, as in `pause_generation`. V0 updates between two steps, like `keep`."""
    clear_cache: bool = False
    concurrency: Annotated[int, Field(ge=1)] = 8
    """Requests in flight, each with its own prompt. Below 8 there are no intervals."""
    update: FunctionName | None = None
    """`module:function` in the engine's environment, called instead of the built-in loader."""
    python_path: FileName | None = None
    """Where `update` is imported from. Default: the directory of the configuration file."""
    limit: Annotated[float, Field(gt=0)] = 1e-3
    """Largest mean |Δ| to a replay by a cold engine, nats; judged by the interval."""


class RunConfig(Table):
    out: FileName = "runs"
    """Parent of the run directories."""
    stall_timeout_s: Annotated[float, Field(gt=0, le=LONGEST_S)] = 600.0
    """A worker without progress for this long is killed."""


class DiagnosisConfig(Table):
    """What is asked of the engines besides logprobs."""

    locate: Literal["on-drift"] | bool = "on-drift"
    """Where inside the model the engines part, while they are loaded: after drift, always, never.
    Engines with compiled graphs and servers cannot be asked, nor a trainer as the reference."""


class Judging(Table):
    """The part of a configuration that needs no engine: objective, gates and statistics."""

    objective: ObjectiveConfig = ObjectiveConfig()
    gates: GatesConfig = GatesConfig()
    stats: StatsConfig = StatsConfig()

    @property
    def looks(self) -> int:
        """How often the data may be judged before the verdict."""
        return 1

    @property
    def level(self) -> float:
        """The confidence of every interval: over all looks together it is `stats.confidence`.

        Bonferroni's correction, which holds however the looks depend on each other.
        """
        return 1.0 - (1.0 - self.stats.confidence) / self.looks


class Config(Judging):
    """A complete parity.toml."""

    model: ModelConfig = ModelConfig()
    reference: EngineConfig
    candidate: EngineConfig
    engines: dict[str, EngineConfig] = Field(default_factory=dict)
    """Further engines by name, e.g. `[engines.trainer]`, for a comparison of all of them."""
    workload: Workload = Workload()
    diagnosis: DiagnosisConfig = DiagnosisConfig()
    run: RunConfig = RunConfig()
    weight_sync: WeightSync | None = None
    """Used only by `weight-sync`, which has defaults for every key."""
    training: Training | None = None
    """Used only by `train`."""

    @field_validator("engines")
    @classmethod
    def _names(cls, engines: dict[str, EngineConfig]) -> dict[str, EngineConfig]:
        for name in engines:
            if name in ROLES:
                raise ValueError(f"`{name}` is not allowed here; use [{name}]")
            if not ENGINE_NAME.fullmatch(name):
                raise ValueError(
                    f"`{name}`: use lower-case letters, digits, - and _, starting with a letter"
                )
        return engines

    @property
    def looks(self) -> int:
        return LOOKS if self.workload.num_prompts == "enough" else 1

    @property
    def names(self) -> tuple[str, ...]:
        """All engines, reference and candidate first."""
        return (*ROLES, *self.engines)

    def engine(self, name: str) -> EngineConfig:
        """The engine of that name. Raises ConfigError for an unknown one."""
        found = {"reference": self.reference, "candidate": self.candidate, **self.engines}
        if name not in found:
            raise ConfigError(f"unknown engine `{name}`", hint=suggestion(name, found))
        return found[name]

    def check_no_adapter(self, command: str) -> None:
        """Raises ConfigError, for commands that change or read the weights themselves."""
        if self.model.lora is not None:
            raise ConfigError(
                f"model.lora: `{command}` takes no adapter",
                hint="merge it into its base model (peft: merge_and_unload), and pass that as "
                "the model",
            )

    def body_dtype(self, name: str) -> str:
        """The dtype that an engine is configured to compute in."""
        return self.engine(name).body_dtype or self.model.dtype
