"""The plots of one direction, a function each: what `Pictures` holds, on axes.

`names` are the names of a pair's two engines by their role in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from parity_check.comparison.pictures import spread
from parity_check.comparison.pictures.collect import Pictures, QuantileBin
from parity_check.comparison.pictures.gaps import EXPONENTS, Gaps
from parity_check.comparison.pictures.hexagons import ROW, WIDTH
from parity_check.comparison.report import Direction
from parity_check.config.models import ROLES, Role
from parity_check.diagnosis.grid import FALSE_POSITIVES
from parity_check.measure.objectives import Objective
from parity_check.measure.stats import Estimate, Ints
from parity_check.report.svg import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SQUARE = {"left": 0.12, "right": 0.66, "top": 0.97, "bottom": 0.17}
"""Margins of a square plot with its legend on the right."""
NOTHING = 1e-9  # where a log axis has no 0
DIGITS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
HEXAGON = ((0, 2 / 3), (0.5, 1 / 3), (0.5, -1 / 3), (0, -2 / 3), (-0.5, -1 / 3), (-0.5, 1 / 3))
"""Corners round a centre: across in widths, along in half rows."""
HEATS = 6
COARSE = 8
RATIO_UNIT = {
    "token": "importance ratio of a token",
    "sequence-mean": "geometric mean ratio of a sequence",
    "sequence-sum": "product of a sequence's ratios",
    "sequence-extreme": "importance ratio of a token",
}


@dataclass(frozen=True, slots=True)
class Again:
    """Counts of Δ of an engine's A/A runs: its role in the pair, and its name."""

    role: Role
    name: str
    log_ratio: Ints


def log_ratio(axes: Axes, pictures: Pictures, floors: Sequence[Again]) -> None:
    """Histogram of Δ on signed log bins, the A/A floors over it."""
    series = [pictures.log_ratio, *(floor.log_ratio for floor in floors)]
    lowest, highest = _decades(series)
    for number, counts in enumerate(series):
        edges, shares = _signed_stairs(counts, lowest, highest)
        if number == 0:
            axes.stairs(
                shares, edges, baseline=NOTHING, fill=True, color=COLOURS["data"], alpha=0.5,
                label="Δ",
            )  # fmt: skip
        else:
            again = floors[number - 1]
            axes.stairs(
                shares, edges, baseline=None, color=COLOURS[again.role], linewidth=1.2,
                linestyle="-" if again.role == "reference" else (0, (3, 1.5)),
                label=f"A/A {again.name}",
            )  # fmt: skip
    reach = highest - lowest + 1
    steps = range(1, reach + 1)
    every = math.ceil(reach / 4)
    shown = [step for step in steps if (reach - step) % every == 0 and step > 1]
    names = [_power(lowest + step - 1) for step in shown]
    axes.set_xticks(
        [*(-step for step in reversed(shown)), 0, *shown],
        [*(f"−{name}" for name in reversed(names)), "0", *names],
    )
    axes.set(
        yscale="log", xlabel="Δ, nats (log scale on either side of 0)", ylabel="share of tokens"
    )
    axes.set_ylim(0.5 / pictures.tokens, 1.3)
    axes.yaxis.set_major_formatter(_power_of)
    _legend(axes)


def exceedance(
    axes: Axes,
    pictures: Pictures,
    floors: Sequence[Again],
    limit: tuple[float, float | None],
) -> None:
    """1 − ECDF of |Δ| on log axes; `limit` is the tail threshold and the share it allows."""
    lines: list[tuple[Ints, str, Any, str]] = [(pictures.log_ratio, "data", "-", "Δ")]
    lines += [(each.log_ratio, each.role, (0, (3, 1.5)), f"A/A {each.name}") for each in floors]
    for counts, role, style, label in lines:
        shares = spread.shares_above(counts)
        there = shares > 0
        axes.plot(
            spread.SIZES[there], shares[there], color=COLOURS[role], linestyle=style, label=label
        )
    threshold, share = limit
    lowest = 0.5 / pictures.tokens
    axes.set(xscale="log", yscale="log", xlabel="x, nats", ylabel="share of tokens with |Δ| ≥ x")
    axes.set_xlim(1e-7, 30)
    if share is None:
        axes.axvline(threshold, color=COLOURS["muted"], linewidth=1, linestyle=":")
    else:
        lowest = min(lowest, share / 3)
        axes.fill_between(
            [threshold, 100], share, 3, color=COLOURS["bad"], alpha=0.22, linewidth=0,
            label="tail limit",
        )  # fmt: skip
    axes.set_ylim(lowest, 1.3)
    axes.xaxis.set_major_formatter(_power_of)
    axes.yaxis.set_major_formatter(_power_of)
    _legend(axes)


