"""`weight-sync` from a configuration to its report: the engines, their replays, the run's files.

One engine per role goes through the updates. Then cold engines, started with each version of the
weights in turn, replay the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from parity_check.comparison.analyse import engine_report, head_of
from parity_check.config.load import dump_config, parse_config
from parity_check.config.models import Config, ModelConfig, Role, WeightSync
from parity_check.console import Console
from parity_check.engines.client import WorkerEngine
from parity_check.engines.kinds import configured_engine
from parity_check.engines.pauses import IN_PROCESS
from parity_check.engines.replies import Flying, WeightsInForce
from parity_check.errors import ConfigError, EngineError, ExitCode
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import Session, session, tokenize_prompts
from parity_check.report.deliver import Delivery, deliver
from parity_check.report.document import Document
from parity_check.report.record import stored
from parity_check.report.renderers import render
from parity_check.traces import provenance
from parity_check.traces.prompts import Prompt, read_workload
from parity_check.weight_sync.checks import reference_analogue
from parity_check.weight_sync.document import document
from parity_check.weight_sync.files import rollouts_name
from parity_check.weight_sync.observed import EngineRun, Mode, Request, Update, Weights, declared
from parity_check.weight_sync.record import read
from parity_check.weight_sync.report import WeightSyncReport
from parity_check.weight_sync.scenario import (
    Cold,
    Planned,
    Recording,
    declared_ways,
    locate_checkpoint,
    plan_requests,
    record_updates,
    replay,
)
from parity_check.weight_sync.timeline import judge, timeline

REPORT = "report.json"
PAGE = "report.html"


def weight_sync(
    config: Config, roles: Sequence[Role], delivery: Delivery, console: Console
) -> ExitCode:
    """Change the weights while requests are in flight, on one engine or on both."""
    delivery.check()
    return deliver(run_scenario(config, roles, console), delivery, console)


def report(directory: Path, delivery: Delivery, console: Console) -> ExitCode:
    """Render a finished run again, with its stored verdict. Raises InputError."""
    delivery.check()
    shown = stored(directory / REPORT, "weight-sync", lambda tree: document(read(tree)))
    return deliver(shown, delivery, console)


def check(config: Config, roles: Sequence[Role]) -> tuple[list[Prompt], list[str]]:
    """The prompts and the new weights, checked before any engine starts.

    Raises ConfigError, InputError.
    """
    config.check_no_adapter("weight-sync")
    settings = config.weight_sync or WeightSync()
    _check_weights(config, roles)
    _check_lengths(settings, config.workload.max_tokens)
    prompts = read_workload(config.workload)
    return prompts, [locate_checkpoint(path) for path in settings.weights]


def run_scenario(config: Config, roles: Sequence[Role], console: Console) -> Document:
    """Run the scenario on the engines, then the replays, and judge. Writes the run."""
    settings = config.weight_sync or WeightSync()
    config = config.model_copy(update={"weight_sync": settings})
    prompts, checkpoints = check(config, roles)
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        with session(_in_process(config, roles), roles, run, console) as live:
            specs = live.engines.specs
            pauses = {role: found for role in roles if (found := specs[role].pauses) is not None}
            ways = declared_ways(pauses, settings)
            ids = tokenize_prompts(live, prompts)
            plan = plan_requests(prompts, ids, settings.concurrency)
            job = partial(_run_and_store, plan, config, checkpoints, run)
            recordings = live.engines.run(dict.fromkeys(roles, job))
            first = live
        versions = [config.model, *(_model(config, path) for path in checkpoints)]
        colds: list[dict[Role, Cold]] = []
        for version, model in enumerate(versions):
            with session(_cold_config(config, roles, model), roles, run, console) as live:
                jobs = {
                    role: partial(replay, plan, config, keeping, recordings[role])
                    for role in roles
                    for keeping in [checkpoints if not version and ways[role][0] == "keep" else []]
                }
                colds.append(live.engines.run(jobs))
        wanted = config.workload.max_tokens
        runs = [
            engine_run(role, ways[role], plan, wanted, recordings[role], [c[role] for c in colds])
            for role in roles
        ]
        shown = document(_report(config, first, checkpoints, recordings, runs))
        for role, each in zip(roles, runs, strict=True):
            run.write(rollouts_name(role), _rollouts(each, recordings[role].rows))
        run.write(REPORT, render(shown, "json"))
        run.write(PAGE, render(shown, "html"))
    return shown


def _check_lengths(settings: WeightSync, max_tokens: int) -> None:
    last = settings.update_after_tokens * len(settings.weights)
    if max_tokens <= last:
        raise ConfigError(
            f"workload.max_tokens: requests of {max_tokens} tokens end before the last update, "
            f"which happens after {last} tokens"
        )


def _check_weights(config: Config, roles: Sequence[Role]) -> None:
    for role in roles:
        can = configured_engine(role, config).can
        if not can.updates_weights:
            raise ConfigError(
                f"weight_sync: the {role} is {can.noun}, whose weights parity-check cannot update"
            )


def _in_process(config: Config, roles: Sequence[Role]) -> Config:
    """Engines that parity-check can step itself; the user's `env` takes precedence."""
    tree = dump_config(config)
    for role in roles:
        tree[role]["env"] = {**IN_PROCESS, **tree[role]["env"]}
    return parse_config(tree, source="weight_sync")


