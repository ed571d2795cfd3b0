"""Compute the plot data of a page from the traces of a run, in a second pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from parity_check.comparison.judgement import Judgement, at_first_step, judgement
from parity_check.comparison.pictures import spread
from parity_check.comparison.pictures.collect import WORST_SAMPLES, Collector, spread_of
from parity_check.comparison.pictures.samples import Candidate, WorstSample, shown_tokens
from parity_check.comparison.report import FloorPicture, PairPictures, ReportPictures
from parity_check.comparison.stored import Repeat, StoredRun, open_pair, open_run
from parity_check.config.models import OTHER, Config, Judging, Role
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.stats import Ints
from parity_check.traces.pairing import Index, pair
from parity_check.traces.trace import Sample, Trace

PROMPT_END = 100
"""The number of characters shown from the end of a prompt."""


def gather(directory: Path, config: Config) -> ReportPictures:
    """The plot data of a run. Raises InputError, TraceMismatchError."""
    return _pictures(open_run(directory, config), judgement(at_first_step(config)))


def gather_pair(one: Path, other: Path, judging: Judging) -> ReportPictures:
    """The plot data of two stored traces. Raises InputError, TraceMismatchError."""
    return _pictures(open_pair(one, other), judgement(at_first_step(judging)))


def _pictures(run: StoredRun, how: Judgement) -> ReportPictures:
    return ReportPictures(
        pairs=tuple(_pair_pictures(run, one, other, how) for one, other in run.pairs()),
        floors=tuple(_floors(run.repeats)),
    )


def _pair_pictures(run: StoredRun, one: str, other: str, how: Judgement) -> PairPictures:
    collected = []
    for sampler, _, *both in run.directions(one, other):
        role: Role = "reference" if sampler == one else "candidate"
        collected.append((sampler, both[0], _collected(role, both[0], both[1], how)))
    worst = (
        sample
        for sampler, behaviour, collector in collected
        for sample in _worst_samples(behaviour, sampler, collector)
    )
    ranked = sorted(worst, key=lambda found: -found[0])
    return PairPictures(
        directions=tuple(collector.pictures() for _, _, collector in collected),
        worst_samples=tuple(sample for _, sample in islice(ranked, WORST_SAMPLES)),
    )


def _collected(role: Role, behaviour: Trace, evaluating: Trace, how: Judgement) -> Collector:
    """`role` is that of the sampling engine in its pair."""
    scales = {role: _logit_scale(behaviour), OTHER[role]: _logit_scale(evaluating)}
    collector = Collector(role, how.objective, scales)
    for chunk in _chunks(behaviour, evaluating):
        collector.add(chunk)
    return collector


def _logit_scale(trace: Trace) -> float:
    """The factor that turns logprob differences into logit differences."""
    temperature = float(trace.header.sampling["temperature"])
    # Greedy logprobs are reported at T = 1.
    processed = trace.header.logprob_distribution == "processed" and temperature > 0
    return temperature if processed else 1.0


def _chunks(behaviour: Trace, evaluating: Trace) -> Iterator[PairedChunk]:
    return pair(behaviour.batches(), evaluating.batches(like=behaviour), "sample", Index())


def _floors(repeats: Iterable[Repeat]) -> Iterator[FloorPicture]:
    """The A/A runs of each engine, with all repeats pooled."""
    counts: dict[str, Ints] = {}
    for each in repeats:
        total = counts.setdefault(each.engine, np.zeros(spread.BINS, np.int64))
        for chunk in _chunks(each.baseline, each.again):
            total += spread_of(chunk)
    for engine, total in counts.items():
        yield FloorPicture(engine, int(total.sum()), total)


def _worst_samples(
    trace: Trace, sampled_by: str, collector: Collector
) -> Iterator[tuple[float, WorstSample]]:
    texts, squares = trace.vocabulary(), collector.squares()
    worst = collector.worst()
    samples = trace.samples_at(candidate.number for candidate in worst)
    for candidate in worst:
        sample = samples[candidate.number]
        yield candidate.squares, _worst_sample(sample, sampled_by, candidate, texts, squares)


def _worst_sample(
    sample: Sample, sampled_by: str, candidate: Candidate, texts: Mapping[int, str], squares: float
) -> WorstSample:
    delta = candidate.log_ratio
    prompt = "".join(
        texts.get(token, "\N{REPLACEMENT CHARACTER}")
        for token in sample.prompt_token_ids[-PROMPT_END:]
    )
    return WorstSample(
        sampled_by=sampled_by,
        sample_id=sample.sample_id,
        prompt_end=prompt[-PROMPT_END:],
        length=len(delta),
        mean_log_ratio=float(np.nanmean(delta)),
        largest=float(np.nanmax(np.abs(delta))),
        share=candidate.squares / squares,
        tokens=shown_tokens(candidate, sample.completion_token_ids, texts),
    )
