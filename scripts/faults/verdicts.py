"""Tables of the diagnosis of each case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.cases import Case
from parity_check.comparison.analyse import analyse
from parity_check.config.load import load_config
from parity_check.diagnosis.findings import Finding

NOTHING = "–"
HEADER = (
    *("case", "what is wrong", "tokens", "mean |Δ|"),
    *("expected", "named first", "explains", "also named", "result"),
)


@dataclass(frozen=True)
class Outcome:
    """A case and its findings, ranked. `size` is mean |Δ| in nats, of the larger direction."""

    case: Case
    findings: tuple[Finding, ...]
    tokens: int
    size: float

    @property
    def named(self) -> str:
        return self.findings[0].cause if self.findings else NOTHING

    @property
    def right(self) -> bool:
        """The fault is found first, and a second fault too; a clean pair has no finding."""
        if not self.case.expected:
            return not self.findings
        causes = {finding.cause for finding in self.findings}
        return self.named in self.case.expected and causes.issuperset(self.case.also)

    def _result(self) -> str:
        if self.case.expected:
            return "named" if self.right else "missed"
        return "clean" if self.right else "false alarm"

    def cells(self) -> tuple[str, ...]:
        first = self.findings[0].explained if self.findings else None
        expected = " or ".join(self.case.expected) or NOTHING
        return (
            self.case.name,
            self.case.what,
            f"{self.tokens:,}",
            f"{self.size:.4f}",
            " + ".join([expected, *self.case.also]),
            self.named,
            NOTHING if first is None else f"{first:.0%}",
            ", ".join(finding.cause for finding in self.findings[1:]) or NOTHING,
            self._result(),
        )


def judge(case: Case, run: Path) -> Outcome:
    """Diagnose a run directory like `parity-check report`."""
    report = analyse(run, load_config(run / "config.toml"))
    [pair] = report.pairs
    sizes = [each.measurement["mean_abs_log_ratio"].value for each in pair.directions]
    return Outcome(case, pair.diagnosis.findings, report.workload.tokens, max(sizes))


def summary(outcomes: Sequence[Outcome]) -> str:
    """Misses and false alarms, one line each."""
    faults = [outcome for outcome in outcomes if outcome.case.expected]
    clean = [outcome for outcome in outcomes if not outcome.case.expected]
    lines = []
    for kind, cases in (("faults named first", faults), ("clean pairs without a finding", clean)):
        wrong = [outcome.case.name for outcome in cases if not outcome.right]
        rest = f"; not: {', '.join(wrong)}" if wrong else ""
        lines.append(f"{len(cases) - len(wrong)} of {len(cases)} {kind}{rest}")
    return "\n".join(lines)


def text(outcomes: Sequence[Outcome]) -> str:
    """Aligned columns."""
    rows = [HEADER, *(outcome.cells() for outcome in outcomes)]
    rows = [(row[0], *row[2:]) for row in rows]  # the names are enough here
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def markdown(outcomes: Sequence[Outcome]) -> str:
    header = [cell.replace("|", "\\|") for cell in HEADER]
    rows = [header, ("---",) * len(HEADER), *(outcome.cells() for outcome in outcomes)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def confusion(outcomes: Sequence[Outcome]) -> str:
    """Expected cause against first finding, in Markdown; numbers are cases."""
    counts = Counter(
        (
            outcome.named if outcome.right else (outcome.case.expected or (NOTHING,))[0],
            outcome.named,
        )
        for outcome in outcomes
    )
    names = sorted({name for pair in counts for name in pair} - {NOTHING})
    columns = [*names, NOTHING]
    rows = [("expected ↓, named first →", *columns), ("---",) * (len(columns) + 1)]
    rows += [
        (name, *(str(counts.get((name, column), "")) for column in columns)) for name in columns
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
