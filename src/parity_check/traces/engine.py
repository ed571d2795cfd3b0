"""A started engine and the settings in force, as its worker, server or traces describe it.

A description is validated where it comes from outside: a worker's reply, or a trace's header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

UNKNOWN: Literal["unknown"] = "unknown"
"""A value that the source of a trace does not state, e.g. engine settings of a dump."""
LogprobPath = Literal["decode", "prefill", "unknown"]
Distribution = Literal["processed", "raw", "unknown"]
EvaluatesBy = Literal["decode", "prefill"]

PREFILL_ALONE = ("endpoint", "transformers")
"""Backends that evaluate by prefill, for traces written before `evaluates_by` existed."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A value in force, and its proof."""

    in_force: str
    proof: str


@dataclass(frozen=True, slots=True)
class EngineSetting:
    """One parity setting: requested, in force, and how that was proved."""

    requested: str | bool
    in_force: str | bool
    proof: str


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of an engine on a cluster; `lost` says which, during what."""

    count: int
    nodes: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDescription:
    """One engine. What `config`, `packages`, `environment` and `model` hold depends on its kind.

    An optional field that is None is not written: an imported trace has no backend.
    """

    label: str
    backend: str | None = None
    version: str
    family: str
    """v0, v1, trainer, or unknown."""
    evaluates_by: EvaluatesBy = "decode"
    """How it computes the logprobs of given tokens by default."""
    packages: Mapping[str, str]
    platform: str | None = None
    """cpu or cuda; unknown for a server."""
    device: str
    settings: Mapping[str, EngineSetting]
    prompt_logprobs: Fact | None = None
    """For a server: the distribution of prompt logprobs, raw, processed or unknown."""
    replicas: Replicas | None = None
    """Where it ran, if on a cluster."""
    self_check_s: float | None = None
    """Duration of the proofs of settings, seconds."""
    config: Mapping[str, Any]
    environment: Mapping[str, str]
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ran_on(self) -> str:
        """The device, and the replicas if there were several."""
        found = self.replicas
        if found is None:
            return self.device
        nodes = ", ".join(found.nodes)
        several = found.count > 1
        again = "; what is run again runs on another one" if several else ""
        return f"{self.device} ({found.count} replica{'s' if several else ''} on {nodes}{again})"

    @property
    def imported(self) -> bool:
        """Whether it is known only from a dump."""
        return self.version == UNKNOWN

    @property
    def served(self) -> bool:
        """Whether it is a server, whose hardware and software are unknown."""
        return self.platform == UNKNOWN

    @property
    def trainer(self) -> bool:
        """Whether it is a trainer's forward pass."""
        return self.family == "trainer"

    @property
    def distribution(self) -> Distribution:
        """The distribution of its decode logprobs."""
        mode = self.settings["logprobs_mode"].in_force
        return "processed" if mode == "processed_logprobs" else "raw"

    def stated(self) -> dict[str, Any]:
        """A JSON-ready tree, without fields that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def described(
    reply: Mapping[str, Any],
    *,
    label: str,
    requested: Mapping[str, str | bool],
    evaluates_by: EvaluatesBy,
) -> EngineDescription:
    """A worker's reply to `load`, with the requested value of each setting from its spec.

    Raises ValidationError, of which `first_fault` is the one line to show.
    """
    found = reply.get("settings")
    settings = found if isinstance(found, Mapping) else {}
    tree = {"label": label, **reply, "evaluates_by": evaluates_by}
    tree["settings"] = {
        name: {**settings[name], "requested": value}
        if isinstance(settings.get(name), Mapping)
        else settings.get(name)
        for name, value in requested.items()
    }
    return _adapter().validate_python(tree)


def completed(stored: Any) -> Any:
    """The engine of a stored header, with fields that earlier traces lack; not yet validated."""
    if isinstance(stored, Mapping) and "evaluates_by" not in stored:
        by = "prefill" if stored.get("backend") in PREFILL_ALONE else "decode"
        return {**stored, "evaluates_by": by}
    return stored


def first_fault(error: ValidationError) -> str:
    """`settings.lm_head_dtype.proof: field required`."""
    first = error.errors()[0]
    reason = first["msg"][0].lower() + first["msg"][1:]
    return f"{'.'.join(map(str, first['loc']))}: {reason}"


@cache
def _adapter() -> TypeAdapter[EngineDescription]:
    return TypeAdapter(EngineDescription)
