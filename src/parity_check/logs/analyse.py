"""Curves of the same run and name joined, and held against the limits of a profile."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from parity_check.comparison.judgement import judgement
from parity_check.config.models import Judging
from parity_check.errors import InputError
from parity_check.logs.names import NAMES, TRUNCATED, Named
from parity_check.logs.read import Curve, Log
from parity_check.logs.report import Band, Crossing, Series
from parity_check.measure.limits import Limit
from parity_check.measure.metrics import METRICS
from parity_check.report import numbers

CLIPS = "clip_fraction"


def analyse(logs: Sequence[Log], judging: Judging) -> tuple[Series, ...]:
    """One series per run and name, in the order of NAMES. Raises InputError, ConfigError."""
    limits = chosen_limits(judging)
    curves: dict[tuple[str, str], list[Curve]] = {}
    for log in logs:
        for curve in log.curves:
            curves.setdefault((curve.run, curve.name), []).append(curve)
    if not curves:
        raise nothing_known(logs)
    found = sorted(curves.values(), key=lambda parts: NAMES.index(parts[0].named))
    return tuple(_series(parts, limits) for parts in found)


def chosen_limits(judging: Judging) -> dict[str, Limit]:
    """The limits that fit a log, by metric.

    A profile's limit on the clip fraction is of the first step, where only the engines differ; a
    logged clip rate also counts what the policy changed. It has the user's own limit or none.
    """
    own = judging.gates.overrides()
    chosen = judgement(judging).limits
    return {each.metric: each for each in chosen if each.metric != CLIPS or CLIPS in own}


def nothing_known(logs: Sequence[Log]) -> InputError:
    """The error for files without any name that is known."""
    names = [name for log in logs for name in log.unknown]
    listed = f": {', '.join(names[:4])}{', …' if len(names) > 4 else ''}" if names else ""
    return InputError(
        f"{', '.join(str(log.path) for log in logs)}: no known metric of the mismatch between "
        f"rollout engine and trainer{listed}",
        hint="docs/guides/logs.md lists the names of each framework; clip rates and rewards alone "
        "do not show the mismatch",
    )


def _series(parts: Sequence[Curve], limits: Mapping[str, Limit]) -> Series:
    named = parts[0].named
    points = [point for part in parts for point in part.points]
    by_step = dict(points)
    finite = {step: by_step[step] for step in sorted(by_step) if math.isfinite(by_step[step])}
    band = _band(named, limits)
    return Series(
        run=parts[0].run,
        logged_as=parts[0].name,
        framework=named.framework,
        metric=named.metric,
        label=named.label or METRICS[named.metric].label,
        note=named.note,
        steps=tuple(finite),
        values=tuple(finite.values()),
        not_finite=len(by_step) - len(finite),
        replaced=len(points) - len(by_step),
        band=band,
        crossing=None if band is None else crossing(finite.items(), band),
    )


def _band(named: Named, limits: Mapping[str, Limit]) -> Band | None:
    limit = limits.get(named.metric) or limits.get(named.limited_by or "")
    if limit is None or limit.kind == "exact" or named.label == TRUNCATED:
        return None
    return Band(limit.metric, *limit.edges(), numbers.limit(limit), limit.source)


def crossing(points: Iterable[tuple[float, float]], band: Band) -> Crossing | None:
    """Where a curve is outside its band; None if it never is."""
    steps = [step for step, value in points if not band.low <= value <= band.high]
    since = None
    for step, value in points:
        inside = band.low <= value <= band.high
        since = None if inside else step if since is None else since
    return Crossing(len(steps), steps[0], steps[-1], since) if steps else None
