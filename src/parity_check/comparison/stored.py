"""The traces of a comparison, opened and checked: who sampled, and who evaluated what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from parity_check.config.models import OTHER, ROLES, Role
from parity_check.errors import InputError
from parity_check.traces.pairing import check_headers, check_siblings
from parity_check.traces.run_files import evaluated_name, repeat_name, sampled_name
from parity_check.traces.trace import Trace, TraceHeader


@dataclass(frozen=True, slots=True)
class StoredRollouts:
    """One engine's rollouts, and every engine's logprobs on them; the sampler's own come first."""

    sampled_by: str
    traces: Mapping[str, Trace]

    @property
    def behaviour(self) -> Trace:
        return self.traces[self.sampled_by]

    def siblings(self) -> Iterator[tuple[str, str]]:
        """(behaviour, evaluating) of every pair of engines, the sampler's pairs first."""
        return combinations(self.traces, 2)


@dataclass(frozen=True, slots=True)
class Repeat:
    """An A/A run: the trace that it repeats, and the same engine's logprobs once more."""

    engine: str
    baseline: Trace
    again: Trace


@dataclass(frozen=True, slots=True)
class StoredRun:
    """`names` has the reference first."""

    names: tuple[str, ...]
    rollouts: tuple[StoredRollouts, ...]
    repeats: tuple[Repeat, ...] = ()

    def header(self, name: str) -> TraceHeader:
        """Of a trace with the engine's own logprobs: its rollouts, if it sampled any."""
        for each in (*self._sampled_by(name), *self.rollouts):
            if name in each.traces:
                return each.traces[name].header
        raise InputError(f"no trace holds logprobs of {name}")

    def entropy(self, name: str) -> float | None:
        """Mean entropy over tokens, nats, where the engine returns it."""
        return self.rollouts[-1].traces[name].mean_entropy()

    def directions(self, one: str, other: str) -> Iterator[tuple[str, str, Trace, Trace]]:
        """(sampled by, evaluated by, behaviour, evaluating) where either of two engines sampled."""
        for sampler, evaluator in ((one, other), (other, one)):
            for each in self._sampled_by(sampler):
                if evaluator in each.traces:
                    yield sampler, evaluator, each.behaviour, each.traces[evaluator]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Two engines of which one sampled, or both: the reference with the candidate first."""
        for one, other in combinations(self.names, 2):
            if any(self.directions(one, other)):
                yield one, other

    def _sampled_by(self, name: str) -> list[StoredRollouts]:
        return [each for each in self.rollouts if each.sampled_by == name]


def open_run(directory: Path, names: Sequence[str]) -> StoredRun:
    """A run's traces. Raises InputError where one is missing, TraceMismatchError."""
    samplers = [role for role in ROLES if (directory / sampled_name(role)).exists()]
    if not samplers:
        raise InputError(f"{directory}: no traces here", hint="give the directory of a run")
    rollouts = tuple(_open_rollouts(directory, sampler, names) for sampler in samplers)
    run = StoredRun(tuple(names), rollouts)
    repeats = tuple(
        Repeat(name, _baseline(run, name), Trace(path))
        for name in names
        for path in sorted(directory.glob(repeat_name(name, "*")))
    )
    return StoredRun(run.names, rollouts, repeats)


def open_pair(one: Path, other: Path) -> StoredRun:
    """Two stored traces, one of them replayed from the other. Raises TraceMismatchError."""
    behaviour, evaluating = Trace(one), Trace(other)
    if behaviour.header.replayed_from == evaluating.header.token_digest:
        behaviour, evaluating = evaluating, behaviour
    check_headers(behaviour.header, evaluating.header)
    sampler: Role = "candidate" if behaviour.header.sampled_by == "candidate" else "reference"
    traces: dict[str, Trace] = {sampler: behaviour, OTHER[sampler]: evaluating}
    return StoredRun(ROLES, (StoredRollouts(sampler, traces),))


def _open_rollouts(directory: Path, sampler: str, names: Sequence[str]) -> StoredRollouts:
    traces = {sampler: Trace(directory / sampled_name(sampler))}
    for name in names:
        if name != sampler:
            traces[name] = Trace(directory / evaluated_name(sampler, name))
    found = StoredRollouts(sampler, traces)
    for behaviour, evaluating in found.siblings():
        # Raw against processed may be the very thing that a run was asked to compare.
        check = check_headers if behaviour == sampler else check_siblings
        check(traces[behaviour].header, traces[evaluating].header, same_distribution=False)
    return found


def _baseline(run: StoredRun, name: str) -> Trace:
    """The trace that an engine's A/A runs repeat: its own rollouts, or its first replay."""
    own = [each for each in run.rollouts if each.sampled_by == name]
    return (own or run.rollouts)[0].traces[name]
