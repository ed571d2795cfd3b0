"""The engine tables of parity.toml: one class per kind."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from parity_check.reading import wrong_name
from parity_check.words import count

NEEDS_ENDPOINT = 'kind = "endpoint" requires the table `endpoint`, and vice versa'
NEEDS_TRANSFORMERS = 'the table `transformers` requires kind = "transformers", not "{}"'


def _name(text: str) -> str:
    reason = wrong_name(text)
    if reason is not None:
        raise ValueError(reason)
    return text


def _variables(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        unstorable = any("\ud800" <= each <= "\udfff" for each in name + value)
        if not name or "=" in name or "\0" in name + value or unstorable:
            raise ValueError(f"{name!r} and its value cannot be an environment variable")
    return variables


def _function(text: str) -> str:
    if not FUNCTION.fullmatch(text):
        raise ValueError("expected module:function")
    return text


FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
FunctionName = Annotated[str, AfterValidator(_function)]
FileName = Annotated[str, AfterValidator(_name)]
"""A path, or a name that could be one: rejects what cannot be a file name."""
Variables = Annotated[dict[str, str], AfterValidator(_variables)]


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


class EngineTable(Table):
    """What all kinds of engine tables have in common."""

    foreign: ClassVar[Mapping[str, str]] = {}
    """Keys that only other kinds have, with the error message for each."""

    kind: str

    @model_validator(mode="before")
    @classmethod
    def _no_foreign_keys(cls, tree: Any) -> Any:
        for name, sentence in cls.foreign.items():
            if isinstance(tree, dict) and name in tree:
                raise ValueError(sentence)
        return tree

    @property
    def body_dtype(self) -> str | None:
        """The dtype that the engine computes in, if it is not `model.dtype`."""
        return None

    @property
    def model_overrides(self) -> Mapping[str, Any]:
        """What replaces keys of the checkpoint's config.json in this engine, by name."""
        return {}


class Provisioned(EngineTable):
    """An engine that runs in an existing or a provisioned interpreter."""

    python: FileName | None = None
    """An interpreter with vllm (a trainer: with torch and transformers), or `current`."""
    requirement: str | None = None
    """A requirement that uv installs once into the cache, e.g. `vllm==0.18.1`."""

    @property
    def source(self) -> str:
        """Where the interpreter comes from, for display."""
        return self.requirement or f"python = {self.python}"

    @model_validator(mode="after")
    def _one_interpreter(self) -> Self:
        if bool(self.python) == bool(self.requirement):
            raise ValueError("set exactly one of `python` and `requirement`")
        return self


CLUSTER = re.compile(r"auto|local|(?!https?://)\S+:\S+")
"""The address of a Ray cluster."""


class Placement(Table):
    """Replicas of an engine on a Ray cluster. Needs the extra `ray`."""

    kind: Literal["ray"]
    address: str | None = None
    """`auto`, HOST:PORT or `ray://…`; left out, a cluster on this machine is started."""
    replicas: Annotated[int, Field(ge=1)] = 1
    cpus: Annotated[float, Field(ge=0)] = 1.0
    """Of each replica, as are the next two."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """Default: `tensor_parallel_size` for GPU wheels, else none."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Ray's custom resources, e.g. `{"accelerator_type:H100" = 0.001}`."""
    runtime_env: dict[str, Any] = {}
    """Ray's runtime environment of the actors, passed on unchanged."""
    wait_s: Annotated[float, Field(gt=0)] = 120.0
    """How long to wait until the cluster has room for all replicas."""
    losses: Annotated[int, Field(ge=0)] = 2
    """How often the requests of lost replicas are dealt again, before the run fails."""

    @field_validator("address")
    @classmethod
    def _of_a_cluster(cls, address: str | None) -> str | None:
        if address is not None and not CLUSTER.fullmatch(address):
            raise ValueError("expected auto, HOST:PORT or ray://HOST:PORT")
        return address

    @property
    def sentence(self) -> str:
        """Where it runs, and what each replica takes as far as that is stated."""
        where = "a local Ray cluster" if self.address is None else f"Ray cluster {self.address}"
        gpus = {} if self.gpus is None else {"GPU": self.gpus}
        each = {"CPU": self.cpus, **gpus, **self.resources}
        taken = ", ".join(f"{name} {amount:g}" for name, amount in each.items())
        return f"{count(self.replicas, 'replica')} on {where}, each with {taken}"