def logprobs(axes: Axes, pictures: Pictures, names: Mapping[Role, str]) -> None:
    """Reference against candidate logprob, hexagons by the number of tokens."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    axes.figure.subplots_adjust(**SQUARE)
    found = pictures.logprobs
    most = int(found.counts.max())
    ends = np.unique(np.ceil(np.geomspace(1, most + 1, HEATS + 1)).astype(int))
    for number, (low, high) in enumerate(pairwise(ends), 1):
        inside = np.flatnonzero((found.counts >= low) & (found.counts < high))
        if not len(inside):
            continue
        cells = [
            Path([*_hexagon(found.x[cell], found.y[cell]), (0, 0)], closed=True) for cell in inside
        ]
        label = f"{low:,}" if high == low + 1 else f"{low:,}–{high - 1:,}"
        heat = round(number * HEATS / (len(ends) - 1))
        together = Path.make_compound_path(*cells)
        axes.add_patch(
            PathPatch(together, facecolor=COLOURS[f"heat-{heat}"], linewidth=0, label=label)
        )
    lowest = min(float(found.x.min()), float(found.y.min())) - WIDTH
    axes.plot([lowest, 0], [lowest, 0], color=COLOURS["ink"], linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set(xlim=(lowest, 0.25), ylim=(lowest, 0.25), aspect="equal")
    ticks = [-step for step in range(0, int(-lowest) + 1, 5 if lowest < -8 else 2)]
    axes.set(xticks=ticks, yticks=ticks)
    axes.set(xlabel=f"{names['reference']} logprob, nats")
    axes.set(ylabel=f"{names['candidate']} logprob, nats")
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), title="tokens", title_fontsize=8.5)


def by_position(axes: Axes, pictures: Pictures) -> None:
    """Quantiles of Δ by position in the completion."""
    bins = pictures.by_position
    _bands(axes, bins)
    every = max(1, math.ceil(len(bins) / 9))
    axes.set_xticks(
        range(0, len(bins), every),
        [f"{bins[place].low:,.0f}" for place in range(0, len(bins), every)],
    )
    axes.set(xlabel="position in the completion, tokens (from, first is 0)", ylabel="Δ, nats")


def by_probability(axes: Axes, pictures: Pictures, direction: Direction) -> None:
    """Quantiles of Δ by the behaviour engine's probability, with mean Δ and its interval."""
    bins = pictures.by_probability
    _bands(axes, bins)
    breakdown = direction.measurement.breakdowns["behaviour_probability"]
    means = [each.estimates[0] for each in breakdown]
    assert means[0].name == "mean_log_ratio"
    _whiskers(axes, range(len(means)), means, f"mean, {100 * means[0].level:g} % interval")
    labels = [f"{math.exp(-each.high):.2g}–\n{math.exp(-each.low):.2g}" for each in bins]
    axes.set_xticks(range(len(bins)), labels)
    axes.set(xlabel="probability that the behaviour engine gave the token", ylabel="Δ, nats")
    _legend(axes)


def ratios(axes: Axes, pictures: Pictures, objective: Objective) -> None:
    """Histogram of the ratio that the objective compares, with its band."""
    found = pictures.ratios
    total = found.counts.sum() + found.below + found.above
    edges = np.exp(found.edges)
    low, high = (math.exp(edge) for edge in objective.log_edges())
    if objective.statistic == "log ratio":
        axes.axvspan(
            max(low, edges[0]), min(high, edges[-1]), color=COLOURS["good"], alpha=0.18,
            linewidth=0, label=f"band of {objective.name}",
        )  # fmt: skip
    axes.stairs(
        np.maximum(found.counts / total, NOTHING), edges, baseline=NOTHING, fill=True,
        color=COLOURS["data"], alpha=0.6,
    )  # fmt: skip
    axes.axvline(1.0, color=COLOURS["ink"], linewidth=0.8, linestyle=(0, (3, 2)))
    axes.set_xlim(edges[0], edges[-1])
    if found.edges[-1] > 1.6:
        axes.set_xscale("log")
        ticks = _ratio_ticks(edges[0], edges[-1])
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    for count, place, side in ((found.below, 0.01, "left"), (found.above, 0.99, "right")):
        if count:
            axes.text(
                place, 0.72, f"{count:,} beyond", transform=axes.transAxes, ha=side,
                color=COLOURS["muted"],
            )  # fmt: skip
    axes.set(yscale="log", xlabel=RATIO_UNIT[objective.level])
    axes.set_ylabel("share of tokens" if objective.level == "token" else "share of sequences")
    axes.set_ylim(0.5 / total, 1.3)
    axes.yaxis.set_major_formatter(_power_of)
    _legend(axes)


