"""The figures of a comparison's page: title, healthy appearance, and one panel per direction.

Panels are drawn when a page is rendered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from parity_check import words
from parity_check.comparison.labels import pair_label, share_label
from parity_check.comparison.pictures import plots
from parity_check.comparison.pictures.collect import Pictures
from parity_check.comparison.report import ComparisonReport, Direction, Pair
from parity_check.config.models import Role
from parity_check.report import numbers
from parity_check.report.document import Figure, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[["Axes"], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """What one panel is about: a direction of a pair, with what was counted for its pictures."""

    report: ComparisonReport
    pair: Pair
    direction: Direction
    pictures: Pictures

    @property
    def names(self) -> Mapping[Role, str]:
        return {"reference": self.pair.reference, "candidate": self.pair.candidate}

    @property
    def floors(self) -> tuple[plots.Again, ...]:
        """The A/A runs of the pair's engines."""
        assert self.report.pictures is not None
        found = {floor.engine: floor.log_ratio for floor in self.report.pictures.floors}
        return tuple(
            plots.Again(role, name, found[name])
            for role, name in self.names.items()
            if name in found
        )

    @property
    def tokens(self) -> str:
        return words.count(self.pictures.tokens, "token")


@dataclass(frozen=True, slots=True)
class Plot:
    """How to draw a panel, of how many it is, and what it shows."""

    draw: Draw
    n: str
    alt: str


def figures(report: ComparisonReport) -> Iterator[Figure]:
    """All pictures that a report has numbers for; none if nothing was gathered for a page."""
    subjects = list(_subjects(report))
    for name, title, healthy, plot in KINDS:
        panels = [
            _panel(subject, plotted)
            for subject in subjects
            if (plotted := plot(subject)) is not None
        ]
        if panels:
            healthy = healthy.format(objective=report.objective.name)
            yield Figure(name, title, healthy, tuple(panels))


def _subjects(report: ComparisonReport) -> Iterator[Subject]:
    if report.pictures is None:
        return
    for pair, drawn in zip(report.pairs, report.pictures.pairs, strict=True):
        for direction, pictures in zip(pair.directions, drawn.directions, strict=True):
            yield Subject(report, pair, direction, pictures)


def _panel(subject: Subject, plot: Plot) -> Panel:
    which = "" if len(subject.report.pairs) == 1 else f"{pair_label(subject.pair)}, "
    caption = f"{which}sampled by the {subject.direction.sampled_by}, n = {plot.n}"
    return Panel(plot.draw, caption, f"{plot.alt} {caption[0].upper()}{caption[1:]}.")


def _log_ratio(of: Subject) -> Plot:
    measured = of.direction.measurement
    own = of.direction.largest_floor
    again = "" if own is None else f"; A/A runs reach {numbers.magnitude(own)}"
    alt = (
        f"Histogram of Δ: mean {numbers.value(measured['mean_log_ratio'])} nats, median |Δ| "
        f"{numbers.value(measured.quantiles['0.5'])}, largest |Δ| "
        f"{numbers.magnitude(measured.largest)}{again}."
    )
    draw = partial(plots.log_ratio, pictures=of.pictures, floors=of.floors)
    return Plot(draw, of.tokens, alt)


def _exceedance(of: Subject) -> Plot:
    threshold = float(of.report.head.config["stats"]["tail_threshold"])
    gate = next((gate for gate in of.direction.gates if gate.metric == "tail_fraction"), None)
    tail = of.direction.measurement["tail_fraction"]
    limit = "" if gate is None else f", the limit is {numbers.limit(gate.limit)}"
    alt = (
        f"Share of tokens whose |Δ| is at least x, log-log: {numbers.value(tail)} are above "
        f"{threshold:g} nats{limit}."
    )
    share = None if gate is None else gate.limit.value
    draw = partial(
        plots.exceedance, pictures=of.pictures, floors=of.floors, limit=(threshold, share)
    )
    return Plot(draw, of.tokens, alt)


def _logprobs(of: Subject) -> Plot:
    size = numbers.value(of.direction.measurement["mean_abs_log_ratio"])
    alt = (
        f"Logprobs of the {of.pair.candidate} over those of the {of.pair.reference}, hexagons by "
        f"the number of tokens, and the line of equal logprobs: mean |Δ| {size} nats."
    )
    return Plot(partial(plots.logprobs, pictures=of.pictures, names=of.names), of.tokens, alt)


def _by_position(of: Subject) -> Plot:
    first, last = of.pictures.by_position[0], of.pictures.by_position[-1]
    alt = (
        f"Bands of Δ by position: 10 to 90 % of first tokens within {_band(first.quantiles)}, of "
        f"tokens from position {last.low:,.0f} within {_band(last.quantiles)} nats."
    )
    return Plot(partial(plots.by_position, pictures=of.pictures), of.tokens, alt)


def _band(quantiles: tuple[float, ...]) -> str:
    return f"{quantiles[1]:+.2g} to {quantiles[3]:+.2g}"


def _by_probability(of: Subject) -> Plot:
    likely, rare = of.pictures.by_probability[0], of.pictures.by_probability[-1]
    alt = (
        f"Bands of Δ by the behaviour engine's probability: 10 to 90 % of the likeliest tokens "
        f"within {_band(likely.quantiles)}, of the rarest within {_band(rare.quantiles)} nats."
    )
    draw = partial(plots.by_probability, pictures=of.pictures, direction=of.direction)
    return Plot(draw, of.tokens, alt)


