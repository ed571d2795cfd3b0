"""The frozen LogsReport: curves, the limits drawn into them, and where they leave them."""

from __future__ import annotations

from dataclasses import dataclass

from parity_check.report.document import Head


@dataclass(frozen=True, slots=True)
class Band:
    """The allowed values of a curve, open sides infinite. `metric` is the one whose limit it is."""

    metric: str
    low: float
    high: float
    wording: str
    source: str


@dataclass(frozen=True, slots=True)
class Crossing:
    """The steps at which a curve is outside its band: how many, the first, and the last.

    `since` is the step from which on it is outside to the end; None where it ends inside.
    """

    steps: int
    first: float
    last: float
    since: float | None


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: finite values by step, each step once, in order.

    `not_finite` counts steps with NaN or infinity, `replaced` values that a later one of the same
    step replaced. `band` is None where no limit fits, `crossing` where the curve stays inside.
    """

    run: str
    logged_as: str
    framework: str
    metric: str
    label: str
    note: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    not_finite: int
    replaced: int
    band: Band | None
    crossing: Crossing | None


@dataclass(frozen=True, slots=True)
class LogsReport:
    """What training runs logged, against the limits of a profile. There is no verdict."""

    head: Head
    files: tuple[str, ...]
    series: tuple[Series, ...]
    unknown: int
    """Names in the files that are no known metric of the mismatch."""

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each.run for each in self.series))

    @property
    def limited(self) -> tuple[Series, ...]:
        return tuple(each for each in self.series if each.band is not None)

    @property
    def crossed(self) -> tuple[Series, ...]:
        """The curves that leave their limit: those that end outside first, the earliest first."""
        found = [each for each in self.series if each.crossing is not None]
        return tuple(sorted(found, key=_urgency))


def _urgency(series: Series) -> tuple[bool, float]:
    assert series.crossing is not None
    since = series.crossing.since
    return since is None, series.crossing.first if since is None else since
