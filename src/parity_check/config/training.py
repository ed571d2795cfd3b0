"""The tables [training] of parity.toml: a short RL run with each arm's engine."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from parity_check.config.engines import (
    FakeTable,
    FileName,
    FunctionName,
    Settings,
    Table,
    TrainerTable,
)

FIRST = "reference"
"""The arm that the others are judged against: the reference engine as configured."""
TRAINER = "trainer"
ARM_NAME = re.compile(r"[a-z][a-z0-9_-]*")


def _kind(table: Any) -> str:
    """Of a trainer's table; the default is transformers."""
    found = table.get("kind") if isinstance(table, dict) else getattr(table, "kind", None)
    return str(found or "transformers")


LearnerConfig = Annotated[
    Annotated[TrainerTable, Tag("transformers")] | Annotated[FakeTable, Tag("fake")],
    Discriminator(_kind),
]


class Arm(Table):
    """An engine of the configuration with other settings, and how it gets new weights."""

    engine: str = "candidate"
    """`reference`, `candidate`, or the name of one of [engines]."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """In place of the engine's own: `logprobs_mode`, `lm_head_dtype`, …"""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Added to the engine's own."""
    lag: Annotated[int, Field(ge=0)] | None = None
    """How many updates land while a sequence is under way. Default: `training.lag`."""
    mode: Literal["keep", "wait", "abort"] = "keep"
    """How V1 is paused for an update, as in `pause_generation`."""
    clear_cache: bool = False

    @field_validator("settings")
    @classmethod
    def _known(cls, settings: dict[str, Any]) -> dict[str, Any]:
        Settings.model_validate(settings)
        return settings


class Training(Table):
    """A short RL run with each arm's engine as the rollout backend."""

    steps: Annotated[int, Field(ge=2)] = 25
    prompts_per_step: Annotated[int, Field(ge=1)] = 6
    group_size: Annotated[int, Field(ge=2)] = 8
    """Samples of a prompt; the advantage is the reward minus the mean of the others."""
    seeds: list[int] = Field(default=[1, 2], min_length=2)
    """Of the reference's runs, whose spread is the noise. Other arms run with the first."""
    lag: Annotated[int, Field(ge=0)] = 1
    """How many updates land while a sequence is under way; 0: all tokens are on-policy."""

    loss: Literal["gspo", "grpo", "ppo"] = "gspo"
    old_logprobs: Literal["bypass", "recompute"] = "bypass"
    """The ratio is over the rollout's logprobs, or over the trainer's own, with a weight (TIS)."""
    epsilon_low: Annotated[float, Field(gt=0, lt=1)] = 3e-3
    epsilon_high: Annotated[float, Field(gt=0)] = 4e-3
    weight_cap: Annotated[float, Field(gt=0)] = 2.0
    """Of the importance weights of `recompute`."""
    optimizer_steps: Annotated[int, Field(ge=1)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.95,
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 0.3

    prompts: FileName | None = None
    """A prompts file with a column `answer`. Default: sums and differences of two-digit numbers."""
    prompt_column: Annotated[str, Field(min_length=1)] | None = None
    """Its column that holds the prompt, as `workload.prompt_column`."""
    reward: FunctionName | None = None
    """`module:function` in the trainer's environment, called with prompt, completion, answer.
    Default: 1 for the exact answer, else 0."""
    python_path: FileName | None = None
    """Where `reward` is imported from. Default: the directory of the configuration file."""
    reward_timeout_s: Annotated[float, Field(gt=0)] = 10.0

    band: Annotated[float, Field(gt=0)] = 3.0
    """An arm is inside if its mean distance is within so many times the reference's own band."""
    reward_resolution: Annotated[float, Field(gt=0)] = 0.05
    """Reward is judged only if its band is at most this wide."""
    compare: bool = True
    """Whether to compare each arm with the reference first, as `parity-check compare` does."""

    trainer: LearnerConfig
    arms: dict[str, Arm] = Field(
        default_factory=lambda: {
            "initial": Arm(settings=dict.fromkeys(Settings.model_fields, "default"), lag=4),
            "fixed": Arm(),
        }
    )

    @field_validator("trainer", mode="before")
    @classmethod
    def _stated_kind(cls, table: Any) -> Any:
        return {"kind": "transformers", **table} if isinstance(table, dict) else table

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: two runs with one seed are one run")
        if not self.arms:
            raise ValueError("arms: name at least one")
        for name in self.arms:
            if name in (FIRST, TRAINER, "candidate"):
                raise ValueError(f"arms.{name}: this name is taken")
            if not ARM_NAME.fullmatch(name):
                raise ValueError(
                    f"arms.{name}: use lower-case letters, digits, - and _, starting with a letter"
                )
        return self
