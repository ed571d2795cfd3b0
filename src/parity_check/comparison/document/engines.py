"""What was compared: the engines next to each other, and what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from parity_check import words
from parity_check.comparison.report import ComparisonReport, EngineReport
from parity_check.config.models import SHAPING
from parity_check.report.document import Block, Column, Details, Row, Table
from parity_check.traces.trace import UNKNOWN

PACKAGES = ("torch", "transformers", "python")
NEUTRAL = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
ADDED = ("presence_penalty", "frequency_penalty")
DIFFERS, UNREQUESTED = "differs", "differs, not requested"


def name(engine: EngineReport) -> str:
    """An engine by its label and its family, e.g. `vllm 0.18.1, V1`."""
    if engine.family == UNKNOWN:
        return engine.label
    versioned = engine.family.startswith("v")
    return f"{engine.label}, {engine.family.upper() if versioned else engine.family}"


def workload(report: ComparisonReport) -> str:
    """Whose tokens, how many, and how they were sampled, in one line."""
    compared = report.workload
    sampling = compared.sampling
    parts = [f"temperature {sampling['temperature']:g}"] if "temperature" in sampling else []
    parts += [f"{k} {sampling[k]:g}" for k, off in NEUTRAL.items() if sampling.get(k, off) != off]
    parts += [f"{k} {sampling[k]:g}" for k in ADDED if sampling.get(k)]
    unknown = [key for key in SHAPING if key not in sampling]
    parts += [f"not stated: {', '.join(unknown)}"] if unknown else []
    path = f"{compared.logprob_path}-path logprobs"
    if compared.logprob_path == UNKNOWN:
        path = "logprob path unknown"
    seen = ""
    if compared.most_looks > 1:
        whole = report.head.config["stats"]["confidence"]
        seen = (
            f"; look {compared.looks} of at most {compared.most_looks}, each judged at "
            f"{100 * report.level:g} %: {100 * whole:g} % over all of them"
        )
    return (
        f"workload: {prompts(report, compared.prompts, compared.clusters)}, "
        f"{words.count(compared.samples, 'sample')}, {words.count(compared.tokens, 'token')}, "
        f"{', '.join(parts)}; {path}{seen}"
    )


def prompts(report: ComparisonReport, count: int, clusters: int) -> str:
    """So many prompts, and the independent units that they are in where those are others."""
    unit = report.head.config["stats"]["cluster_by"]
    independent = "" if unit == "prompt" else f" in {words.count(clusters, 'cluster')} by {unit}"
    return f"{words.count(count, 'prompt')}{independent}"


def table(report: ComparisonReport) -> Table:
    """A column an engine; rows that differ are marked."""
    marks = _marks(report)
    rows = [_row(report, key, value) for key, value in _described(report)]
    settings = dict.fromkeys(key for engine in report.engines for key in engine.settings)
    rows += [
        _row(report, key, partial(in_force, key=key), marks.get(key, ""))
        for key in dict.fromkeys([*settings, *marks])
    ]
    roles = [Column(engine.role) for engine in report.engines]
    caption = "The engines; rows that differ are marked"
    return Table(caption, (Column(""), *roles, Column("")), tuple(rows))


def _package(name: str, engine: EngineReport) -> str:
    """The version of a package in an engine's environment."""
    return engine.packages.get(name, "–")


def _described(report: ComparisonReport) -> Iterator[tuple[str, Callable[[EngineReport], str]]]:
    """Facts that are no settings, each with how it reads for an engine."""
    yield "engine", name
    if any(engine.device != UNKNOWN for engine in report.engines):
        yield "device", lambda engine: plain(engine.device)
    for package in PACKAGES:
        if any(package in engine.packages for engine in report.engines):
            yield package, partial(_package, package)
    if len({engine.logprob_path for engine in report.engines}) > 1:
        yield "logprob path", lambda engine: engine.logprob_path
    if any("layout" in engine.config for engine in report.engines):
        yield "batch shape", _batch_shape
    if any(engine.entropy is not None for engine in report.engines):
        yield "mean entropy, nats", _entropy


def _batch_shape(engine: EngineReport) -> str:
    config = engine.config
    if "layout" not in config:
        return "–"
    return f"{config['samples_per_batch']} {config['layout']}, {config['tokens_per_batch']} tokens"


def _entropy(engine: EngineReport) -> str:
    return "–" if engine.entropy is None else f"{engine.entropy:.4f}"


def in_force(engine: EngineReport, key: str) -> str:
    """A setting's value; `"default"` if it was left to the engine."""
    setting = engine.settings.get(key)
    if setting is None:
        return plain(engine.config.get(key))
    default = ' ("default")' if setting.requested == "default" else ""
    return plain(setting.in_force) + default


def _row(
    report: ComparisonReport, key: str, value: Callable[[EngineReport], str], mark: str = ""
) -> Row:
    arrow = f"← {mark}" if mark else ""
    return Row((key, *map(value, report.engines), arrow), marked=bool(mark))


def _marks(report: ComparisonReport) -> dict[str, str]:
    """What differs between the engines of any pair, and whether that was requested of all."""
    found: dict[str, str] = {}
    for pair in report.pairs:
        for difference in pair.differences:
            if not difference.requested:
                found[difference.key] = UNREQUESTED
            found.setdefault(difference.key, DIFFERS)
    return found


def facts(report: ComparisonReport) -> Iterator[Block]:
    """Every setting and every fact of the engines, those that differ first; model and host."""
    rows = sorted(_facts(report), key=lambda row: not row.marked)
    roles = [Column(engine.role) for engine in report.engines]
    columns = (Column("setting or fact"), *roles, Column("how it is known"), Column("difference"))
    yield Table("Settings in force, differences first", columns, tuple(rows))
    origins = {"model": report.head.model, "host": report.head.host}
    known = tuple(
        Row((f"{part}: {key}", plain(value)))
        for part, values in origins.items()
        for key, value in values.items()
    )
    columns = (Column("fact"), Column("value"))
    yield Details("Model and host", (Table("Model and host", columns, known),))


def _facts(report: ComparisonReport) -> Iterator[Row]:
    marks, engines = _marks(report), report.engines

    def row(key: str, values: list[str], proof: str = "", mark: str | None = None) -> Row:
        if mark is None:
            mark = marks.get(key) or (DIFFERS if len(set(values)) > 1 else "")
        return Row((key, *values, proof, mark), marked=bool(mark))

    for fact in ("label", "family", "device", "logprob_path"):
        yield row(fact.replace("_", " "), [str(getattr(engine, fact)) for engine in engines])
    for key in _keys(engine.settings for engine in engines):
        held = [engine.settings.get(key) for engine in engines]
        values = [
            "–" if each is None else f"{plain(each.in_force)} (requested {plain(each.requested)})"
            for each in held
        ]
        proofs = "; ".join(sorted({each.proof for each in held if each is not None}))
        yield row(key, values, proofs, marks.get(key, ""))
    for part in ("config", "packages", "environment"):
        tables: list[Mapping[str, Any]] = [getattr(engine, part) for engine in engines]
        for key in _keys(tables):
            yield row(key, [plain(each.get(key)) for each in tables])


def _keys(tables: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for table in tables for key in table))


def plain(value: Any) -> str:
    """A setting's value as a person writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "–" if value is None or value == "" else str(value)
