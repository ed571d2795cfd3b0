"""The frozen MatrixReport: everything that a renderer of a comparison of many engines needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parity_check.comparison.practices import Logprobs, Practice
from parity_check.comparison.report import EXIT_CODES, EngineReport, ReportWarning
from parity_check.errors import ExitCode
from parity_check.measure.decomposition import Decomposition
from parity_check.measure.gates import GateResult, Verdict
from parity_check.measure.objectives import Objective
from parity_check.measure.results import ClipEstimate, Measurement
from parity_check.measure.stats import Estimate

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Scorer:
    """One engine of the matrix: how it computed its logprobs, and its noise against itself.

    `entropy` is the mean over tokens of the full distribution's, nats, where the engine says.
    """

    engine: EngineReport
    logprob_path: str
    floor: Measurement | None
    entropy: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two engines on the same tokens: Δ = logprob of `evaluating` - logprob of `behaviour`.

    Only where `behaviour` sampled the tokens is its ratio an importance ratio, with a mean of 1;
    only then is it judged (`gates`).
    """

    evaluating: str
    behaviour: str
    measurement: Measurement
    truncation: ClipEstimate
    gates: tuple[GateResult, ...]


@dataclass(frozen=True, slots=True)
class FirstStep:
    """What a loss would see on its first step, before any update of the policy.

    `ratio` and `clip` are of the policy ratio, `truncation` of the importance weight; None where
    the loss has no such thing, or where the trainer was not repeated.
    """

    trainer: str
    logprobs: Logprobs
    configured: bool
    ratio: Estimate | None
    clip: ClipEstimate | None
    truncation: ClipEstimate | None


@dataclass(frozen=True, slots=True)
class Rollouts:
    """One engine's rollouts, and every engine's logprobs on them."""

    sampled_by: str
    pairs: tuple[Pair, ...]
    decompositions: tuple[Decomposition, ...]
    first_steps: tuple[FirstStep, ...]

    def pair(self, evaluating: str, behaviour: str) -> Pair:
        return next(
            each
            for each in self.pairs
            if (each.evaluating, each.behaviour) == (evaluating, behaviour)
        )

    @property
    def size(self) -> Measurement:
        """Of the first pair: how many prompts, samples and tokens there are."""
        return self.pairs[0].measurement


@dataclass(frozen=True, slots=True)
class MatrixReport:
    """A whole comparison. `practices` are of `trainer` on the rollouts of `rollout`."""

    run_id: str
    created_utc: str
    command: str
    parity_check: str
    config: dict[str, Any]
    model: dict[str, Any]
    host: dict[str, Any]
    sampling: dict[str, Any]
    scorers: tuple[Scorer, ...]
    objective: Objective
    level: float
    rollouts: tuple[Rollouts, ...]
    trainer: str
    rollout: str
    practices: tuple[Practice, ...]
    verdict: Verdict
    warnings: tuple[ReportWarning, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def gates(self) -> tuple[GateResult, ...]:
        return tuple(gate for each in self.rollouts for pair in each.pairs for gate in pair.gates)

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.verdict]
