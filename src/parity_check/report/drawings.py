"""The pictures of a comparison's page, each with its title, what a healthy one looks like and n."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from parity_check.comparison.pictures.collect import Pictures
from parity_check.comparison.report import Direction, FloorPicture, ParityReport
from parity_check.report import numbers, plots, sentences, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (5.0, 3.0)  # inches
MARGINS = {"left": 0.16, "right": 0.985, "top": 0.9, "bottom": 0.19}
SQUARE_MARGINS = {"left": 0.12, "right": 0.66, "top": 0.97, "bottom": 0.17}

Draw = Callable[["Axes"], None]


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of one direction: `caption` says whose and of how many, `alt` what it shows."""

    caption: str
    alt: str
    svg: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """One kind of picture, a panel a direction."""

    name: str
    title: str
    healthy: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class _Plot:
    """What to draw for one direction."""

    draw: Draw
    n: str
    alt: str
    margins: Mapping[str, float] = field(default_factory=lambda: MARGINS)


def drawings(report: ParityReport) -> tuple[Drawing, ...]:
    """All pictures that a report has numbers for; none without matplotlib or an illustration."""
    if report.illustration is None or not svg.available():
        return ()
    return tuple(_drawings(report, report.illustration.directions, report.illustration.floors))


def _drawings(
    report: ParityReport, found: Sequence[Pictures], floors: Sequence[FloorPicture]
) -> Iterator[Drawing]:
    for name, title, healthy, plot in KINDS:
        panels = [
            _panel(name, pictures, made)
            for pictures, direction in zip(found, report.directions, strict=True)
            if (made := plot(report, direction, pictures, floors)) is not None
        ]
        if panels:
            yield Drawing(
                name, title, healthy.format(objective=report.objective.name), tuple(panels)
            )


def _panel(name: str, pictures: Pictures, plot: _Plot) -> Panel:
    caption = f"sampled by the {pictures.sampled_by}, n = {plot.n}"
    alt = f"{plot.alt} Sampled by the {pictures.sampled_by}, n = {plot.n}."
    return Panel(
        caption, alt, figure(f"{name}-{pictures.sampled_by}", plot.draw, alt, plot.margins)
    )


