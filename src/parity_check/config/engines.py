"""The tables of parity.toml that say what an engine is."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from parity_check.reading import wrong_name


def _name(text: str) -> str:
    reason = wrong_name(text)
    if reason is not None:
        raise ValueError(reason)
    return text


FileName = Annotated[str, AfterValidator(_name)]
"""A path, or what may be one: nothing that no file can be called."""


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(Table):
    """The four parity settings; `"default"` leaves one to the engine, and the report says so."""

    logprobs_mode: Literal["processed_logprobs", "raw_logprobs", "default"] = "processed_logprobs"
    enable_prefix_caching: bool | Literal["default"] = False
    async_scheduling: bool | Literal["default"] = False
    lm_head_dtype: Literal["model", "float32", "default"] = "float32"


class Trainer(Table):
    """What a trainer's forward decides for itself; nothing of it is left to transformers."""

    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Of the body; `model.dtype` when left out."""
    lm_head_dtype: Literal["model", "float32"] = "float32"
    """float32: hidden states and head weights are upcast before the product."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    temperature: bool = True
    """Whether logits are divided by the workload's temperature."""
    truncation: bool = False
    """Whether min_p, top_k and top_p mask logits, as few trainers do."""
    layout: Literal["padded", "packed"] = "padded"
    samples_per_batch: Annotated[int, Field(ge=1)] = 8
    tokens_per_batch: Annotated[int, Field(ge=1)] = 4096
    """With padding; a sample that is longer goes alone."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"


class EndpointConfig(Table):
    """A server that speaks OpenAI's completions API with vLLM's additions."""

    base_url: str
    """Up to and with the API's version, e.g. `http://127.0.0.1:8000/v1`."""
    model: str
    """The name that the server serves it under."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    """The environment variable that holds the key; the key itself has no place in a file."""
    concurrency: Annotated[int, Field(ge=1)] = 16
    """Requests under way at once."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """For one answer, from the request to its last byte."""
    retries: Annotated[int, Field(ge=0)] = 4
    """Further attempts after 429, 5xx and broken connections, with growing pauses."""

    @field_validator("base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://HOST[:PORT]/v1, or https")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("a URL that is stored holds no user, key or query: use `api_key_env`")
        return url.rstrip("/")


class EngineConfig(Table):
    kind: Literal["vllm", "transformers", "endpoint", "fake"] = "vllm"
    python: FileName | None = None
    """An interpreter that has vllm (transformers: torch and transformers), or `current`."""
    requirement: str | None = None
    """A requirement that uv provisions once into the cache, e.g. `vllm==0.18.1`."""
    family: Literal["v0", "v1"] | None = None
    """Asserted after the engine has started; left out, it is reported."""
    settings: Settings = Settings()
    engine_args: dict[str, Any] = {}
    """Given to vllm.LLM untouched, over everything that parity-check would pass."""
    transformers: Trainer | None = None
    """Of a trainer alone, in place of `settings`, `engine_args` and `family`."""
    env: dict[str, str] = {}
    endpoint: EndpointConfig | None = None
    """Of `kind = "endpoint"` alone, which takes nothing else but `settings` and `family`."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_asked_of_a_server(cls, tree: Any) -> Any:
        """A server's settings are its own: one that is left out is not asked for."""
        if isinstance(tree, dict) and tree.get("kind") == "endpoint":
            given = tree.get("settings", {})
            if isinstance(given, dict):
                left = dict.fromkeys(Settings.model_fields, "default")
                return {**tree, "settings": {**left, **given}}
        return tree

    @model_validator(mode="after")
    def _endpoint_keys(self) -> Self:
        if (self.kind == "endpoint") != (self.endpoint is not None):
            raise ValueError('kind = "endpoint" and the table `endpoint` need each other')
        if self.endpoint is not None:
            for name in ("python", "requirement", "engine_args", "env"):
                if getattr(self, name):
                    raise ValueError(f'kind = "endpoint" starts nothing, and takes no `{name}`')
        return self

    @field_validator("engine_args")
    @classmethod
    def _writable(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name, value in arguments.items():
            if not _is_plain(value):
                raise ValueError(f"{name}: neither TOML nor JSON has a word for {value!r}")
        return arguments

    @field_validator("env")
    @classmethod
    def _variables(cls, variables: dict[str, str]) -> dict[str, str]:
        for name, value in variables.items():
            if not name or "=" in name or "\0" in name + value:
                raise ValueError(f"{name!r} and its value cannot be an environment variable")
        return variables

    @model_validator(mode="after")
    def _own_keys(self) -> Self:
        if self.kind == "transformers":
            foreign = self.model_fields_set & {"settings", "engine_args", "family"}
            if foreign:
                raise ValueError(
                    f'kind = "transformers" takes no `{min(foreign)}`, which is vLLM\'s; its own '
                    "keys are in the table `transformers`"
                )
        elif self.transformers is not None:
            raise ValueError(
                f'the table `transformers` needs kind = "transformers", not "{self.kind}"'
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
            raise ValueError("give exactly one of `python` and `requirement`")
        return self

    @model_serializer(mode="wrap")
    def _only_own_keys(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is stored can be read again."""
        tree: dict[str, Any] = dump(self)
        if self.kind == "transformers":
            tree = {k: v for k, v in tree.items() if k not in ("settings", "engine_args")}
            tree["transformers"] = self.trainer.model_dump(mode="json", exclude_none=True)
        return tree

    @property
    def trainer(self) -> Trainer:
        """A trainer's keys, with every default."""
        return self.transformers or Trainer()

    def parity_settings(self) -> Settings:
        """The four parity settings that are asked for, in whatever words the kind has for them."""
        if self.kind != "transformers":
            return self.settings
        return Settings(
            logprobs_mode="processed_logprobs" if self.trainer.temperature else "raw_logprobs",
            lm_head_dtype=self.trainer.lm_head_dtype,
        )


def _is_plain(value: Any) -> bool:
    """Whether TOML and JSON can both hold the value."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