def sequences(axes: Axes, pictures: Pictures) -> None:
    """Caterpillar: mean Δ of sequences by rank, with the GSPO band."""
    found, (low, high) = pictures.sequences, pictures.gspo_band
    ranks = np.linspace(0, 100, len(found.means)) if len(found.means) > 1 else np.array([50.0])
    axes.axhspan(low, high, color=COLOURS["good"], alpha=0.25, linewidth=0, label="GSPO band")
    outside = (found.means < low) | (found.means > high)
    for chosen, role, label in (
        (~outside, "data", "inside, ± 1.96 standard errors"),
        (outside, "bad", "outside"),
    ):
        if chosen.any():
            ends = found.half_widths[chosen]
            gap = np.full(len(ends), np.nan)  # one broken line takes less room than many
            whiskers = np.stack([found.means[chosen] - ends, found.means[chosen] + ends, gap])
            axes.plot(
                np.repeat(ranks[chosen], 3), whiskers.T.ravel(), color=COLOURS[role],
                linewidth=0.7, alpha=0.5,
            )  # fmt: skip
            axes.plot(
                ranks[chosen], found.means[chosen], ".", color=COLOURS[role], markersize=3,
                label=label,
            )  # fmt: skip
    reach = max(1.3 * float(np.abs(found.means).max()), 2.5 * max(-low, high))
    axes.set_ylim(-reach, reach)
    axes.set(xlabel="sequences by rank, %", ylabel="mean Δ of a sequence, nats")
    _legend(axes)


def clip_by_length(axes: Axes, shares: Sequence[tuple[str, Estimate]], limit: float | None) -> None:
    """What a sequence clip would remove, by length; `limit` where the gate is about it."""
    labels = [label.removesuffix(" tokens") for label, _ in shares]
    _whiskers(axes, range(len(shares)), [estimate for _, estimate in shares], "share clipped")
    ends = [estimate.ci_high or estimate.value for _, estimate in shares]
    top = max(1e-3, *ends, *([] if limit is None else [2 * limit]))
    if limit is not None:
        axes.axhspan(
            0, limit, color=COLOURS["good"], alpha=0.18, linewidth=0, label="limit overall"
        )
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylim(0, 1.08 * top)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set(xlabel="length of the completion, tokens", ylabel="share of sequences")
    _legend(axes)


def gap_slope(axes: Axes, gaps: Gaps, temperature: float, names: Mapping[Role, str]) -> None:
    """Candidate against reference top-k gaps, with the slopes that have a meaning."""
    most = float(max(gaps.reference.max(), gaps.candidate.max(), 1.0))
    least = float(min(gaps.reference.min(), gaps.candidate.min(), 0.0))
    axes.plot(
        gaps.reference, gaps.candidate, "o", color=COLOURS["data"], markersize=2.6, alpha=0.45,
        markeredgewidth=0,
    )  # fmt: skip
    slopes = [(1.0, "slope 1", "-")]
    if temperature not in (0.0, 1.0):
        slopes += [
            (temperature, f"T = {temperature:g}: {names['candidate']} raw", "--"),
            (1 / temperature, f"1/T: {names['reference']} raw", ":"),
        ]
    for slope, label, style in slopes:
        ends = np.array([least, most])
        axes.plot(
            ends, slope * ends, color=COLOURS["ink"], linestyle=style, linewidth=0.9, label=label
        )
    axes.set(xlim=(least, 1.03 * most), ylim=(least, 1.03 * most))
    axes.set(xlabel=f"{names['reference']} gap, nats", ylabel=f"{names['candidate']} gap, nats")
    _legend(axes)


