"""What ran: every setting and fact of both engines, the differences first; the model, the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parity_check.comparison.report import EngineReport, ParityReport
from parity_check.report.table import plain

Row = tuple[str, str, str, str, str]
"""Key, reference, candidate, mark, proof."""


def rows(report: ParityReport) -> list[Row]:
    """Parity settings, then engine facts, packages and environment; differing rows first."""
    found = list(_rows(report))
    return [row for row in found if row[3]] + [row for row in found if not row[3]]


def provenance(report: ParityReport) -> list[tuple[str, str]]:
    """Facts of the model and the host."""
    facts = {"model": report.model, "host": report.host}
    return [
        (f"{part}: {key}", plain(value)) for part, of in facts.items() for key, value in of.items()
    ]


def _rows(report: ParityReport) -> Iterator[Row]:
    reference, candidate = report.engines
    requested = {difference.key: difference.requested for difference in report.differences}

    def mark(key: str, differs: bool) -> str:
        if key in requested:
            return "differs" if requested[key] else "differs, not requested"
        return "differs" if differs else ""

    for name in ("label", "family", "device"):
        left, right = (str(getattr(engine, name)) for engine in report.engines)
        yield f"engine {name}", left, right, mark(name, left != right), ""
    for name in _keys(reference.settings, candidate.settings):
        values = [_setting(engine, name) for engine in report.engines]
        proofs = {
            engine.settings[name].proof for engine in report.engines if name in engine.settings
        }
        yield name, values[0], values[1], mark(name, False), "; ".join(sorted(proofs))
    for part in ("config", "packages", "environment"):
        facts: list[Mapping[str, Any]] = [getattr(engine, part) for engine in report.engines]
        for name in _keys(*facts):
            pair = [plain(each.get(name)) for each in facts]
            yield name, pair[0], pair[1], mark(name, pair[0] != pair[1]), ""


def _keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*first, *second]))


def _setting(engine: EngineReport, name: str) -> str:
    setting = engine.settings.get(name)
    if setting is None:
        return "–"
    return f"{plain(setting.in_force)} (requested {plain(setting.requested)})"
