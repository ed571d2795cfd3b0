"""Compute the plot data of a run from its traces, in a second pass, for reports with figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from parity_check.comparison.analyse import (
    Judgement,
    judgement,
    open_pair,
    open_pairs,
    open_repeats,
)
from parity_check.comparison.pictures import spread
from parity_check.comparison.pictures.collect import WORST_SAMPLES, Collector, spread_of
from parity_check.comparison.pictures.samples import Candidate, WorstSample, shown_tokens
from parity_check.comparison.report import FloorPicture, Illustration
from parity_check.config.models import OTHER, Judging, Role
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.stats import Ints
from parity_check.traces.pairing import Index, pair
from parity_check.traces.trace import Trace

PROMPT_END = 100
"""How many characters of the prompt's end are shown."""


def illustrate(directory: Path, judging: Judging) -> Illustration:
    """The plot data of a run. Raises InputError, TraceMismatchError."""
    pairs = open_pairs(directory)
    return _illustration(pairs, open_repeats(directory, pairs), judgement(judging))


def illustrate_pair(behaviour: Path, evaluating: Path, judging: Judging) -> Illustration:
    """The plot data of two stored traces. Raises InputError, TraceMismatchError."""
    role, both = open_pair(behaviour, evaluating)
    return _illustration({role: both}, [], judgement(judging))


def _illustration(
    pairs: Mapping[Role, tuple[Trace, Trace]],
    repeats: Sequence[tuple[Role, Trace, Trace]],
    how: Judgement,
) -> Illustration:
    collectors = {role: _collected(role, both, how) for role, both in pairs.items()}
    worst = (
        sample
        for role, collector in collectors.items()
        for sample in _worst_samples(pairs[role][0], role, collector)
    )
    ranked = sorted(worst, key=lambda found: -found[0])
    return Illustration(
        directions=tuple(collector.pictures() for collector in collectors.values()),
        floors=tuple(_floors(repeats)),
        worst_samples=tuple(sample for _, sample in islice(ranked, WORST_SAMPLES)),
    )


def _collected(role: Role, both: tuple[Trace, Trace], how: Judgement) -> Collector:
    scales = {role: _logit_scale(both[0]), OTHER[role]: _logit_scale(both[1])}
    collector = Collector(role, how.objective, scales)
    for chunk in _chunks(*both):
        collector.add(chunk)
    return collector


def _logit_scale(trace: Trace) -> float:
    """The factor that turns logprob differences into logit differences."""
    temperature = float(trace.header.sampling["temperature"])
    # Greedy logprobs are reported at T = 1.
    processed = trace.header.logprob_distribution == "processed" and temperature > 0
    return temperature if processed else 1.0


def _chunks(behaviour: Trace, evaluating: Trace) -> Iterator[PairedChunk]:
    return pair(behaviour.batches(), evaluating.batches(), "sample", Index(), Index())


def _floors(repeats: Iterable[tuple[Role, Trace, Trace]]) -> Iterator[FloorPicture]:
    """Each engine against itself, over all of its repeats."""
    counts: dict[Role, Ints] = {}
    for role, baseline, repeat in repeats:
        total = counts.setdefault(role, np.zeros(spread.BINS, np.int64))
        for chunk in _chunks(baseline, repeat):
            total += spread_of(chunk)
    for role, total in counts.items():
        yield FloorPicture(role, int(total.sum()), total)


def _worst_samples(
    trace: Trace, sampled_by: Role, collector: Collector
) -> Iterator[tuple[float, WorstSample]]:
    texts, squares = trace.vocabulary(), collector.squares()
    for candidate in collector.worst():
        yield candidate.squares, _worst_sample(trace, sampled_by, candidate, texts, squares)


def _worst_sample(
    trace: Trace, sampled_by: Role, candidate: Candidate, texts: Mapping[int, str], squares: float
) -> WorstSample:
    sample, delta = trace.sample(candidate.number), candidate.log_ratio
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
