"""The input and the output of a diagnosis rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis.evidence import Evidence
from parity_check.diagnosis.findings import Confidence, Layer
from parity_check.traces.engine import UNKNOWN, Distribution

ROLE_WORD = re.compile(r"(\[?)\b(reference|candidate)\b")
"""A role in a sentence; behind a bracket, a table of the configuration."""
NAMED = 12
"""Names in a list of samples or prompts."""
TRUNCATING = {"top_p": 1.0, "top_k": -1, "min_p": 0.0}
"""Sampling parameters that truncate the support, with the values that turn them off."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Facts about one engine besides its logprobs.

    `floor` is E|Δ| (nats) of the engine against itself, None if not measured. `defects` counts
    invalid logprobs and alternatives by kind.
    """

    version: str
    family: str
    distribution: Distribution
    settings: Mapping[str, Any]
    """In force, by name."""
    config: Mapping[str, Any]
    model: Mapping[str, Any]
    floor: float | None
    floor_share: float | None
    """Share of tokens that changed in the engine's A/A run."""
    defects: Mapping[str, int]
    measured: bool = False
    """Whether its `logprobs_mode` was proved on the running engine."""
    kind: Literal["vllm", "server", "trainer", "dump"] = "vllm"


@dataclass(frozen=True, slots=True)
class Case:
    """Evidence and facts. A rule sees what earlier causes left unexplained."""

    evidence: Evidence
    engines: Mapping[Role, EngineFacts]
    sampling: Mapping[str, Any]
    """From the traces, the same for both engines; neutral where a dump does not state it."""
    run: str | None
    """The run directory, as argument of the confirming command; None for two stored traces."""
    trace: str
    """The path of a trace with the sampled tokens."""
    unrequested: tuple[str, ...] = ()
    """Settings and configuration values that differ between the engines without being requested."""
    first_module: str | None = None
    """Read from the loaded engines: the first module whose output differs beyond rounding."""
    temperature_stated: bool = True
    names: Mapping[Role, str] = field(default_factory=lambda: {role: role for role in ROLES})
    """The names of the two engines in the configuration."""

    @property
    def dumped(self) -> bool:
        """Whether an engine is known only from a dump. Its settings are then unknown, not equal."""
        return any(self.engines[role].version == UNKNOWN for role in ROLES)

    @property
    def experts(self) -> bool:
        """Whether an engine reports a mixture-of-experts model."""
        return any(self.engines[role].model.get("experts") for role in ROLES)

    def weights(self) -> tuple[int, tuple[str, ...]] | None:
        """How many parameters both engines read as loaded, and the names of those that differ.

        None if an engine did not read them, or if they name them differently.
        """
        left, right = (self.engines[role].model.get("weights") or {} for role in ROLES)
        common = [name for name in left if name in right]
        if not common or len(common) < max(len(left), len(right)) // 2:
            return None
        return len(common), tuple(name for name in common if left[name] != right[name])

    @property
    def other_model(self) -> bool:
        """Whether the engines read another model from the checkpoint: it changes the scale too."""
        bases = {self.engines[role].model.get("rope_theta") for role in ROLES}
        return None not in bases and len(bases) > 1

    def processes(self, role: Role) -> bool:
        """Whether it is proved that the engine returns processed logprobs."""
        return self.engines[role].measured and self.engines[role].distribution == "processed"

    def differing(self, key: str) -> tuple[Any, Any] | None:
        """Both values of a setting or config entry if they differ, else None.

        Also None if one engine does not report it, as with a dump or a served endpoint.
        """
        facts = [{**self.engines[role].config, **self.engines[role].settings} for role in ROLES]
        if self.dumped or not all(key in each for each in facts):
            return None
        left, right = (each[key] for each in facts)
        return (left, right) if left != right else None

    def temperature(self) -> float:
        """The temperature of processed logprobs. Greedy sampling returns them at T = 1."""
        return float(self.sampling["temperature"]) or 1.0

    def equal_builds(self) -> bool:
        """Whether the engines have the same version, settings and configuration."""
        reference, candidate = (self.engines[role] for role in ROLES)
        return (
            not self.dumped
            and reference.version == candidate.version
            and reference.settings == candidate.settings
            and reference.config == candidate.config
        )

    def named(self, sentence: str) -> str:
        """A rule's sentence, which speaks of reference and candidate, with the engines' names."""

        def name(found: re.Match[str]) -> str:
            role: Role = "reference" if found[2] == "reference" else "candidate"
            engine = self.names[role]
            return found[1] + (engine if not found[1] or engine in ROLES else f"engines.{engine}")

        return ROLE_WORD.sub(name, sentence)

    def left_with(self, evidence: Evidence) -> Case:
        return replace(self, evidence=evidence)


@dataclass(frozen=True, slots=True)
class Match:
    """A rule's result when its pattern is present.

    `after` is the evidence with the cause subtracted, if that is possible token by token. Otherwise
    `share` is the share of the remaining E|Δ| that the cause explains, None if a share makes no
    sense. `words` fill the rule's templates.
    """

    engine: Role | None
    confidence: Confidence
    evidence: tuple[str, ...]
    after: Evidence | None = None
    share: float | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    rows: float = 0.0
    """The share of tokens that the cause makes unusable, which ranks a cause without a share."""
    settles: bool = False
    """Whether to stop here: this cause hides all others."""

    def names(self) -> dict[str, str]:
        """Values for the rule's templates, roles included."""
        role = self.engine
        return {
            **self.words,
            "engine": role or "one engine",
            "other": OTHER[role] if role else "other",
            "role": role or "candidate",
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of RULES: the pattern, its cause, and the fix.

    `claim`, `fix` and `confirm` are templates. {engine}, {other}, {role} and {run} are always
    available; other fields come from the match.
    """

    cause: str
    layer: Layer
    look: Callable[[Case], Match | None]
    pattern: str
    """What the rule looks for, as text."""
    claim: str
    fix: str
    confirm: str
    cases: str
    """Reports of this cause in the field; empty if only measured here."""
    vague: bool = False
    """Whether many causes look like this: the rule then applies only if much of E|Δ| is left."""


def listed(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    every = list(map(str, names))
    more = f" and {len(every) - NAMED} more" if len(every) > NAMED else ""
    return ", ".join(every[:NAMED]) + more


def percent(share: float) -> str:
    """A share as text."""
    return f"{100 * share:.0f} %"