class VllmArguments(EngineTable):
    """What can be requested of a vLLM engine, and of the fake engine that replaces it."""

    family: Literal["v0", "v1"] | None = None
    """Checked after the engine has started. If left out, it is only reported."""
    settings: Settings = Settings()
    engine_args: dict[str, Any] = {}
    """Passed to vllm.LLM unchanged; overrides what parity-check would pass."""
    env: Variables = {}
    placement: Placement | None = None
    """Where it runs; left out, on this machine."""

    @field_validator("engine_args")
    @classmethod
    def _storable(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name, value in arguments.items():
            if not _is_plain(value):
                raise ValueError(f"{name}: {value!r} has no TOML and JSON representation")
        return arguments

    @property
    def model_overrides(self) -> Mapping[str, Any]:
        found = self.engine_args.get("hf_overrides")
        return found if isinstance(found, dict) else {}


class VllmTable(VllmArguments, Provisioned):
    """vLLM, of any version, in a worker."""

    foreign: ClassVar[Mapping[str, str]] = {
        "endpoint": NEEDS_ENDPOINT,
        "transformers": NEEDS_TRANSFORMERS.format("vllm"),
    }

    kind: Literal["vllm"] = "vllm"


class FakeTable(VllmArguments):
    """An engine without a model, in place of vLLM."""

    foreign: ClassVar[Mapping[str, str]] = {
        "endpoint": NEEDS_ENDPOINT,
        "transformers": NEEDS_TRANSFORMERS.format("fake"),
        "python": 'kind = "fake" takes neither `python` nor `requirement`',
        "requirement": 'kind = "fake" takes neither `python` nor `requirement`',
    }

    kind: Literal["fake"]


class TrainerTable(Provisioned):
    """A trainer's forward pass, in a worker."""

    foreign: ClassVar[Mapping[str, str]] = {
        "endpoint": NEEDS_ENDPOINT,
        **{
            name: f'kind = "transformers" takes no `{name}`, which is vLLM\'s; its own keys are in '
            "the table `transformers`"
            for name in ("engine_args", "family", "settings")
        },
    }

    kind: Literal["transformers"]
    transformers: Trainer = Trainer()
    env: Variables = {}

    @property
    def settings(self) -> Settings:
        """The four parity settings, from the trainer's own keys."""
        return Settings(
            logprobs_mode="processed_logprobs" if self.transformers.temperature else "raw_logprobs",
            lm_head_dtype=self.transformers.lm_head_dtype,
        )

    @property
    def body_dtype(self) -> str | None:
        return self.transformers.dtype


class EndpointTable(EngineTable):
    """A server that parity-check did not start."""

    foreign: ClassVar[Mapping[str, str]] = {
        "transformers": NEEDS_TRANSFORMERS.format("endpoint"),
        **{
            name: f'kind = "endpoint" starts no engine and takes no `{name}`'
            for name in ("python", "requirement", "engine_args", "env")
        },
    }

    kind: Literal["endpoint"]
    family: Literal["v0", "v1"] | None = None
    """Checked against the running server. If left out, it is only reported."""
    settings: Settings
    endpoint: EndpointConfig

    @model_validator(mode="before")
    @classmethod
    def _server_settings_default(cls, tree: Any) -> Any:
        """A setting of a server that is left out is not requested."""
        if not isinstance(tree, dict):
            return tree
        if "endpoint" not in tree:
            raise ValueError(NEEDS_ENDPOINT)
        given = tree.get("settings", {})
        if isinstance(given, dict):
            given = {**dict.fromkeys(Settings.model_fields, "default"), **given}
        # Runs of earlier versions have these keys, with empty values.
        kept = {k: v for k, v in tree.items() if (k, v) not in (("engine_args", {}), ("env", {}))}
        return {**kept, "settings": given}


def _kind(table: Any) -> str:
    found = table.get("kind", "vllm") if isinstance(table, dict) else getattr(table, "kind", "vllm")
    return str(found)


EngineConfig = Annotated[
    Annotated[VllmTable, Tag("vllm")]
    | Annotated[TrainerTable, Tag("transformers")]
    | Annotated[EndpointTable, Tag("endpoint")]
    | Annotated[FakeTable, Tag("fake")],
    Discriminator(_kind),
]
"""The table of one engine; the default kind is vllm."""


def _is_plain(value: Any) -> bool:
    """Whether TOML and JSON can both represent the value."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