def logit_grid(axes: Axes, gaps: Gaps, names: Mapping[Role, str]) -> None:
    """Share of gaps that are multiples of 2⁻ᵏ, by engine."""
    steps = range(len(EXPONENTS))
    for role, marker, style in zip(ROLES, "os", ("-", (0, (3, 1.5))), strict=True):
        axes.plot(
            steps, gaps.on_grid[role], marker=marker, markersize=4, color=COLOURS[role],
            linestyle=style, label=names[role],
        )  # fmt: skip
    axes.axhline(FALSE_POSITIVES, color=COLOURS["muted"], linestyle=":", label="by chance")
    axes.set_xticks(steps, [f"2{str(-exponent).translate(DIGITS)}" for exponent in EXPONENTS])
    axes.set_ylim(-0.03, 1.06)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set(xlabel="grid step, nats of logit", ylabel="share of gaps on the grid")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, columnspacing=1.2, borderpad=0.1
    )


def _decades(series: Iterable[Ints]) -> tuple[int, int]:
    """The powers of ten between which there is something to see."""
    sizes = sum(counts[spread.SIDE + 1 :] + counts[spread.SIDE - 1 :: -1] for counts in series)
    there = np.flatnonzero(sizes)
    if not len(there):
        return -6, -3
    lowest = spread.LOWEST + int(there[0]) // spread.PER_DECADE
    highest = spread.LOWEST + int(there[-1]) // spread.PER_DECADE + 1
    return lowest, max(highest, lowest + 1)


def _signed_stairs(counts: Ints, lowest: int, highest: int) -> tuple[Any, Any]:
    """Edges and shares, a decade a unit; the bin of 0 reaches from -1 to 1."""
    per = spread.PER_DECADE // COARSE
    skip, stop = (lowest - spread.LOWEST) * per, (highest - spread.LOWEST) * per
    rows, _ = spread.coarser(counts, COARSE)
    middle = len(rows) // 2
    upper, lower = rows[middle + 1 :][skip:stop], rows[middle - 1 :: -1][skip:stop]
    steps = 1 + np.arange(stop - skip + 1) / per
    edges = np.concatenate([-steps[::-1], steps])
    shares = np.concatenate([lower[::-1], rows[middle : middle + 1], upper]) / counts.sum()
    return edges, np.maximum(shares, NOTHING)


def _power(exponent: int) -> str:
    return f"10{str(exponent).translate(DIGITS)}" if exponent else "1"


def _ratio_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10 and so on between two ratios; powers of ten where these are many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(decades) < 5 else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high][:: max(1, len(decades) // 8)]


def _power_of(value: float, place: float) -> str:
    """The label of a log axis."""
    return _power(round(math.log10(value)))


def _hexagon(x: float, y: float) -> list[tuple[float, float]]:
    return [(x + across * WIDTH, y + along * ROW / 2) for across, along in HEXAGON]


def _bands(axes: Axes, bins: Sequence[QuantileBin]) -> None:
    """The 1 to 99 % and 10 to 90 % bands and the median, a column a bin."""
    edges = np.arange(len(bins) + 1) - 0.5
    low, lower, median, upper, high = np.array([each.quantiles for each in bins]).T
    for below, above, alpha, label in (
        (low, high, 0.22, "1 to 99 %"),
        (lower, upper, 0.5, "10 to 90 %"),
    ):
        axes.stairs(
            above, edges, baseline=below, fill=True, color=COLOURS["data"], alpha=alpha, label=label
        )
    axes.hlines(median, edges[:-1], edges[1:], color=COLOURS["ink"], linewidth=1.4, label="median")
    axes.axhline(0, color=COLOURS["muted"], linewidth=0.8, linestyle=(0, (3, 2)))
    few = sum(each.n for each in bins) / 100
    common = [each for each in bins if each.n >= few]
    reach = 1.3 * max(abs(end) for each in common for end in each.quantiles) or 1e-6
    for place, each in enumerate(bins):
        if each.n < few:
            free = -0.92 if each.quantiles[2] > 0 else 0.86
            axes.text(place, free * reach, f"n = {each.n:,}", color=COLOURS["ink"], ha="center")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(-reach, reach))
    _legend(axes)


def _whiskers(axes: Axes, places: Sequence[int], estimates: Sequence[Estimate], label: str) -> None:
    values = [estimate.value for estimate in estimates]
    axes.plot(places, values, "o", color=COLOURS["ink"], markersize=4, label=label)
    for place, estimate in zip(places, estimates, strict=True):
        if estimate.ci_low is not None and estimate.ci_high is not None:
            axes.vlines(
                place, estimate.ci_low, estimate.ci_high, color=COLOURS["ink"], linewidth=1.2
            )