def _ratios(of: Subject) -> Plot:
    objective, found = of.report.objective, of.pictures.ratios
    clip = of.direction.measurement["clip_fraction"]
    n = int(found.counts.sum()) + found.below + found.above
    unit = "tokens" if objective.level == "token" else "sequences"
    alt = (
        f"Histogram of the {plots.RATIO_UNIT[objective.level]} with the band of {objective.name}: "
        f"{share_label(objective)} {numbers.value(clip)}."
    )
    draw = partial(plots.ratios, pictures=of.pictures, objective=objective)
    return Plot(draw, f"{n:,} {unit}", alt)


def _sequences(of: Subject) -> Plot:
    found = of.pictures.sequences
    drawn = "" if len(found.means) == found.n else f", {len(found.means)} drawn, evenly by rank"
    alt = (
        f"Mean Δ of sequences in ascending order, from {found.means[0]:+.2g} to "
        f"{found.means[-1]:+.2g} nats, with the band of a GSPO clip."
    )
    return Plot(
        partial(plots.sequences, pictures=of.pictures),
        f"{words.count(found.n, 'sequence')}{drawn}",
        alt,
    )


def _clip_by_length(of: Subject) -> Plot:
    by_length = of.direction.measurement.clips_by_length
    shares = [(length, clip.counted) for length, clip in by_length]
    gated = of.report.objective.level != "token"
    gate = next((gate for gate in of.direction.gates if gate.metric == "clip_fraction"), None)
    limit = gate.limit.value if gated and gate is not None else None
    values = "; ".join(f"{length}: {numbers.value(share)}" for length, share in shares)
    alt = (
        f"Share of sequences that {by_length[0][1].objective.name} would clip, by length: {values}."
    )
    n = sum(share.n for _, share in shares)
    return Plot(
        partial(plots.clip_by_length, shares=shares, limit=limit), words.count(n, "sequence"), alt
    )


def _gap_slope(of: Subject) -> Plot | None:
    gaps = of.pictures.gaps
    if gaps is None:
        return None
    temperature = float(of.report.workload.sampling["temperature"])
    slope = "no gap is wide enough for a slope" if gaps.slope is None else f"slope {gaps.slope:.4f}"
    alt = (
        "Gaps between the logprobs of the recorded alternatives, "
        f"{of.pair.candidate} over {of.pair.reference}: {slope}; 1 is agreement."
    )
    n = f"{gaps.pairs:,} gaps, {len(gaps.reference)} drawn, evenly spaced; {slope}"
    draw = partial(plots.gap_slope, gaps=gaps, temperature=temperature, names=of.names)
    return Plot(draw, n, alt)


def _logit_grid(of: Subject) -> Plot | None:
    gaps = of.pictures.gaps
    if gaps is None:
        return None
    shares = "; ".join(
        f"{of.names[role]} {100 * on_grid[3]:.0f} %" for role, on_grid in gaps.on_grid.items()
    )
    alt = f"Share of top-k gaps that are multiples of a power of two; of 1/16: {shares}."
    draw = partial(plots.logit_grid, gaps=gaps, names=of.names)
    return Plot(draw, f"{gaps.pairs:,} gaps", alt)


KINDS = (
    (
        "log-ratio",
        "Δ of every token",
        "Healthy: a symmetric peak around 0, no wider than the A/A runs plus rounding. A peak on "
        "one side is a bias; a separate peak far out is a few broken tokens.",
        _log_ratio,
    ),
    (
        "exceedance",
        "How large |Δ| gets",
        "Healthy: the curve drops to the lower left and stays outside the shaded corner, which "
        "the tail limit forbids. This is 1 − ECDF, so that the tail is visible.",
        _exceedance,
    ),
    (
        "logprobs",
        "Logprobs of both engines",
        "Healthy: everything on the dashed diagonal. A line with another slope is a temperature, a "
        "shifted line a truncated support, a cloud noise.",
        _logprobs,
    ),
    (
        "by-position",
        "Δ by position",
        "Healthy: the same narrow bands from the first token to the last. A step is a cache, a "
        "chunk or a window; slow widening is accumulated state.",
        _by_position,
    ),
    (
        "by-probability",
        "Δ by probability",
        "Healthy: means at 0, bands that widen only for rare tokens. Likely tokens up and rare "
        "tokens down, or the reverse, is a temperature.",
        _by_probability,
    ),
    (
        "ratios",
        "Importance ratio and the clip band",
        "Healthy: everything inside the band of {objective}, centred on 1.",
        _ratios,
    ),
    (
        "sequences",
        "Mean Δ of each sequence",
        "Healthy: flat at 0, whiskers across the band. A tilt is what sequence objectives clip; a "
        "shifted curve is a bias of whole sequences.",
        _sequences,
    ),
    (
        "clip-by-length",
        "Clip rate of whole sequences by length",
        "Healthy: near 0 at every length. A bias clips long sequences first, noise short ones.",
        _clip_by_length,
    ),
    (
        "gap-slope",
        "Gaps between alternatives",
        "Healthy: on the line of slope 1. Normalisation cancels in a gap, so a slope of T or 1/T "
        "shows which engine's logprobs are raw.",
        _gap_slope,
    ),
    (
        "logit-grid",
        "Precision of the lm_head",
        "Healthy: the same curve for both engines, near chance for fp32. A curve that jumps to "
        "100 % belongs to an lm_head that ran in bf16.",
        _logit_grid,
    ),
)
