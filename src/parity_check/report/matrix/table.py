"""What a comparison of many engines shows as rows of cells: shared by text and Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check.comparison.report import EngineReport
from parity_check.measure.decomposition import Decomposition, Leg
from parity_check.measure.results import Measurement
from parity_check.measure.stats import Estimate
from parity_check.report import numbers
from parity_check.report.matrix import sentences
from parity_check.report.matrix.model import MatrixReport, Rollouts, Scorer
from parity_check.report.sentences import SHARE_OF
from parity_check.report.table import plain

Row = tuple[str, ...]

SHOWN = (
    "rms_log_ratio",
    "mean_abs_log_ratio",
    "mean_importance_ratio",
    "k3_kl",
    "clip_fraction",
)


def engine_rows(report: MatrixReport) -> list[Row]:
    """A header, then a row an engine."""
    head = ("", "engine", "body", "lm_head", "logprobs", "path", "batch shape", "entropy")
    return [head, *(_engine_row(scorer) for scorer in report.scorers)]


def _engine_row(scorer: Scorer) -> Row:
    engine = scorer.engine
    shape = "–"
    if "layout" in engine.config:
        config = engine.config
        shape = (
            f"{config['samples_per_batch']} {config['layout']}, {config['tokens_per_batch']} tokens"
        )
    return (
        engine.role,
        f"{engine.label}, {engine.family.upper()}, {engine.device}",
        plain(engine.config.get("dtype")),
        _in_force(engine, "lm_head_dtype"),
        _in_force(engine, "logprobs_mode").removesuffix("_logprobs"),
        scorer.logprob_path,
        shape,
        "–" if scorer.entropy is None else f"{scorer.entropy:.4f}",
    )


def _in_force(engine: EngineReport, setting: str) -> str:
    found = engine.settings.get(setting)
    return "–" if found is None else plain(found.in_force)


def pair_rows(report: MatrixReport, rollouts: Rollouts) -> list[Row]:
    """A header, then a row a pair."""
    rows = [
        (sentences.pair_name(pair), *_cells(pair.measurement), sentences.outcome(pair))
        for pair in rollouts.pairs
    ]
    return [("Δ", *_heads(report), ""), *rows]


def floor_rows(report: MatrixReport) -> list[Row]:
    """A header, then a row for each engine that was repeated; nothing where none was."""
    rows = [
        (scorer.engine.role, *_cells(scorer.floor))
        for scorer in report.scorers
        if scorer.floor is not None
    ]
    return [("A/A floor", *_heads(report)), *rows] if rows else []


def _heads(report: MatrixReport) -> Row:
    level = f"{100 * report.level:g} % interval"
    clip = SHARE_OF[report.objective.kind]
    return ("mean Δ", level, "RMS Δ", "mean |Δ|", "mean ratio", "k3", clip)


def _cells(measured: Measurement) -> Iterator[str]:
    mean = measured["mean_log_ratio"]
    yield numbers.value(mean)
    yield numbers.interval(mean)
    for name in SHOWN:
        yield numbers.value(measured[name])


def decomposition_rows(found: Decomposition) -> list[Row]:
    """A header, then the whole and its two legs."""
    return [
        (f"{found.trainer} against candidate", "mean Δ", "RMS Δ", "share", "interval", ""),
        _leg("", found.whole, "the whole"),
        _leg("= ", found.already, "was there already"),
        _leg("+ ", found.added, "the change of engine added"),
    ]


def _leg(sign: str, leg: Leg, what: str) -> Row:
    return (
        f"{sign}{leg.evaluating} − {leg.behaviour}",
        numbers.value(leg.mean),
        numbers.value(leg.rms),
        "–" if leg.share is None else share(leg.share.value),
        "–" if leg.share is None else _interval(leg.share),
        what,
    )


def _interval(estimate: Estimate) -> str:
    if estimate.ci_low is None or estimate.ci_high is None:
        return "–"
    return f"[{share(estimate.ci_low)}, {share(estimate.ci_high)}]"


def share(value: float) -> str:
    """A share that may be negative, or above one."""
    return f"{100 * value:.1f} %"
