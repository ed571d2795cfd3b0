"""From the traces of a run to its ParityReport: no engine is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from parity_check import __version__
from parity_check.comparison.diagnose import examine
from parity_check.comparison.report import (
    Direction,
    EngineReport,
    Floor,
    ParityReport,
    Setting,
    WorkloadReport,
    WorstToken,
)
from parity_check.comparison.warnings import notices, sampler, unchecked
from parity_check.config.load import dump_config
from parity_check.config.models import OTHER, ROLES, Judging, Role
from parity_check.diagnosis.diagnose import diagnose
from parity_check.errors import InputError
from parity_check.measure.gates import Limit, choose_limits, judge_all, overall, worst_floor
from parity_check.measure.measure import measure
from parity_check.measure.objectives import Objective, choose_objective
from parity_check.measure.results import ClipEstimate, Measurement
from parity_check.measure.stats import Estimate
from parity_check.measure.worst import Outlier, Outliers
from parity_check.traces import provenance
from parity_check.traces.pairing import Index, check_headers, pair
from parity_check.traces.run_files import repeat_name, replayed_name, sampled_name
from parity_check.traces.trace import UNKNOWN, Trace, TraceHeader

TRUNCATION = "tis-token"
"""The cap whose share stands beside a clip rate, for losses that recompute their logprobs."""
NO_MODEL = {"name": UNKNOWN}
WORST_TOKENS = 8
CONTEXT_TOKENS = 8
ASKED_BY_VARIABLE = {
    "batch_invariant": "VLLM_BATCH_INVARIANT",
    "model_runner": "VLLM_USE_V2_MODEL_RUNNER",
}
"""Facts of an engine that are asked for by an environment variable."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a configuration asks of the numbers; choosing it refuses what makes no sense."""

    objective: Objective
    limits: tuple[Limit, ...]
    level: float
    tail_threshold: float
    positive_share: float
    cluster_by: Literal["prompt", "sample"]


def judgement(config: Judging) -> Judgement:
    """Raises ConfigError for an unknown objective, profile or metric, and for limits ≤ 0."""
    chosen = config.objective
    objective = choose_objective(chosen.kind, chosen.epsilon_low, chosen.epsilon_high)
    return Judgement(
        objective=objective,
        limits=choose_limits(config.gates.profile, objective, config.gates.overrides()),
        level=config.stats.confidence,
        tail_threshold=config.stats.tail_threshold,
        positive_share=chosen.positive_share,
        cluster_by=config.stats.cluster_by,
    )


def analyse(directory: Path, config: Judging) -> ParityReport:
    """Read a run's traces, measure and judge. Raises InputError, TraceMismatchError."""
    how = judgement(config)
    pairs = open_pairs(directory)
    floors = [
        Floor(role, measure_pair(baseline, repeat, role, how))
        for role, baseline, repeat in open_repeats(directory, pairs)
    ]
    return _assemble(config, how, pairs, floors)


def analyse_pair(behaviour: Path, evaluating: Path, judging: Judging) -> ParityReport:
    """Measure and judge two stored traces; the one that was replayed evaluates the other.

    Raises InputError, TraceMismatchError.
    """
    role, both = open_pair(behaviour, evaluating)
    return _assemble(judging, judgement(judging), {role: both}, [])


def open_pair(behaviour: Path, evaluating: Path) -> tuple[Role, tuple[Trace, Trace]]:
    """Two stored traces, in their order: who sampled, and the behaviour trace first."""
    first, second = Trace(behaviour), Trace(evaluating)
    if first.header.replayed_from == second.header.token_digest:
        first, second = second, first
    check_descriptions((first, second))
    check_headers(first.header, second.header)
    return "candidate" if first.header.sampled_by == "candidate" else "reference", (first, second)


def check_descriptions(traces: Sequence[Trace]) -> None:
    """Refuse traces that do not describe their engines, or not by the same settings."""
    for trace in traces:
        trace.check_description()
        first, names = (each.header.engine["settings"].keys() for each in (traces[0], trace))
        if names != first:
            setting = min(names ^ first)
            raise InputError(f"{trace.path}: setting {setting} is not in both traces")


