"""The result of a diagnosis: three stages and the causes found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layer = Literal["semantic", "inference path", "objective"]
Outcome = Literal["pass", "fail", "not reached", "unknown"]
Confidence = Literal["high", "medium", "low"]
LAYERS: tuple[Layer, ...] = ("semantic", "inference path", "objective")
REMARK = 0.05
"""A finding that explains less of E|Δ| is a remark."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause of the drift."""

    cause: str
    """The key of its rule, e.g. `raw_logprobs`."""
    layer: Layer
    confidence: Confidence
    engine: str | None
    """The role at fault; None if the data cannot tell."""
    claim: str
    """One sentence: what is wrong."""
    evidence: tuple[str, ...]
    """Sentences with the supporting numbers."""
    explained: float | None
    """Share of E|Δ| that it explains, 0 to 1; None if a share makes no sense (bad rows)."""
    weight: float
    """The explained share, or the share of tokens without a usable logprob: what ranks it."""
    fix: str
    """What to change, e.g. the exact config line."""
    confirm: str | None
    """The command that confirms it; None if nothing at hand can."""

    @property
    def remark(self) -> bool:
        """Whether it is there but does not explain the drift."""
        return self.explained is not None and self.explained < REMARK


@dataclass(frozen=True, slots=True)
class Stage:
    """One of the three layers, judged in order."""

    layer: Layer
    outcome: Outcome
    sentence: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The stages, the findings ranked by explained share, and observations if nothing was found."""

    stages: tuple[Stage, ...]
    findings: tuple[Finding, ...]
    known: tuple[str, ...]
    """Observations if there is drift and no rule matched; empty otherwise."""

    @property
    def causes(self) -> tuple[Finding, ...]:
        """The findings that explain something of the drift."""
        return tuple(finding for finding in self.findings if not finding.remark)

    @property
    def remarks(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.remark)
