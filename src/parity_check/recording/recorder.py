"""Record traces with the engines of a session: their own samples, and logprobs of given ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from parity_check.config.load import dump_config
from parity_check.config.models import SHAPING, Config, Workload
from parity_check.engines.base import Engine
from parity_check.engines.kinds import configured_engine
from parity_check.recording import requests
from parity_check.recording.batches import Item, Work, record_in_batches
from parity_check.recording.requests import LogprobOperation, Turn
from parity_check.recording.session import Session
from parity_check.traces import provenance
from parity_check.traces.engine import LogprobPath
from parity_check.traces.prompts import Prompt
from parity_check.traces.run_files import repeat_name, sampled_name
from parity_check.traces.trace import Sample, Trace, TraceHeader

PATH_OF: Mapping[LogprobOperation, LogprobPath] = {"replay": "decode", "rescore": "prefill"}


def replay_with_repeats(
    session: Session, source: Path, path: Path, directory: Path, engine: Engine
) -> None:
    """Replay a trace's tokens on an engine, and make its A/A runs."""
    score_trace(session, "replay", source, path, engine)
    repeat(session, path, directory, engine)


def sample_with_repeats(
    session: Session,
    directory: Path,
    prompts: Sequence[Prompt],
    token_ids: Sequence[list[int]],
    engine: Engine,
    earlier: Iterable[Prompt] = (),
    sampled_is: Callable[[Path], None] | None = None,
) -> None:
    """Sample an engine's own rollouts, and make its A/A runs.

    `sampled_is` is called between the two, with the trace of the rollouts.
    """
    role = engine.spec.role
    sampled = directory / sampled_name(role)
    record_trace(session, prompts, token_ids, sampled, engine, earlier)
    if sampled_is is not None:
        sampled_is(sampled)
    repeat(session, sampled, directory, engine)


def repeats_of(config: Config, name: str) -> int:
    """The number of A/A runs of an engine: none for a server, which cannot replay tokens."""
    return config.workload.repeats if configured_engine(name, config).can.repeats else 0


def repeat(session: Session, source: Path, directory: Path, engine: Engine) -> None:
    """Make an engine's A/A runs on a trace."""
    for number in range(1, repeats_of(session.config, engine.spec.role) + 1):
        path = directory / repeat_name(engine.spec.role, number)
        score_trace(session, evaluation(engine), source, path, engine, shuffle=number)


def evaluation(engine: Engine) -> LogprobOperation:
    """How an engine evaluates given tokens."""
    return "rescore" if engine.spec.can.evaluates_by == "prefill" else "replay"


def record_trace(
    session: Session,
    prompts: Sequence[Prompt],
    token_ids: Sequence[list[int]],
    path: Path,
    engine: Engine,
    earlier: Iterable[Prompt] = (),
) -> TraceHeader:
    """Sample rollouts with one engine and write them as a trace.

    Prompts that were sampled `earlier` get further samples.
    """
    each = session.config.workload.samples_per_prompt
    planned = requests.turns(prompts, token_ids, each, earlier)
    return _record(session, _Drawn(session, engine, planned), path)


def score_trace(
    session: Session,
    operation: LogprobOperation,
    source: Path,
    path: Path,
    engine: Engine,
    shuffle: int | None = None,
) -> TraceHeader:
    """Score a trace's tokens on one engine, and write its logprobs as another trace.

    Sampling parameters that an imported trace lacks are taken from the configuration.
    """
    scored = _Scored(session, engine, operation, Trace(source), shuffle)
    return _record(session, scored, path)


def _record(session: Session, work: Work[Item], path: Path) -> TraceHeader:
    """Record what is missing, and count the samples of earlier batches as done."""
    role = work.engine.spec.role

    def begin(done: int) -> None:
        session.activity.whole(role, done, work.count)

    try:
        return record_in_batches(path, work, begin, continued=session.continued)
    finally:
        session.activity.whole(role, 0, None)