def open_pairs(directory: Path) -> dict[Role, tuple[Trace, Trace]]:
    """A run's behaviour and evaluating traces, by the engine that sampled."""
    samplers: list[Role] = [r for r in ROLES if (directory / sampled_name(r)).exists()]
    if not samplers:
        raise InputError(f"{directory}: no traces here", hint="name the directory of a run")
    return {role: _pair(directory, role) for role in samplers}


def open_repeats(
    directory: Path, pairs: Mapping[Role, tuple[Trace, Trace]]
) -> list[tuple[Role, Trace, Trace]]:
    """A run's A/A runs: the engine, the trace that it repeats, and the repeat."""
    return [
        (role, _baseline(pairs, role), Trace(path))
        for role in ROLES
        for path in sorted(directory.glob(repeat_name(role, "*")))
    ]


def _pair(directory: Path, sampled_by: Role) -> tuple[Trace, Trace]:
    behaviour = Trace(directory / sampled_name(sampled_by))
    evaluating = Trace(directory / replayed_name(sampled_by))
    check_descriptions((behaviour, evaluating))
    # Raw against processed may be the very thing that a run was asked to compare.
    check_headers(behaviour.header, evaluating.header, same_distribution=False)
    return behaviour, evaluating


def _baseline(pairs: Mapping[Role, tuple[Trace, Trace]], role: Role) -> Trace:
    """The trace that an engine's A/A runs repeat: its own rollouts, or its only replay."""
    return pairs[role][0] if role in pairs else pairs[OTHER[role]][1]


def measure_pair(
    behaviour: Trace,
    evaluating: Trace,
    sampled_by: str,
    how: Judgement,
    outliers: Outliers | None = None,
) -> Measurement:
    """Measure one pair of traces, a row group at a time."""
    groups = Index()
    chunks = pair(behaviour.batches(), evaluating.batches(), how.cluster_by, Index(), groups)
    return measure(
        chunks if outliers is None else outliers.watch(chunks),
        sampled_by=sampled_by,
        objective=how.objective,
        level=how.level,
        tail_threshold=how.tail_threshold,
        positive_share=how.positive_share,
        groups=groups.names,
    )


