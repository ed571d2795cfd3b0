"""Where the drift comes from: layers and causes of each pair, and the tokens that differ most."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check import visible, words
from parity_check.comparison.labels import pair_label
from parity_check.comparison.located import Located
from parity_check.comparison.pictures.samples import SHADES, WorstSample
from parity_check.comparison.report import ComparisonReport, Pair, ReportPictures, WorstToken
from parity_check.diagnosis.findings import Diagnosis, Finding
from parity_check.report.document import (
    Block,
    Cause,
    Causes,
    Column,
    Details,
    Heading,
    Judged,
    PageOnly,
    Row,
    Sample,
    Samples,
    Sentence,
    Stage,
    Stages,
    Table,
    Token,
)

FEWEST = 3
"""Worst tokens, and worst samples, that each of many pairs has at least."""


def blocks(report: ComparisonReport) -> Iterator[Block]:
    """The diagnosis of the pair, or of every pair with something to explain."""
    if len(report.pairs) == 1:
        yield from _diagnosis(report.pairs[0].diagnosis)
        return
    clean = [pair for pair in report.pairs if not _open(pair)]
    for pair in report.pairs:
        if pair not in clean:
            yield Heading(pair_label(pair))
            yield from _diagnosis(pair.diagnosis)
    if clean:
        yield Sentence(f"no drift to explain: {'; '.join(map(pair_label, clean))}")


def _open(pair: Pair) -> bool:
    return bool(pair.diagnosis.findings) or any(gate.verdict != "parity" for gate in pair.gates)


def _diagnosis(diagnosis: Diagnosis) -> Iterator[Block]:
    yield Stages(
        "layers, in this order",
        tuple(Stage(stage.layer, stage.outcome, stage.sentence) for stage in diagnosis.stages),
    )
    yield causes(diagnosis)


def causes(diagnosis: Diagnosis) -> Causes:
    """The findings, or what is known where none matched."""
    unknown = None
    if diagnosis.known:
        unknown = f"No known cause matched. Observed: {'; '.join(diagnosis.known)}."
    causes, remarks = (tuple(map(_cause, f)) for f in (diagnosis.causes, diagnosis.remarks))
    return Causes(causes, unknown, remarks)


def _cause(finding: Finding) -> Cause:
    tags = [finding.layer, *([] if finding.remark else [f"confidence {finding.confidence}"])]
    if finding.explained is not None:
        tags.append(f"explains {100 * finding.explained:.0f} % of E|Δ|")
    return Cause(
        finding.cause, finding.claim, tuple(tags), finding.evidence, finding.fix, finding.confirm
    )


def located(found: Located) -> Iterator[Block]:
    """Where inside the model the reference and the candidate part."""
    yield Sentence(
        f"Inside the model, over {found.passes} forward passes of tokens of this run: "
        f"{found.summary}. {found.reason[:1].upper()}{found.reason[1:]}."
    )
    headings = (Column("place"), Column("module that differs most"))
    numbers = tuple(Column(each, "right") for each in ("difference", "noise"))
    rows = tuple(
        Row(
            (
                each.place,
                each.module or "–",
                _relative(each.relative),
                _relative(each.noise),
                Judged(each.verdict),
            ),
            marked=each.verdict == "drift",
        )
        for each in found.depths
    )
    yield PageOnly((Table("by depth", (*headings, *numbers, Column("verdict")), rows),))


def _relative(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"


def worst(report: ComparisonReport) -> Iterator[Block]:
    """Whole samples for the page, and the worst tokens in their context."""
    if report.pictures is not None:
        samples = tuple(_samples(report, report.pictures))
        yield PageOnly((Samples(samples, SHADES) if samples else Sentence("No token differs."),))
    for pair in report.pairs:
        if pair.worst_tokens:
            yield Details(_worst_title(report, pair), (_worst_tokens(report, pair),))


def _samples(report: ComparisonReport, pictures: ReportPictures) -> Iterator[Sample]:
    """The worst samples of every pair, fewer of each where there are several."""
    for pair, drawn in zip(report.pairs, pictures.pairs, strict=True):
        most = max(FEWEST, len(drawn.worst_samples) // len(report.pairs))
        which = "" if len(report.pairs) == 1 else f"{pair_label(pair)} · "
        for sample in drawn.worst_samples[:most]:
            yield _sample(sample, which)


def _worst_title(report: ComparisonReport, pair: Pair) -> str:
    return "worst tokens" if len(report.pairs) == 1 else f"worst tokens, {pair_label(pair)}"


def _worst_tokens(report: ComparisonReport, pair: Pair) -> Table:
    title = _worst_title(report, pair)
    tokens = pair.worst_tokens
    tokens = tokens[: max(FEWEST, len(tokens) // len(report.pairs))]
    headings = [Column(each, "right") for each in ("Δ", "behaviour", "evaluating")]
    rows = tuple(
        Row(
            (
                place(token),
                f"{token.log_ratio:+.3f}",
                f"{token.behaviour_logprob:.3f}",
                f"{token.evaluating_logprob:.3f}",
                context(token),
            )
        )
        for token in tokens
    )
    return Table(title, (Column(title), *headings, Column("context")), rows, verbatim=True)


def place(token: WorstToken) -> str:
    """Sample, position and the engine that sampled it."""
    return f"{visible.line(token.sample_id)}:{token.position} ({token.sampled_by})"


def context(token: WorstToken) -> str:
    """The token in its text."""
    before, itself, after = map(visible.line, (token.before, token.token, token.after))
    return f"{before}⟦{itself}⟧{after}"


def _sample(sample: WorstSample, which: str) -> Sample:
    return Sample(
        title=sample.sample_id,
        facts=f"{which}sampled by the {sample.sampled_by} · "
        f"{words.count(sample.length, 'token')} · mean Δ {sample.mean_log_ratio:+z.4f} · "
        f"largest |Δ| {sample.largest:.4f} · "
        f"{100 * sample.share:.1f} % of the Σ Δ² of its direction",
        prompt_end=sample.prompt_end,
        length=sample.length,
        tokens=tuple(
            Token(
                position=token.position,
                token_id=token.token_id,
                text=token.text,
                behaviour_logprob=token.behaviour_logprob,
                evaluating_logprob=token.evaluating_logprob,
                log_ratio=token.log_ratio,
                ratio=token.ratio,
                shade=token.shade,
            )
            for token in sample.tokens
        ),
    )
