"""Compute the ComparisonReport of a run from its traces. Starts no engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity_check import __version__
from parity_check.comparison import located
from parity_check.comparison.diagnose import diagnosis_case
from parity_check.comparison.judgement import (
    TRUNCATION,
    Judgement,
    at_first_step,
    clip_of,
    judgement,
    measure_pair,
)
from parity_check.comparison.located import Located
from parity_check.comparison.matrix import analyse_matrix
from parity_check.comparison.report import (
    ComparisonReport,
    Direction,
    EngineReport,
    Floor,
    Pair,
    ReportWarning,
    Setting,
    WorkloadReport,
    WorstToken,
)
from parity_check.comparison.stored import StoredRun, open_pair, open_run
from parity_check.comparison.warnings import (
    certain_tokens,
    copied_logprobs,
    few_prompts,
    greedy_copies,
    impossible_tokens,
    lost_replicas,
    sampler,
    shared_prefixes,
    unchecked,
    warnings_of,
)
from parity_check.config.load import dump_config
from parity_check.config.models import ROLES, Config, Judging
from parity_check.diagnosis.diagnose import diagnose
from parity_check.measure.gates import judge_all, overall, worst_floor
from parity_check.measure.results import Measurement
from parity_check.measure.stats import Estimate
from parity_check.measure.worst import Outlier, Outliers
from parity_check.report.document import Coverage, Head, Kind
from parity_check.traces import provenance
from parity_check.traces.engine import UNKNOWN, EngineDescription
from parity_check.traces.manifest import Part
from parity_check.traces.prefixes import Prefixes
from parity_check.traces.trace import Trace, TraceHeader

if TYPE_CHECKING:
    from parity_check.recording.session import Session

NO_MODEL = {"name": UNKNOWN}
WORST_TOKENS = 8
CONTEXT_TOKENS = 8
ASKED_BY_VARIABLE = {
    "batch_invariant": "VLLM_BATCH_INVARIANT",
    "model_runner": "VLLM_USE_V2_MODEL_RUNNER",
}
"""Facts of an engine that an environment variable requests."""


def analyse(
    directory: Path, config: Config, names: Sequence[str] | None = None
) -> ComparisonReport:
    """Read the traces of a run, measure and judge. Raises InputError, TraceMismatchError.

    `names` are the engines to compare, all of the configuration's if left out.
    """
    return _report(open_run(directory, config, names), config)


def analyse_pair(one: Path, other: Path, judging: Judging) -> ComparisonReport:
    """Measure and judge two stored traces. The replayed one is the evaluating side.

    Raises InputError, TraceMismatchError.
    """
    return _report(open_pair(one, other), judging)


def _report(run: StoredRun, config: Judging) -> ComparisonReport:
    how = judgement(at_first_step(config))
    prefixes = Prefixes()
    floors = tuple(
        Floor(each.engine, measure_pair(each.baseline, each.again, each.engine, how))
        for each in run.repeats
    )
    asked = located.read(run.directory)
    pairs = tuple(
        _pair(run, one, other, floors, how, prefixes, asked if (one, other) == ROLES else None)
        for one, other in run.pairs()
    )
    matrix = None
    if isinstance(config, Config) and len(run.names) > len(ROLES):
        matrix = analyse_matrix(run, pairs, floors, config, judgement(config))
    headers = {name: run.header(name) for name in run.names}
    first = run.rollouts[0].behaviour.header
    # The reference's trace may be of another run; the candidate's is always of this one.
    own = first if run.directory is None else headers[run.names[1]]
    differences = {(each.reference, each.candidate): each.differences for each in pairs}
    return ComparisonReport(
        head=Head(
            kind="comparison",
            run_id=own.run_id,
            created_utc=own.created_utc,
            command=own.command,
            parity_check=__version__,
            config=dump_config(config),
            model=first.model or next((h.model for h in headers.values() if h.model), NO_MODEL),
            host=own.host,
        ),
        engines=tuple(
            engine_report(name, header.engine, header.logprob_path, run.entropy(name))
            for name, header in headers.items()
        ),
        workload=WorkloadReport(
            prompts=max(each.measurement.prompts for each in pairs[0].directions),
            clusters=max(each.measurement.clusters for each in pairs[0].directions),
            samples=sum(each.measurement.samples for each in pairs[0].directions),
            tokens=sum(each.measurement.tokens for each in pairs[0].directions),
            sampling=dict(first.sampling),
            logprob_path=first.logprob_path,
            looks=run.looks,
            most_looks=config.looks,
        ),
        objective=how.objective,
        level=how.level,
        pairs=pairs,
        floors=floors,
        matrix=matrix,
        verdict=overall(gate for pair in pairs for gate in pair.gates),
        warnings=(
            *warnings_of(headers, differences),
            *_unverified(run),
            *unchecked(t for each in run.rollouts for t in each.traces.values()),
            *lost_replicas(run.headers()),
            *impossible_tokens(d.measurement for pair in pairs for d in pair.directions),
            *certain_tokens(d.measurement for pair in pairs for d in pair.directions),
            *few_prompts(
                how.cluster_by, (d.measurement for pair in pairs for d in pair.directions)
            ),
            *copied_logprobs(headers, (d.measurement for pair in pairs for d in pair.directions)),
            *greedy_copies(
                next(iter(headers.values())).sampling,
                (d.measurement for pair in pairs for d in pair.directions),
            ),
            *shared_prefixes(prefixes, how.cluster_by, run.rollouts[0].behaviour),
        ),
        coverage=_coverage(run, pairs, floors, how),
        located=asked,
        artifacts=tuple(
            trace.path.name for rollouts in run.rollouts for trace in rollouts.traces.values()
        ),
    )


def _unverified(run: StoredRun) -> Iterator[ReportWarning]:
    if run.directory is not None and not run.verified:
        yield ReportWarning(
            "run-without-manifest",
            f"{run.directory.name} was recorded by a version that wrote no manifest, so damaged or "
            "replaced traces cannot be detected",
        )


def _coverage(
    run: StoredRun, pairs: Iterable[Pair], floors: Iterable[Floor], how: Judgement
) -> Coverage:
    """What was measured from each requested trace, and every gate."""
    directions = [direction for pair in pairs for direction in pair.directions]
    measured = [Part("", each.sampled_by, each.evaluated_by) for each in directions]
    measured += [Part("", each.sampled_by, each.sampled_by) for each in directions]
    counts: Counter[str] = Counter()
    for floor in floors:
        counts[floor.engine] += 1
        measured.append(Part("", floor.engine, floor.engine, counts[floor.engine]))
    asked = [
        f"gate {limit.metric} on the {part}"
        for part in run.parts
        if part.sampled_by != part.evaluated_by
        for limit in how.limits
    ]
    judged = [
        f"gate {gate.metric} on the {Part('', each.sampled_by, each.evaluated_by)}"
        for each in directions
        for gate in each.gates
    ]
    return Coverage((*map(str, run.parts), *asked), (*dict.fromkeys(map(str, measured)), *judged))


def _pair(
    run: StoredRun,
    reference: str,
    candidate: str,
    floors: Sequence[Floor],
    how: Judgement,
    prefixes: Prefixes,
    asked: Located | None,
) -> Pair:
    own = [floor for floor in floors if floor.engine in (reference, candidate)]
    measured = [
        _direction(*direction, how, own, prefixes)
        for direction in run.directions(reference, candidate)
    ]
    directions = tuple(direction for direction, _ in measured)
    worst = sorted((token for _, tokens in measured for token in tokens), key=_size)
    differences = differences_of(reference, run.header(reference), candidate, run.header(candidate))
    verdict = overall(gate for direction in directions for gate in direction.gates)
    case = diagnosis_case(run, reference, candidate, directions, own, differences, asked)
    return Pair(
        reference=reference,
        candidate=candidate,
        directions=directions,
        differences=differences,
        diagnosis=diagnose(case, verdict),
        worst_tokens=tuple(worst[:WORST_TOKENS]),
    )


def _direction(
    sampled_by: str,
    evaluated_by: str,
    behaviour: Trace,
    evaluating: Trace,
    how: Judgement,
    floors: Sequence[Floor],
    prefixes: Prefixes,
) -> tuple[Direction, list[WorstToken]]:
    outliers = Outliers(WORST_TOKENS)
    measured = measure_pair(behaviour, evaluating, sampled_by, how, outliers, prefixes)
    own = [floor.measurement for floor in floors]
    direction = Direction(
        sampled_by=sampled_by,
        evaluated_by=evaluated_by,
        title=_title(sampled_by, evaluated_by, behaviour.header, evaluating.header),
        measurement=measured,
        gates=judge_all(measured, how.limits, own),
        floors=_floors(measured, own),
        largest_floor=max((floor.largest for floor in own), default=None),
        beside=clip_of(measured, TRUNCATION) if how.objective.wiring == "bypass" else None,
    )
    return direction, list(worst_tokens(behaviour, sampled_by, outliers.largest()))


def _title(
    sampled_by: str, evaluated_by: str, behaviour: TraceHeader, evaluating: TraceHeader
) -> str:
    """Which engine sampled the tokens, and which evaluated them."""
    if behaviour.replayed_from is not None:
        return (
            f"sampled by {sampler(behaviour)}, replayed by the {sampled_by} and the {evaluated_by}"
        )
    if evaluating.engine.imported:
        return f"sampled by the {behaviour.sampled_by}, evaluated by the {evaluating.evaluated_by}"
    if behaviour.engine.imported:
        return f"sampled by the {behaviour.sampled_by}, replayed by the {evaluated_by}"
    return f"sampled by the {sampled_by}, replayed by the {evaluated_by}"


def _floors(measured: Measurement, own: Sequence[Measurement]) -> dict[str, Estimate]:
    """The largest noise floor of every number that a report shows."""
    found = {each.name: worst_floor(each.name, own) for each in measured.estimates}
    shares = [
        {
            **{quantile.name: quantile for quantile in floor.quantiles.values()},
            **{length: clip.counted for length, clip in floor.clips_by_length},
            "truncation_fraction": clip_of(floor, TRUNCATION).counted,
        }
        for floor in own
    ]
    for floor in shares:
        for name, estimate in floor.items():
            worst = found.get(name)
            if worst is None or estimate.value > worst.value:
                found[name] = estimate
    return {name: floor for name, floor in found.items() if floor is not None}


def worst_tokens(
    trace: Trace, sampled_by: str, outliers: Sequence[Outlier]
) -> Iterator[WorstToken]:
    """Outliers with their text context."""
    samples, texts = trace.samples_at(each.sample for each in outliers), trace.vocabulary()

    def text(ids: Iterable[int]) -> str:
        return "".join(texts.get(token, f"‹{token}›") for token in ids)

    for outlier in outliers:
        sample = samples[outlier.sample]
        place = len(sample.prompt_token_ids) + outlier.position
        ids = [*sample.prompt_token_ids, *sample.completion_token_ids]
        yield WorstToken(
            sampled_by=sampled_by,
            sample_id=sample.sample_id,
            position=outlier.position,
            token_id=ids[place],
            log_ratio=outlier.log_ratio,
            behaviour_logprob=outlier.behaviour_logprob,
            evaluating_logprob=outlier.evaluating_logprob,
            before=text(ids[max(0, place - CONTEXT_TOKENS) : place]),
            token=text(ids[place : place + 1]),
            after=text(ids[place + 1 : place + 1 + CONTEXT_TOKENS // 2]),
        )


def _size(token: WorstToken) -> float:
    return -abs(token.log_ratio)


def head_of(kind: Kind, config: Config, live: Session) -> Head:
    """The head of a report on a run whose engines are up."""
    return Head(
        kind=kind,
        run_id=live.run_id,
        created_utc=live.created_utc,
        command=provenance.command_line(),
        parity_check=__version__,
        config=dump_config(config),
        model=live.model,
        host=provenance.host_fingerprint(),
    )


def engine_report(
    name: str, engine: EngineDescription, logprob_path: str, entropy: float | None
) -> EngineReport:
    """The engine, from the description in its trace."""
    return EngineReport(
        role=name,
        label=engine.label,
        version=engine.version,
        family=engine.family,
        device=engine.ran_on,
        packages=dict(engine.packages),
        settings={
            name: Setting(each.requested, each.in_force, each.proof)
            for name, each in engine.settings.items()
        },
        config={**engine.config, **(engine.model.get("modules") or {})},
        environment=dict(engine.environment),
        logprob_path=logprob_path,
        entropy=entropy,
    )


def differences_of(
    reference: str, left: TraceHeader, candidate: str, right: TraceHeader
) -> tuple[provenance.Difference, ...]:
    """Settings and facts that differ between two engines, and whether that was requested."""
    requested: dict[str, tuple[Any, Any]] = {
        name: (setting.requested, right.engine.settings[name].requested)
        for name, setting in left.engine.settings.items()
        if name in right.engine.settings
    }
    ours = _requested(_table(left.config, reference))
    theirs = _requested(_table(right.config, candidate))
    for name in {**ours, **theirs}:
        requested.setdefault(name, (ours.get(name), theirs.get(name)))
    overridden = ours.get("hf_overrides"), theirs.get("hf_overrides")
    for fact in left.engine.model.get("modules") or ():
        requested.setdefault(fact, overridden)
    return provenance.differences(left.engine, right.engine, requested)


def _table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An engine's table of the configuration that a trace stores; empty for an imported one."""
    found: Mapping[str, Any] = config.get(name) or config.get("engines", {}).get(name, {})
    return found


def _requested(engine: Mapping[str, Any]) -> dict[str, Any]:
    """What an engine's configuration requests besides the four settings, by name."""
    variables = engine.get("env", {})
    tables = [t for k, t in engine.items() if k not in ("env", "settings") and isinstance(t, dict)]
    return {
        **{key: value for table in tables for key, value in table.items()},
        **{fact: variables[name] for fact, name in ASKED_BY_VARIABLE.items() if name in variables},
    }
