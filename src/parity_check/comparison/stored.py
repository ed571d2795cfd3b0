"""The traces of a comparison, opened and checked: who sampled, and who evaluated what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from parity_check.config.models import OTHER, ROLES, Config, Role
from parity_check.errors import InputError, TraceMismatchError
from parity_check.traces.manifest import Part, check_whole, missing, parts_of, read_manifest
from parity_check.traces.pairing import check_headers, check_siblings
from parity_check.traces.trace import Trace, TraceHeader, read_header


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
    parts: tuple[Part, ...] = ()
    """Every requested trace."""
    directory: Path | None = None
    verified: bool = False
    """Whether the digests of the files match those that the run recorded."""
    looks: int = 1
    """How often the run was judged while it sampled."""

    def header(self, name: str) -> TraceHeader:
        """Of a trace with the engine's own logprobs: its rollouts, if it sampled any."""
        for each in (*self._sampled_by(name), *self.rollouts):
            if name in each.traces:
                return each.traces[name].header
        raise InputError(f"no trace has logprobs of {name}")

    def headers(self) -> Iterator[TraceHeader]:
        """Of all traces, A/A runs too."""
        for each in self.rollouts:
            yield from (trace.header for trace in each.traces.values())
        yield from (each.again.header for each in self.repeats)

    def entropy(self, name: str) -> float | None:
        """Mean entropy over tokens, nats, where the engine returns it."""
        return self.rollouts[-1].traces[name].mean_entropy()

    def directions(self, one: str, other: str) -> Iterator[tuple[str, str, Trace, Trace]]:
        """(sampled by, evaluated by, behaviour, evaluating) per engine that sampled."""
        for sampler, evaluator in ((one, other), (other, one)):
            for each in self._sampled_by(sampler):
                if evaluator in each.traces:
                    yield sampler, evaluator, each.behaviour, each.traces[evaluator]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Pairs in which at least one engine sampled: the reference with the candidate first."""
        for one, other in combinations(self.names, 2):
            if any(self.directions(one, other)):
                yield one, other

    def _sampled_by(self, name: str) -> list[StoredRollouts]:
        return [each for each in self.rollouts if each.sampled_by == name]


def open_run(directory: Path, config: Config, names: Sequence[str] | None = None) -> StoredRun:
    """Open all traces that a run was configured to record, as it recorded them.

    `names` are the engines to compare, all of the configuration's if left out. Raises InputError
    for a trace that is missing, unfinished or from elsewhere, TraceMismatchError.
    """
    names = tuple(config.names if names is None else names)
    manifest = read_manifest(directory)
    if manifest is None:
        parts = _parts_of_old_run(directory, config, names)
        _check_present(directory, parts)
    else:
        check_whole(directory, manifest)
        parts = manifest.parts
    rollouts = tuple(
        _open_rollouts(directory, part.sampled_by, parts)
        for part in parts
        if part.sampled_by == part.evaluated_by and part.repeat is None
    )
    run = StoredRun(
        names,
        rollouts,
        parts=tuple(parts),
        directory=directory,
        verified=manifest is not None,
        looks=1 if manifest is None else manifest.looks,
    )
    repeats = tuple(_open_repeat(run, directory, part) for part in parts if part.repeat is not None)
    return replace(run, repeats=repeats)


def open_pair(one: Path, other: Path) -> StoredRun:
    """Two stored traces, one of them replayed from the other. Raises TraceMismatchError."""
    behaviour, evaluating = Trace(one), Trace(other)
    if behaviour.header.replayed_from == evaluating.header.token_digest:
        behaviour, evaluating = evaluating, behaviour
    check_headers(behaviour.header, evaluating.header)
    sampler: Role = "candidate" if behaviour.header.sampled_by == "candidate" else "reference"
    traces: dict[str, Trace] = {sampler: behaviour, OTHER[sampler]: evaluating}
    parts = parts_of(ROLES, (sampler,), {})
    return StoredRun(ROLES, (StoredRollouts(sampler, traces),), parts=parts)


def _open_rollouts(directory: Path, sampler: str, parts: Sequence[Part]) -> StoredRollouts:
    traces = {
        part.evaluated_by: Trace(directory / part.file)
        for part in parts
        if part.sampled_by == sampler and part.repeat is None
    }
    found = StoredRollouts(sampler, traces)
    for behaviour, evaluating in found.siblings():
        # Comparing raw with processed logprobs may be the purpose of the run.
        check = check_headers if behaviour == sampler else check_siblings
        left, right = traces[behaviour], traces[evaluating]
        try:
            check(left.header, right.header, same_distribution=False)
        except TraceMismatchError as error:
            error.message = f"{right.path}: {error.message}"
            raise
    return found


def _open_repeat(run: StoredRun, directory: Path, part: Part) -> Repeat:
    """An A/A run, of the same engine on the same tokens. Raises TraceMismatchError."""
    engine, path = part.evaluated_by, directory / part.file
    own = [each for each in run.rollouts if each.sampled_by == engine]
    baseline, again = (own or run.rollouts)[0].traces[engine], Trace(path)
    replayed = again.header.replayed_from
    tokens = (baseline.header.token_digest, baseline.header.replayed_from)
    if again.header.evaluated_by != engine or replayed is None or replayed not in tokens:
        raise TraceMismatchError(
            f"{path}: not an A/A run of the {engine}: it has logprobs of the "
            f"{again.header.evaluated_by}, {'not replayed' if replayed is None else 'replayed'}"
            + ("" if replayed is None or replayed in tokens else " from another trace")
        )
    return Repeat(engine, baseline, again)


def _parts_of_old_run(directory: Path, config: Config, names: Sequence[str]) -> tuple[Part, ...]:
    """The traces of a run without a manifest, inferred from its configuration and command."""
    # Imported where it is needed, because it loads the engines.
    from parity_check.recording.recorder import repeats_of

    commands = [read_header(path).command for path in directory.glob("*.parquet")]
    if not commands:
        raise InputError(f"{directory}: no traces here", hint="pass a run directory")
    samplers: Sequence[str] = config.workload.samplers()
    stored = any("--reference-trace" in command for command in commands)
    if stored or any("--workload-trace" in command for command in commands):
        samplers = ("reference",)
    repeats = {
        name: repeats_of(config, name) for name in names if not (stored and name == "reference")
    }
    return parts_of(names, samplers, repeats)


def _check_present(directory: Path, parts: Sequence[Part]) -> None:
    for part in parts:
        if not (directory / part.file).exists():
            raise missing(directory, part)
