"""From the traces of a run with more than two engines to its MatrixReport: no engine is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from parity_check import __version__
from parity_check.comparison.analyse import (
    TRUNCATION,
    Judgement,
    check_descriptions,
    differences_of,
    engine_report,
    judgement,
    measure_pair,
)
from parity_check.comparison.practices import Logprobs, Practice, practices
from parity_check.comparison.report import ReportWarning
from parity_check.comparison.warnings import notices, trainers
from parity_check.config.load import dump_config
from parity_check.config.models import ROLES, Config
from parity_check.errors import InputError
from parity_check.measure.decomposition import Decomposition, decompose
from parity_check.measure.gates import judge_all, overall
from parity_check.measure.metrics import PairedChunk
from parity_check.measure.objectives import OBJECTIVES, Objective
from parity_check.measure.results import ClipEstimate, Measurement
from parity_check.report.matrix.model import FirstStep, MatrixReport, Pair, Rollouts, Scorer
from parity_check.traces.pairing import Index, check_siblings, pair
from parity_check.traces.run_files import evaluated_name, repeat_name, sampled_name
from parity_check.traces.trace import Trace, TraceHeader

CLIP = "grpo"
"""The clip that stands for the policy ratio where the configured objective is a weight's."""


def analyse_matrix(directory: Path, config: Config) -> MatrixReport:
    """Measure and judge every pair of engines. Raises InputError, TraceMismatchError."""
    how = judgement(config)
    samplers: list[str] = [role for role in ROLES if (directory / sampled_name(role)).exists()]
    if not samplers:
        raise InputError(f"{directory}: no traces here", hint="name the directory of a run")
    traces = {sampler: _traces(directory, sampler, config.names) for sampler in samplers}
    floors = {
        name: floor for name in config.names if (floor := _floor(directory, traces, name, how))
    }
    rollouts = tuple(
        _rollouts(sampler, traces[sampler], floors, config, how) for sampler in samplers
    )
    gates = [gate for each in rollouts for pair in each.pairs for gate in pair.gates]
    latest = samplers[-1]
    headers = {name: trace.header for name, trace in traces[latest].items()}
    first = headers[latest]
    trainer = next(iter(config.engines))
    return MatrixReport(
        run_id=first.run_id,
        created_utc=first.created_utc,
        command=first.command,
        parity_check=__version__,
        config=dump_config(config),
        model=first.model,
        host=first.host,
        sampling=dict(first.sampling),
        scorers=tuple(
            Scorer(
                engine_report(name, header.engine),
                header.logprob_path,
                floors.get(name),
                traces[latest][name].mean_entropy(),
            )
            for name, header in ((name, headers[name]) for name in config.names)
        ),
        objective=how.objective,
        level=how.level,
        rollouts=rollouts,
        trainer=trainer,
        rollout=latest,
        practices=tuple(_practices(rollouts[-1], traces[latest], trainer, floors, config, how)),
        verdict=overall(gates),
        warnings=tuple(_warnings(headers)),
    )


def _warnings(headers: Mapping[str, TraceHeader]) -> Iterator[ReportWarning]:
    """What a comparison of the reference and the candidate warns of, and of further trainers."""
    roles = {role: headers[role] for role in ROLES}
    yield from notices(roles, differences_of(roles))
    yield from trainers({name: headers[name] for name in headers if name not in ROLES})


def _traces(directory: Path, sampler: str, names: Sequence[str]) -> dict[str, Trace]:
    """Every engine's logprobs on one engine's rollouts, the latter's own first."""
    order = sorted(names, key=lambda name: name != sampler)
    traces = {
        name: Trace(
            directory / (sampled_name(name) if name == sampler else evaluated_name(sampler, name))
        )
        for name in order
    }
    check_descriptions(list(traces.values()))
    return traces


def _floor(
    directory: Path, traces: Mapping[str, Mapping[str, Trace]], name: str, how: Judgement
) -> Measurement | None:
    """An engine against itself: the repeat that is farthest from its baseline."""
    own = traces.get(name) or next(iter(traces.values()))
    found = [
        measure_pair(own[name], Trace(path), name, how)
        for path in sorted(directory.glob(repeat_name(name, "*")))
    ]
    return max(found, key=lambda each: each["rms_log_ratio"].value, default=None)


