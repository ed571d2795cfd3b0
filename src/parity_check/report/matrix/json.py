"""report.json of more than two engines: the public, versioned form of a MatrixReport."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from parity_check.measure.decomposition import Decomposition, Leg
from parity_check.measure.results import ClipEstimate, Measurement
from parity_check.measure.stats import Estimate
from parity_check.report.document import dumps, origin, schema_of
from parity_check.report.json import finite_values
from parity_check.report.matrix.model import FirstStep, MatrixReport, Pair, Rollouts, Scorer


def render(report: MatrixReport) -> str:
    return dumps(to_dict(report))


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every such report keeps to."""
    return schema_of("parity_check.report.matrix")


def to_dict(report: MatrixReport) -> dict[str, Any]:
    """The JSON tree; infinities and NaN, which JSON does not have, become null."""
    return {
        "schema_version": report.schema_version,
        "report": "matrix",
        **origin(report),
        "verdict": report.verdict,
        "exit_code": int(report.exit_code),
        "model": report.model,
        "host": report.host,
        "sampling": report.sampling,
        "objective": report.objective.name,
        "engines": {scorer.engine.role: _scorer(scorer) for scorer in report.scorers},
        "rollouts": [_rollouts(each) for each in report.rollouts],
        "practices": {
            "trainer": report.trainer,
            "rollout": report.rollout,
            "checks": [asdict(practice) for practice in report.practices],
        },
        "warnings": [asdict(warning) for warning in report.warnings],
    }


def _scorer(scorer: Scorer) -> dict[str, Any]:
    return {
        **asdict(scorer.engine),
        "logprob_path": scorer.logprob_path,
        "entropy": scorer.entropy,
        "noise_floor": None if scorer.floor is None else _metrics(scorer.floor),
    }


def _rollouts(rollouts: Rollouts) -> dict[str, Any]:
    return {
        "sampled_by": rollouts.sampled_by,
        "prompts": rollouts.size.clusters,
        "samples": rollouts.size.samples,
        "tokens": rollouts.size.tokens + rollouts.size.excluded,
        "pairs": [_pair(pair) for pair in rollouts.pairs],
        "decompositions": [_decomposition(each) for each in rollouts.decompositions],
        "first_steps": [_first_step(step) for step in rollouts.first_steps],
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "evaluating": pair.evaluating,
        "behaviour": pair.behaviour,
        "tokens": pair.measurement.tokens,
        "excluded": pair.measurement.excluded,
        "metrics": _metrics(pair.measurement),
        "hygiene": [asdict(count) for count in pair.measurement.invalid],
        "gates": [
            {"metric": gate.metric, "verdict": gate.verdict, "reason": gate.reason}
            for gate in pair.gates
        ],
    }


def _decomposition(found: Decomposition) -> dict[str, Any]:
    return {
        "trainer": found.trainer,
        "tokens": found.tokens,
        **{name: _leg(getattr(found, name)) for name in ("whole", "already", "added")},
    }


def _leg(leg: Leg) -> dict[str, Any]:
    return {
        "evaluating": leg.evaluating,
        "behaviour": leg.behaviour,
        "mean_log_ratio": _estimate(leg.mean),
        "rms_log_ratio": _estimate(leg.rms),
        "squared_share": _estimate(leg.share),
    }


def _first_step(step: FirstStep) -> dict[str, Any]:
    return {
        "trainer": step.trainer,
        "logprobs": step.logprobs,
        "configured": step.configured,
        "ratio": _estimate(step.ratio),
        "clip": _clip(step.clip),
        "truncation": _clip(step.truncation),
    }


def _clip(clip: ClipEstimate | None) -> dict[str, Any] | None:
    return None if clip is None else {"objective": clip.objective.name, **_shares(clip)}


def _shares(clip: ClipEstimate) -> dict[str, Any]:
    return {name: _estimate(getattr(clip, name)) for name in ("counted", "band", "low", "high")}


def _metrics(measured: Measurement) -> dict[str, Any]:
    return {estimate.name: _estimate(estimate) for estimate in measured.estimates}


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else finite_values(asdict(estimate))