@dataclass(frozen=True)
class _Drawn:
    """Samples that an engine draws."""

    session: Session
    engine: Engine
    planned: Sequence[Turn]

    @property
    def run(self) -> Path:
        return self.session.directory

    @property
    def count(self) -> int:
        return len(self.planned)

    def items(self) -> Iterator[Turn]:
        return iter(self.planned)

    def tokens(self, item: Turn) -> int:
        return len(item.token_ids) + self.session.config.workload.max_tokens

    def compute(self, batch: Sequence[Turn]) -> list[Sample]:
        return requests.draw(self.engine, batch, self.session.config.workload)

    def is_of(self, sample: Sample, item: Turn) -> bool:
        return (sample.sample_id, list(sample.prompt_token_ids)) == (item.sample_id, item.token_ids)

    def header(self) -> TraceHeader:
        return trace_header(self.session, self.engine, "decode", sampled_by=self.engine.spec.role)

    def texts(self, samples: Sequence[Sample]) -> Mapping[int, str]:
        return requests.vocabulary(self.engine, samples)


@dataclass(frozen=True)
class _Scored:
    """An engine's logprobs of the samples of another trace."""

    session: Session
    engine: Engine
    operation: LogprobOperation
    source: Trace
    shuffle: int | None

    @property
    def run(self) -> Path:
        return self.session.directory

    @property
    def count(self) -> int:
        return self.source.header.samples

    def items(self) -> Iterator[Sample]:
        return self.source.samples()

    def tokens(self, item: Sample) -> int:
        return len(item.prompt_token_ids) + len(item.completion_token_ids)

    def compute(self, batch: Sequence[Sample]) -> list[Sample]:
        return requests.score(
            self.engine,
            self.operation,
            batch,
            {k: v for k, v in self._sampling.items() if k in SHAPING},
            self.session.config.workload.top_logprobs,
            self.shuffle,
            **({} if self.shuffle is None else self.engine.spec.repeats_with),
        )

    def is_of(self, sample: Sample, item: Sample) -> bool:
        return sample.sample_id == item.sample_id and (
            sample.completion_token_ids == item.completion_token_ids
        )

    def header(self) -> TraceHeader:
        return trace_header(
            self.session,
            self.engine,
            PATH_OF[self.operation],
            sampled_by=self.source.header.sampled_by,
            sampling=self._sampling,
            replayed_from=self.source.header.token_digest,
        )

    def texts(self, samples: Sequence[Sample]) -> Mapping[int, str]:
        return self._known_texts or requests.vocabulary(self.engine, samples)

    @cached_property
    def _sampling(self) -> dict[str, Any]:
        return {**_sampling(self.session.config.workload), **self.source.header.sampling}

    @cached_property
    def _known_texts(self) -> dict[int, str]:
        return self.source.vocabulary()


def trace_header(
    session: Session,
    engine: Engine,
    path: LogprobPath,
    *,
    sampled_by: str,
    sampling: dict[str, Any] | None = None,
    replayed_from: str | None = None,
) -> TraceHeader:
    """The provenance of what an engine computed in this session."""
    return TraceHeader(
        run_id=session.run_id,
        created_utc=session.created_utc,
        command=provenance.command_line(),
        sampled_by=sampled_by,
        evaluated_by=engine.spec.role,
        engine=engine.description,
        model=session.model,
        sampling=sampling or _sampling(session.config.workload),
        logprob_path=path,
        logprob_distribution=engine.description.distribution,
        host=provenance.host_fingerprint(),
        config=dump_config(session.config),
        replayed_from=replayed_from,
    )


def _sampling(workload: Workload) -> dict[str, Any]:
    """The sampling parameters for a trace header."""
    return {
        **workload.sampling(),
        "max_tokens": workload.max_tokens,
        "ignore_eos": workload.ignore_eos,
    }