def figure(
    name: str, draw: Draw, alt: str, margins: Mapping[str, float] = MARGINS, height: float = SIZE[1]
) -> str:
    """One picture as inline SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(svg.STYLE):
        drawn = Figure(figsize=(SIZE[0], height))
        axes = drawn.add_subplot()
        draw(axes)
        axes.minorticks_off()
        drawn.subplots_adjust(**margins)
        return svg.inline(drawn, name, alt)


def _log_ratio(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot:
    measured = direction.measurement
    mean = measured["mean_log_ratio"]
    alt = (
        f"Histogram of Δ: mean {numbers.value(mean)} nats, half of the tokens below "
        f"{numbers.value(measured.quantiles['0.5'])} in size, the largest "
        f"{numbers.magnitude(measured.largest)}{_own(direction)}."
    )
    return _Plot(
        partial(plots.log_ratio, pictures=pictures, floors=floors),
        f"{pictures.tokens:,} tokens",
        alt,
    )


def _own(direction: Direction) -> str:
    if direction.largest_floor is None:
        return ""
    return f"; an engine against itself reaches {numbers.magnitude(direction.largest_floor)}"


def _exceedance(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot:
    threshold = float(report.config["stats"]["tail_threshold"])
    gate = next((gate for gate in direction.gates if gate.metric == "tail_fraction"), None)
    tail = direction.measurement["tail_fraction"]
    limit = "" if gate is None else f", the limit is {numbers.limit(gate.limit)}"
    alt = (
        f"Share of tokens whose |Δ| is at least x, log-log: {numbers.value(tail)} are above "
        f"{threshold:g} nats{limit}."
    )
    share = None if gate is None else gate.limit.value
    draw = partial(plots.exceedance, pictures=pictures, floors=floors, limit=(threshold, share))
    return _Plot(draw, f"{pictures.tokens:,} tokens", alt)


def _logprobs(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot:
    alt = (
        "Candidate logprob over reference logprob, hexagons by the number of tokens, and the line "
        f"of equal logprobs: mean |Δ| {numbers.value(direction.measurement['mean_abs_log_ratio'])} "
        "nats."
    )
    return _Plot(
        partial(plots.logprobs, pictures=pictures),
        f"{pictures.tokens:,} tokens",
        alt,
        SQUARE_MARGINS,
    )


def _by_position(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot:
    first, last = pictures.by_position[0], pictures.by_position[-1]
    alt = (
        f"Bands of Δ by position: 10 to 90 % of first tokens within {_band(first.quantiles)}, of "
        f"tokens from position {last.low:,.0f} within {_band(last.quantiles)} nats."
    )
    return _Plot(partial(plots.by_position, pictures=pictures), f"{pictures.tokens:,} tokens", alt)


def _band(quantiles: tuple[float, ...]) -> str:
    return f"{quantiles[1]:+.2g} to {quantiles[3]:+.2g}"


def _by_probability(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot:
    likely, rare = pictures.by_probability[0], pictures.by_probability[-1]
    alt = (
        f"Bands of Δ by the behaviour engine's probability: 10 to 90 % of the likeliest tokens "
        f"within {_band(likely.quantiles)}, of the rarest within {_band(rare.quantiles)} nats."
    )
    draw = partial(plots.by_probability, pictures=pictures, direction=direction)
    return _Plot(draw, f"{pictures.tokens:,} tokens", alt)


def _ratios(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot:
    clip = direction.measurement["clip_fraction"]
    found = pictures.ratios
    n = int(found.counts.sum()) + found.below + found.above
    unit = "tokens" if report.objective.level == "token" else "sequences"
    alt = (
        f"Histogram of the {plots.RATIO_UNIT[report.objective.level]} with the band of "
        f"{report.objective.name}: {sentences.share_label(report.objective)} {numbers.value(clip)}."
    )
    draw = partial(plots.ratios, pictures=pictures, objective=report.objective)
    return _Plot(draw, f"{n:,} {unit}", alt)


def _sequences(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot:
    found = pictures.sequences
    drawn = "" if len(found.means) == found.n else f", {len(found.means)} drawn, evenly by rank"
    alt = (
        f"Mean Δ of sequences in ascending order, from {found.means[0]:+.2g} to "
        f"{found.means[-1]:+.2g} nats, with the band of a GSPO clip."
    )
    return _Plot(partial(plots.sequences, pictures=pictures), f"{found.n:,} sequences{drawn}", alt)


def _clip_by_length(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot:
    shares = [(label, clip.counted) for label, clip in direction.measurement.clips_by_length]
    gated = report.objective.level != "token"
    gate = next((gate for gate in direction.gates if gate.metric == "clip_fraction"), None)
    limit = gate.limit.value if gated and gate is not None else None
    name = direction.measurement.clips_by_length[0][1].objective.name
    told = "; ".join(f"{label}: {numbers.value(share)}" for label, share in shares)
    alt = f"Share of sequences that {name} would clip, by length: {told}."
    n = sum(share.n for _, share in shares)
    return _Plot(partial(plots.clip_by_length, shares=shares, limit=limit), f"{n:,} sequences", alt)


def _gap_slope(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot | None:
    gaps = pictures.gaps
    if gaps is None:
        return None
    temperature = float(report.workload.sampling["temperature"])
    slope = "no gap is wide enough for a slope" if gaps.slope is None else f"slope {gaps.slope:.4f}"
    alt = (
        "Gaps between the logprobs of the recorded alternatives, candidate over reference: "
        f"{slope}; 1 is agreement."
    )
    n = f"{gaps.pairs:,} gaps, {len(gaps.reference)} drawn, evenly spaced; {slope}"
    draw = partial(plots.gap_slope, gaps=gaps, temperature=temperature)
    return _Plot(draw, n, alt)


def _logit_grid(
    report: ParityReport, direction: Direction, pictures: Pictures, floors: Sequence[FloorPicture]
) -> _Plot | None:
    gaps = pictures.gaps
    if gaps is None:
        return None
    shares = "; ".join(f"{role} {100 * of[3]:.0f} %" for role, of in gaps.on_grid.items())
    alt = f"Share of top-k gaps that are multiples of a power of two; of 1/16: {shares}."
    return _Plot(partial(plots.logit_grid, gaps=gaps), f"{gaps.pairs:,} gaps", alt)


KINDS = (
    (
        "log-ratio",
        "Δ of every token",
        "Healthy: a symmetric hill round 0, not wider than what an engine does to itself (A/A) "
        "plus rounding. A hill on one side is a bias; a far island is a few broken tokens.",
        _log_ratio,
    ),
    (
        "exceedance",
        "How large |Δ| gets",
        "Healthy: the curve drops to the lower left and stays clear of the shaded corner, which "
        "the tail limit forbids. This is 1 − ECDF, so that the tail can be seen.",
        _exceedance,
    ),
    (
        "logprobs",
        "Reference against candidate",
        "Healthy: all on the dashed diagonal. A line of another slope is a temperature, a shifted "
        "line a truncated support, a cloud noise.",
        _logprobs,
    ),
    (
        "by-position",
        "Δ by position",
        "Healthy: the same narrow bands from the first token to the last. A step is a cache, a "
        "chunk or a window; a slow widening is accumulated state.",
        _by_position,
    ),
    (
        "by-probability",
        "Δ by probability",
        "Healthy: means on 0, bands widening only for rare tokens. A crossing pattern, likely "
        "tokens up and rare ones down or the reverse, is a temperature.",
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
        "Healthy: flat on 0, whiskers across the band. A tilt is what sequence objectives clip; a "
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
        "says which engine's logprobs are raw.",
        _gap_slope,
    ),
    (
        "logit-grid",
        "Fingerprint of the lm_head's precision",
        "Healthy: both engines alike, along chance for fp32. A curve that jumps to 100 % is "
        "that of an lm_head that ran in bf16.",
        _logit_grid,
    ),
)
