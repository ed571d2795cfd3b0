"""What a rule may look at, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.diagnosis.evidence import Evidence
from parity_check.diagnosis.findings import Confidence, Layer
from parity_check.traces.engine import UNKNOWN, Distribution

TRUNCATING = {"top_p": 1.0, "top_k": -1, "min_p": 0.0}
"""Sampling parameters that cut the support, and what leaves it whole."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is known of one engine beside its numbers.

    `floor` is E|Δ| (nats) of the engine against itself, None where that was not measured; `defects`
    counts unusable logprobs and alternatives by kind.
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
    """Share of its tokens that moved in the engine's own repeat."""
    defects: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Case:
    """Evidence and facts; a rule sees what the causes found before it have left."""

    evidence: Evidence
    engines: Mapping[Role, EngineFacts]
    sampling: Mapping[str, Any]
    """As the traces record it, the same for both engines; neutral where a dump does not say."""
    run: str
    """What the confirming command is to be given."""
    unrequested: tuple[str, ...] = ()
    """Settings and configuration in which the engines differ though nobody asked for it."""
    temperature_stated: bool = True
    names: Mapping[Role, str] = field(default_factory=lambda: {role: role for role in ROLES})
    """What the configuration calls the two engines."""

    @property
    def dumped(self) -> bool:
        """Whether an engine is known from a dump alone: its settings are unknown, not equal."""
        return any(self.engines[role].version == UNKNOWN for role in ROLES)

    def differing(self, key: str) -> tuple[Any, Any] | None:
        """A setting's or config entry's two values where they differ; None where they do not.

        Also None where an engine does not state it, as a dump or a served endpoint may not.
        """
        facts = [{**self.engines[role].config, **self.engines[role].settings} for role in ROLES]
        if self.dumped or not all(key in each for each in facts):
            return None
        left, right = (each[key] for each in facts)
        return (left, right) if left != right else None

    def temperature(self) -> float:
        """In force for processed logprobs: greedy sampling reports at 1."""
        return float(self.sampling["temperature"]) or 1.0

    def equal_builds(self) -> bool:
        """Whether the engines are of one version with the same settings and configuration."""
        reference, candidate = (self.engines[role] for role in ROLES)
        return (
            not self.dumped
            and reference.version == candidate.version
            and reference.settings == candidate.settings
            and reference.config == candidate.config
        )

    def left_with(self, evidence: Evidence) -> Case:
        return replace(self, evidence=evidence)


@dataclass(frozen=True, slots=True)
class Match:
    """A rule's answer where its pattern is there.

    `after` is the evidence with the cause subtracted, where that can be done token by token;
    otherwise `share` says how much of the remaining E|Δ| it explains, None where a share makes no
    sense. `words` fill the rule's sentences.
    """

    engine: Role | None
    confidence: Confidence
    evidence: tuple[str, ...]
    after: Evidence | None = None
    share: float | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    settles: bool = False
    """Whether what is left needs no other cause: nothing can be told apart behind this one."""

    def words_for(self, case: Case) -> dict[str, str]:
        """The words of the rule's sentences: names of the engines, and the table to change."""
        role = self.engine
        name = case.names[role or "candidate"]
        return {
            **self.words,
            "engine": name if role else "one engine",
            "other": case.names[OTHER[role]] if role else "other",
            "role": name,
            "table": name if name in ROLES else f"engines.{name}",
            "run": case.run,
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of RULES: what pattern names which cause, and what to do about it.

    `claim`, `fix` and `confirm` are templates; {engine}, {other}, {role} and {run} are always
    there, other words come from the match.
    """

    cause: str
    layer: Layer
    look: Callable[[Case], Match | None]
    pattern: str
    """What the rule looks for, in words."""
    claim: str
    fix: str
    confirm: str
    cases: str
    """Where the field met it."""
    vague: bool = False
    """Whether the pattern is what any rest looks like: it counts where much of E|Δ| is left."""


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.0f} %"