def worst_token(trace: Trace, sampled_by: str, outlier: Outlier) -> WorstToken:
    """An outlier with the text around it."""
    sample, texts = trace.sample(outlier.sample), trace.vocabulary()

    def text(ids: Iterable[int]) -> str:
        return "".join(texts.get(token, f"‹{token}›") for token in ids)

    place = len(sample.prompt_token_ids) + outlier.position
    ids = [*sample.prompt_token_ids, *sample.completion_token_ids]
    return WorstToken(
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


def _assemble(
    judging: Judging,
    how: Judgement,
    pairs: Mapping[Role, tuple[Trace, Trace]],
    floors: Sequence[Floor],
) -> ParityReport:
    found = [_direction(role, *pair, how, floors) for role, pair in pairs.items()]
    directions = [direction for direction, _ in found]
    worst = sorted((token for _, tokens in found for token in tokens), key=_size)
    headers = {OTHER[role]: evaluating.header for role, (_, evaluating) in pairs.items()}
    headers |= {role: behaviour.header for role, (behaviour, _) in pairs.items()}
    first = headers[directions[0].sampled_by]
    differences = differences_of(headers)
    verdict = overall(gate for direction in directions for gate in direction.gates)
    return ParityReport(
        run_id=first.run_id,
        created_utc=first.created_utc,
        command=first.command,
        parity_check=__version__,
        config=dump_config(judging),
        model=first.model or next((h.model for h in headers.values() if h.model), NO_MODEL),
        host=first.host,
        engines=tuple(engine_report(role, headers[role].engine) for role in ROLES),
        differences=differences,
        workload=WorkloadReport(
            prompts=max(direction.measurement.clusters for direction in directions),
            samples=sum(direction.measurement.samples for direction in directions),
            tokens=sum(direction.measurement.tokens for direction in directions),
            sampling=dict(first.sampling),
            logprob_path=first.logprob_path,
        ),
        objective=how.objective,
        directions=tuple(directions),
        floors=tuple(floors),
        verdict=verdict,
        diagnosis=diagnose(examine(pairs, headers, directions, floors, differences), verdict),
        worst_tokens=tuple(worst[:WORST_TOKENS]),
        warnings=(
            *notices(headers, differences),
            *unchecked(trace for both in pairs.values() for trace in both),
        ),
        artifacts=tuple(pair.path.name for both in pairs.values() for pair in both),
    )


def _direction(
    role: Role, behaviour: Trace, evaluating: Trace, how: Judgement, floors: Sequence[Floor]
) -> tuple[Direction, list[WorstToken]]:
    outliers = Outliers(WORST_TOKENS)
    measured = measure_pair(behaviour, evaluating, role, how, outliers)
    own = [floor.measurement for floor in floors]
    direction = Direction(
        sampled_by=role,
        evaluated_by=OTHER[role],
        told=_told(role, behaviour.header, evaluating.header),
        measurement=measured,
        gates=judge_all(measured, how.limits, own),
        floors=_floors(measured, own),
        largest_floor=max((floor.largest for floor in own), default=None),
        beside=_truncation(measured) if how.objective.wiring == "bypass" else None,
    )
    return direction, [worst_token(behaviour, role, each) for each in outliers.largest()]


def _told(role: Role, behaviour: TraceHeader, evaluating: TraceHeader) -> str:
    """Whose tokens a direction is about, and what put them through which engine."""
    if behaviour.replayed_from is not None:
        return f"sampled by {sampler(behaviour)}, replayed by the {role} and the {OTHER[role]}"
    if evaluating.engine["version"] == UNKNOWN:
        return f"sampled by the {behaviour.sampled_by}, evaluated by the {evaluating.evaluated_by}"
    if behaviour.engine["version"] == UNKNOWN:
        return f"sampled by the {behaviour.sampled_by}, replayed by the {OTHER[role]}"
    return f"sampled by the {role}, replayed by the {OTHER[role]}"


def _floors(measured: Measurement, own: Sequence[Measurement]) -> dict[str, Estimate]:
    """The worst floor of everything that a report shows."""
    found = {each.name: worst_floor(each.name, own) for each in measured.estimates}
    shares = [
        {
            **{quantile.name: quantile for quantile in floor.quantiles.values()},
            **{length: clip.counted for length, clip in floor.clips_by_length},
            "truncation_fraction": _truncation(floor).counted,
        }
        for floor in own
    ]
    for floor in shares:
        for name, estimate in floor.items():
            worst = found.get(name)
            if worst is None or estimate.value > worst.value:
                found[name] = estimate
    return {name: floor for name, floor in found.items() if floor is not None}


def _truncation(measured: Measurement) -> ClipEstimate:
    """The share of importance weights that TIS would cut."""
    return next(clip for clip in measured.clips if clip.objective.name == TRUNCATION)


def _size(token: WorstToken) -> float:
    return -abs(token.log_ratio)


def engine_report(role: str, engine: Mapping[str, Any]) -> EngineReport:
    """One engine as its trace describes it."""
    return EngineReport(
        role=role,
        label=engine["label"],
        version=engine["version"],
        family=engine["family"],
        device=engine["device"],
        packages=engine["packages"],
        settings={name: Setting(**setting) for name, setting in engine["settings"].items()},
        config=engine["config"],
        environment=engine["environment"],
    )


def _asked(engine: Mapping[str, Any]) -> dict[str, Any]:
    """What one engine's configuration asks for beside its settings, by the name of the fact."""
    variables = engine.get("env", {})
    return {
        **engine.get("engine_args", {}),
        **engine.get("transformers", {}),
        **{fact: variables[name] for fact, name in ASKED_BY_VARIABLE.items() if name in variables},
    }


def differences_of(headers: Mapping[Role, TraceHeader]) -> tuple[provenance.Difference, ...]:
    """In what the two engines differ, and whether anybody asked for it."""
    reference, candidate = (headers[role].engine for role in ROLES)
    requested = {
        name: (setting["requested"], candidate["settings"][name]["requested"])
        for name, setting in reference["settings"].items()
    }
    asked = {role: _asked(headers[role].config.get(role, {})) for role in ROLES}
    for name in {**asked["reference"], **asked["candidate"]}:
        pair = (asked["reference"].get(name), asked["candidate"].get(name))
        requested.setdefault(name, pair)
    return provenance.differences(reference, candidate, requested)