def _rollouts(
    sampler: str,
    traces: Mapping[str, Trace],
    floors: Mapping[str, Measurement],
    config: Config,
    how: Judgement,
) -> Rollouts:
    pairs = [
        _pair(behaviour, evaluating, sampler, traces, floors, how)
        for behaviour, evaluating in combinations(traces, 2)
    ]
    found = Rollouts(sampler, tuple(pairs), (), ())
    return Rollouts(
        sampler,
        tuple(pairs),
        tuple(_decomposition(traces, name, sampler, how) for name in config.engines),
        tuple(
            step
            for name in config.engines
            for step in _first_steps(found, name, floors.get(name), config.objective.logprobs, how)
        ),
    )


def _pair(
    behaviour: str,
    evaluating: str,
    sampler: str,
    traces: Mapping[str, Trace],
    floors: Mapping[str, Measurement],
    how: Judgement,
) -> Pair:
    left, right = traces[behaviour], traces[evaluating]
    check_siblings(left.header, right.header, same_distribution=False)
    measured = measure_pair(left, right, sampler, how)
    own = [floors[name] for name in (behaviour, evaluating) if name in floors]
    judged = judge_all(measured, how.limits, own) if behaviour == sampler else ()
    return Pair(evaluating, behaviour, measured, _clip(measured, _weight(how.objective)), judged)


def _decomposition(
    traces: Mapping[str, Trace], trainer: str, sampler: str, how: Judgement
) -> Decomposition:
    return decompose(_legs(traces, trainer, how), trainer, sampled_by=sampler, level=how.level)


def _legs(
    traces: Mapping[str, Trace], trainer: str, how: Judgement
) -> Iterator[tuple[PairedChunk, PairedChunk]]:
    candidate = traces["candidate"]
    clusters = (Index(), Index())
    left, right = (
        pair(candidate.batches(), traces[name].batches(), how.cluster_by, index, Index())
        for name, index in zip((trainer, "reference"), clusters, strict=True)
    )
    return zip(left, right, strict=True)


def _weight(objective: Objective) -> str:
    """The cap or mask of the importance weight: the configured one, TIS where that is a clip."""
    return objective.name if objective.wiring == "recompute" else TRUNCATION


def _clip(measured: Measurement, name: str) -> ClipEstimate:
    return next(clip for clip in measured.clips if clip.objective.name == name)


def _first_steps(
    rollouts: Rollouts,
    trainer: str,
    floor: Measurement | None,
    configured: Logprobs | None,
    how: Judgement,
) -> Iterator[FirstStep]:
    """Of a loss that takes the rollout's logprobs as the old ones, and of one that recomputes."""
    objective = how.objective
    clip = objective.name if objective.wiring == "bypass" else OBJECTIVES[CLIP].name
    seen = rollouts.pair(trainer, rollouts.sampled_by)
    measured = seen.measurement
    if configured in (None, "bypass"):
        ratio = measured["mean_importance_ratio"]
        yield FirstStep(
            trainer, "bypass", configured is not None, ratio, _clip(measured, clip), None
        )
    if configured in (None, "recompute"):
        yield FirstStep(
            trainer,
            "recompute",
            configured is not None,
            None if floor is None else floor["mean_importance_ratio"],
            None if floor is None else _clip(floor, clip),
            seen.truncation,
        )


def _practices(
    rollouts: Rollouts,
    traces: Mapping[str, Trace],
    trainer: str,
    floors: Mapping[str, Measurement],
    config: Config,
    how: Judgement,
) -> Iterator[Practice]:
    header = traces[rollouts.sampled_by].header
    return practices(
        rollouts.pair(trainer, rollouts.sampled_by).measurement,
        rollout=header.engine,
        sampling=header.sampling,
        logprobs=config.objective.logprobs,
        floor=floors.get(trainer),
        gated=frozenset(limit.metric for limit in how.limits),
    )
