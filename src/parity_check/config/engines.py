"""The tables of parity.toml that describe an engine."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(Table):
    """The four parity settings. `"default"` leaves one to the engine; the report shows that."""

    logprobs_mode: Literal["processed_logprobs", "raw_logprobs", "default"] = "processed_logprobs"
    enable_prefix_caching: bool | Literal["default"] = False
    async_scheduling: bool | Literal["default"] = False
    lm_head_dtype: Literal["model", "float32", "default"] = "float32"


class Trainer(Table):
    """Settings of a trainer's forward pass. None is left to a default of transformers."""

    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Of the transformer body. Default: `model.dtype`."""
    lm_head_dtype: Literal["model", "float32"] = "float32"
    """float32: hidden states and head weights are upcast before the product."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    temperature: bool = True
    """Whether logits are divided by the workload's temperature."""
    truncation: bool = False
    """Whether min_p, top_k and top_p mask logits. Few trainers do this."""
    layout: Literal["padded", "packed"] = "padded"
    samples_per_batch: Annotated[int, Field(ge=1)] = 8
    tokens_per_batch: Annotated[int, Field(ge=1)] = 4096
    """Including padding. A longer sample gets a batch of its own."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"


class EndpointConfig(Table):
    """A server with OpenAI's completions API and vLLM's extensions."""

    base_url: str
    """Including the API version, e.g. `http://127.0.0.1:8000/v1`."""
    model: str
    """The served model name."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """The environment variable that holds the key. The key itself is never stored in a file."""
    concurrency: Annotated[int, Field(ge=1)] = 16
    """Concurrent requests."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """For one response, from the request to the last byte."""
    retries: Annotated[int, Field(ge=0)] = 4
    """Retries after 429, 5xx and connection errors, with growing pauses."""

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://HOST[:PORT]/v1, or https")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "must not contain user, key or query, because it is stored: use `api_key_env`"
            )
        return url.rstrip("/")


class EngineConfig(Table):
    kind: Literal["vllm", "transformers", "endpoint", "fake"] = "vllm"
    python: str | None = None
    """An interpreter with vllm (a trainer: with torch and transformers), or `current`."""
    requirement: str | None = None
    """A requirement that uv installs once into the cache, e.g. `vllm==0.18.1`."""
    family: Literal["v0", "v1"] | None = None
    """Checked after the engine has started. When left out, it is only reported."""
    settings: Settings = Settings()
    engine_args: dict[str, Any] = {}
    """Passed to vllm.LLM unchanged; overrides what parity-check would pass."""
    transformers: Trainer | None = None
    """Only for `kind = "transformers"`, which has no `settings`, `engine_args` and `family`."""
    env: dict[str, str] = {}
    endpoint: EndpointConfig | None = None
    """Only for `kind = "endpoint"`, whose only other keys are `settings` and `family`."""

    @model_validator(mode="before")
    @classmethod
    def _server_settings_default(cls, tree: Any) -> Any:
        """A setting of a server that is left out is not requested."""
        if isinstance(tree, dict) and tree.get("kind") == "endpoint":
            given = tree.get("settings", {})
            if isinstance(given, dict):
                left = dict.fromkeys(Settings.model_fields, "default")
                return {**tree, "settings": {**left, **given}}
        return tree

    @model_validator(mode="after")
    def _endpoint_keys(self) -> Self:
        if (self.kind == "endpoint") != (self.endpoint is not None):
            raise ValueError('kind = "endpoint" requires the table `endpoint`, and vice versa')
        if self.endpoint is not None:
            for name in ("python", "requirement", "engine_args", "env"):
                if getattr(self, name):
                    raise ValueError(f'kind = "endpoint" starts no engine and takes no `{name}`')
        return self

    @field_validator("engine_args")
    @classmethod
    def _storable(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name, value in arguments.items():
            if not _is_plain(value):
                raise ValueError(f"{name}: {value!r} has no TOML and JSON representation")
        return arguments

    @model_validator(mode="after")
    def _own_keys(self) -> Self:
        if self.kind == "transformers":
            foreign = self.model_fields_set & {"settings", "engine_args", "family"}
            if foreign:
                raise ValueError(
                    f'kind = "transformers" takes no `{min(foreign)}`, a vLLM key: use the table '
                    "`transformers`"
                )
        elif self.transformers is not None:
            raise ValueError(
                f'the table `transformers` requires kind = "transformers", not "{self.kind}"'
            )
        return self

    @model_validator(mode="after")
    def _one_interpreter(self) -> Self:
        if self.kind == "endpoint":
            return self
        if self.kind == "fake":
            if self.python or self.requirement:
                raise ValueError('kind = "fake" takes neither `python` nor `requirement`')
        elif bool(self.python) == bool(self.requirement):
            raise ValueError("set exactly one of `python` and `requirement`")
        return self

    @model_serializer(mode="wrap")
    def _only_own_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write only the keys that this kind accepts, so that the dump can be loaded again."""
        tree: dict[str, Any] = dump(self)
        if self.kind == "transformers":
            tree = {k: v for k, v in tree.items() if k not in ("settings", "engine_args")}
            tree["transformers"] = self.trainer.model_dump(mode="json", exclude_none=True)
        return tree

    @property
    def trainer(self) -> Trainer:
        """The trainer's keys, with all defaults."""
        return self.transformers or Trainer()

    def parity_settings(self) -> Settings:
        """The four parity settings requested, translated from the keys of this kind."""
        if self.kind != "transformers":
            return self.settings
        return Settings(
            logprobs_mode="processed_logprobs" if self.trainer.temperature else "raw_logprobs",
            lm_head_dtype=self.trainer.lm_head_dtype,
        )


def _is_plain(value: Any) -> bool:
    """Whether TOML and JSON can both represent the value."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
