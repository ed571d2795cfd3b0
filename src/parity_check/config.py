"""parity.toml: its models, `--set` overlays, and the resolved form that a run stores."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from parity_check.config_errors import explain
from parity_check.config_files import read_tree, set_key
from parity_check.errors import ConfigError

Role = Literal["reference", "candidate"]
ROLES: tuple[Role, Role] = ("reference", "candidate")
OTHER: Mapping[Role, Role] = {"reference": "candidate", "candidate": "reference"}
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
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


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


T = TypeVar("T", bound=Table)


class ModelConfig(Table):
    path: str = "bundled:tiny"
    """A directory, a hub name (then `revision` is needed), or `bundled:tiny`."""
    revision: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Always explicit: what `auto` means depends on the engine's transformers version."""


class Settings(Table):
    """The four parity settings; `"default"` leaves one to the engine, and the report says so."""

    logprobs_mode: Literal["processed_logprobs", "raw_logprobs", "default"] = "processed_logprobs"
    enable_prefix_caching: bool | Literal["default"] = False
    async_scheduling: bool | Literal["default"] = False
    lm_head_dtype: Literal["model", "float32", "default"] = "float32"


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
    kind: Literal["vllm", "endpoint", "fake"] = "vllm"
    python: str | None = None
    """An interpreter that has vllm, or `current`."""
    requirement: str | None = None
    """A requirement that uv provisions once into the cache, e.g. `vllm==0.18.1`."""
    family: Literal["v0", "v1"] | None = None
    """Asserted after the engine has started; left out, it is reported."""
    settings: Settings = Settings()
    engine_args: dict[str, Any] = {}
    """Given to vllm.LLM untouched, over everything that parity-check would pass."""
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
    cluster_by: Literal["prompt", "sample"] = "prompt"
    tail_threshold: Annotated[float, Field(gt=0)] = 1.0
    """tail_fraction counts tokens whose |Δ| is above this many nats."""


class WeightSync(Table):
    """What `weight-sync` does to an engine while requests are under way."""

    weights: Annotated[list[str], Field(min_length=1)] = ["bundled:tiny-next"]
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
    """Largest mean |Δ| to an oracle, nats; the interval must lie inside."""

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
    workload: Workload = Workload()
    run: RunConfig = RunConfig()
    weight_sync: WeightSync | None = None
    """Read by `weight-sync` alone, which has defaults for all of it."""

    def engine(self, role: Role) -> EngineConfig:
        return self.reference if role == "reference" else self.candidate


def load_config(path: Path, overlay: Sequence[str] = ()) -> Config:
    """Read TOML (or YAML by suffix), apply `a.b=VALUE` overlays, resolve paths beside the file.

    Raises ConfigError naming the file, the key and what it takes.
    """
    tree = read_tree(path)
    for item in overlay:
        set_key(tree, item)
    _resolve_paths(tree, path.parent)
    return parse_config(tree, source=path.name)


def parse_config(tree: Mapping[str, Any], source: str) -> Config:
    return _validate(Config, tree, source)


def _validate(table: type[T], tree: Mapping[str, Any], source: str) -> T:
    try:
        return table.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(table, error)}") from None


def load_judging(path: Path | None, overlay: Sequence[str] = ()) -> Judging:
    """How to judge stored traces: a whole configuration, or the defaults, with overlays."""
    if path is not None:
        return load_config(path, overlay)
    tree: dict[str, Any] = {}
    for item in overlay:
        set_key(tree, item)
    return _validate(Judging, tree, "--set")


def stated_sampling(items: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` of the sampling parameters, in the ranges of [workload]. Raises ConfigError."""
    tree: dict[str, Any] = {}
    for item in items:
        name, _, _ = item.partition("=")
        if name.strip() not in SHAPING:
            close = difflib.get_close_matches(name.strip(), SHAPING, n=1)
            raise ConfigError(
                f"--sampling {item}: no sampling parameter `{name.strip()}`",
                hint=f"did you mean {close[0]}?" if close else f"there is {', '.join(SHAPING)}",
            )
        set_key(tree, item)
    stated = _validate(Workload, tree, "--sampling")
    return {name: getattr(stated, name) for name in tree}


def dump_config(config: Judging) -> dict[str, Any]:
    """The resolved configuration: JSON- and TOML-ready, every default written out."""
    return config.model_dump(mode="json", exclude_none=True)


def _resolve_paths(tree: dict[str, Any], base: Path) -> None:
    """Make paths that are relative to the configuration file absolute."""
    for table, key in (("model", "path"), ("workload", "prompts")):
        value = tree.get(table, {}).get(key) if isinstance(tree.get(table), dict) else None
        if isinstance(value, str) and not value.startswith("bundled:"):
            candidate = base / Path(value).expanduser()
            if candidate.exists():
                tree[table][key] = str(candidate.resolve())
    updates = tree.get("weight_sync")
    if isinstance(updates, dict):
        updates["python_path"] = str(base.absolute() / updates.get("python_path", "."))
        updates["weights"] = _beside(updates.get("weights", WeightSync().weights), base)
    for role in ROLES:
        engine = tree.get(role)
        value = engine.get("python") if isinstance(engine, dict) else None
        if isinstance(engine, dict) and isinstance(value, str) and "/" in value:
            # Not resolved: a virtual environment's interpreter is a link, and must stay one.
            engine["python"] = str(base.absolute() / Path(value).expanduser())


def _beside(paths: Any, base: Path) -> Any:
    """Checkpoints as absolute paths where they exist; anything else is refused later."""
    if not isinstance(paths, list):
        return paths
    return [
        str((base / path).resolve()) if isinstance(path, str) and (base / path).is_dir() else path
        for path in paths
    ]


def _is_plain(value: Any) -> bool:
    """Whether TOML and JSON can both hold the value."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