def _cold_config(config: Config, roles: Sequence[Role], model: ModelConfig) -> Config:
    """Engines started with the given weights and without prefix caching."""
    tree = dump_config(_in_process(config, roles))
    for role in roles:
        tree[role]["settings"]["enable_prefix_caching"] = False
    return parse_config(tree, source="weight_sync").model_copy(update={"model": model})


def _model(config: Config, path: str) -> ModelConfig:
    return config.model.model_copy(update={"path": path, "revision": None})


def _run_and_store(
    plan: Sequence[Planned],
    config: Config,
    checkpoints: Sequence[str],
    run: RunDirectory,
    engine: WorkerEngine,
) -> Recording:
    """Record, and keep the rollouts at once: the replays come later and may be interrupted."""
    recording = record_updates(plan, config, checkpoints, engine)
    name = rollouts_name(engine.spec.role)
    run.write(name, "".join(json.dumps(row.model_dump()) + "\n" for row in recording.rows))
    engine.forget()
    return recording


def engine_run(
    role: Role,
    way: tuple[Mode, bool],
    plan: Sequence[Planned],
    wanted: int,
    recording: Recording,
    colds: Sequence[Cold],
) -> EngineRun:
    """One engine's rows and its replays' as arrays; `wanted` is the number of tokens per request.

    Raises EngineError for logprobs from which no distance can be computed.
    """
    kept = {row.sample_id: row for row in colds[0].kept}
    requests = []
    for place, (planned, row) in enumerate(zip(plan, recording.rows, strict=True)):
        beside = kept.get(planned.sample_id)
        if beside is not None and beside.switches != row.switches:
            beside = None  # it switched at another token, so its KV is not the same
        requests.append(
            Request(
                sample_id=planned.sample_id,
                prompt_id=planned.prompt_id,
                phase=planned.phase,
                prompt_tokens=len(planned.token_ids),
                wanted=wanted,
                finish_reason=row.finish_reason or "",
                cached_tokens=row.cached_tokens,
                started=0 if planned.phase == "in_flight" else len(colds) - 1,
                switches=tuple(row.switches),
                logprobs=np.array(row.logprobs, dtype=np.float64),
                cold=np.array([cold.logprobs[place] for cold in colds], dtype=np.float64),
                kept=None if beside is None else np.array(beside.logprobs, dtype=np.float64),
            )
        )
    _check_logprobs(role, requests)
    return EngineRun(
        role=role,
        family=recording.engine.family,
        declared=declared(*way),
        clear_cache=way[1],
        prefix_caching=recording.engine.settings["enable_prefix_caching"].in_force is True,
        block_size=recording.engine.config.get("block_size", 1),
        requests=tuple(requests),
        updates=tuple(
            Update(**{**update.model_dump(), "cache_resets": tuple(update.cache_resets)})
            for update in recording.result.updates
        ),
        preemptions=recording.result.preemptions,
        before=_weights(recording.result.weights_before),
        after=_weights(recording.result.weights_after),
        cold=tuple(_weights(cold.weights) for cold in colds),
    )


def _check_logprobs(role: Role, requests: Sequence[Request]) -> None:
    invalid = [
        request.sample_id
        for request in requests
        for found in (request.logprobs, request.cold, request.kept)
        if found is not None and not np.isfinite(found).all()
    ]
    if invalid:
        raise EngineError(
            f"the {role} returned invalid logprobs (missing, NaN or infinite), first in "
            f"{invalid[0]}",
            kind="invalid_logprobs",
            hint="`parity-check compare` counts them by kind",
        )


def _weights(found: WeightsInForce) -> Weights:
    if found.head is None:
        return Weights(found.parameters, None, "unknown")
    return Weights(
        found.parameters, np.array(found.head.logits, dtype=np.float64), found.head.dtype
    )


def _rollouts(run: EngineRun, recorded: Sequence[Flying]) -> str:
    rows = (
        {
            "sample_id": request.sample_id,
            "phase": request.phase,
            "finish_reason": request.finish_reason,
            "cached_tokens": request.cached_tokens,
            "token_ids": row.token_ids,
            "versions": request.versions.tolist(),
            "lags": request.lags.tolist(),
            "logprobs": request.logprobs.tolist(),
            "cold_logprobs": request.cold.tolist(),
            "kept_logprobs": None if request.kept is None else request.kept.tolist(),
        }
        for request, row in zip(run.requests, recorded, strict=True)
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def _report(
    config: Config,
    first: Session,
    checkpoints: Sequence[str],
    recordings: Mapping[Role, Recording],
    runs: Sequence[EngineRun],
) -> WeightSyncReport:
    settings = config.weight_sync
    assert settings is not None
    judged = [judge(each, settings.limit, config.stats.confidence) for each in runs]
    results = [result for result, _ in judged]
    checks = [check for _, found in judged for check in found]
    if len(runs) == 2:
        measured = {result.role: result.measured for result in results}
        checks.append(reference_analogue(runs[0], runs[1], measured))
    phases = [request.phase for request in runs[0].requests]
    return WeightSyncReport(
        head=head_of("weight-sync", config, first),
        checkpoints=tuple(provenance.model_fingerprint(path, None) for path in checkpoints),
        engines=tuple(
            engine_report(role, each.engine, "decode", None) for role, each in recordings.items()
        ),
        requests={phase: phases.count(phase) for phase in dict.fromkeys(phases)},
        results=tuple(results),
        timeline=tuple(step for each in runs for step in timeline(each)),
        checks=tuple(checks),
        artifacts=tuple(
            ["report.json", "config.toml"]
            + [name for role in recordings for name in (rollouts_name(role), f"{role}.log")]
        ),
    )
