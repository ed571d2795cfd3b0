"""What a diagnosis says: three stages, and the causes that it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layer = Literal["semantic", "inference path", "objective"]
Outcome = Literal["pass", "fail", "not reached"]
Confidence = Literal["high", "medium", "low"]
LAYERS: tuple[Layer, ...] = ("semantic", "inference path", "objective")


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause of the drift, named from one run."""

    cause: str
    """The key of its rule, e.g. `raw_logprobs`."""
    layer: Layer
    confidence: Confidence
    engine: str | None
    """The role that the finding accuses; None where the data cannot tell."""
    claim: str
    """One sentence: what is wrong."""
    evidence: tuple[str, ...]
    """Sentences with the numbers that speak for it."""
    explained: float | None
    """Share of E|Δ| that it explains, 0 to 1; None where a share makes no sense (bad rows)."""
    fix: str
    """What to write where, e.g. the exact config line."""
    confirm: str
    """The command that would confirm it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the three layers, looked at in their order."""

    layer: Layer
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The stages, the findings ranked by what they explain, and what is known without a rule."""

    stages: tuple[Stage, ...]
    findings: tuple[Finding, ...]
    known: tuple[str, ...]
    """Facts in words where drift is there and no rule matched; empty otherwise."""
