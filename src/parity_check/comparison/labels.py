"""Names of the metrics and pairs of a comparison in reports."""

from __future__ import annotations

from parity_check.comparison.report import ComparisonReport, Pair
from parity_check.measure.metrics import METRICS
from parity_check.measure.objectives import Objective

SHARE_OF = {"clip": "clip fraction", "truncation": "truncation share", "mask": "masked share"}


def label(report: ComparisonReport, name: str) -> str:
    """The name of a metric, or of a kind of invalid logprobs, in this report."""
    _, kind_of, kind = name.partition(".")
    if kind_of:
        return f"invalid logprobs: {kind.replace('_', ' ')}"
    if name == "clip_fraction":
        return share_label(report.objective)
    if name == "tail_fraction":
        return f"tokens with |Δ| > {report.head.config['stats']['tail_threshold']:g}"
    own = METRICS[name].label
    by_prompt = report.head.config["stats"]["cluster_by"] == "prompt"
    return own.replace("clusters", "prompts") if by_prompt else own


def share_label(objective: Objective) -> str:
    """The name of the share of tokens or sequences that an objective changes."""
    return f"{SHARE_OF[objective.kind]}, {objective.name}"


def pair_label(pair: Pair) -> str:
    return f"{pair.candidate} against {pair.reference}"
