"""`weight-sync` from a configuration to its report: the engines, their oracles, the run's files.

One engine a role goes through the updates; then engines that are started with each version of the
weights replay the same tokens, one version after the other.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from parity_check import __version__
from parity_check.comparison.report import EngineReport, Setting
from parity_check.config.load import dump_config
from parity_check.config.models import Config, ModelConfig, Role, WeightSync
from parity_check.console import Console
from parity_check.engines.base import EngineSpec
from parity_check.engines.client import WorkerEngine
from parity_check.engines.pauses import IN_PROCESS
from parity_check.engines.replies import Flying, Head, WeightsInForce
from parity_check.errors import ConfigError, ExitCode, InputError
from parity_check.files import write_text
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import Session, session, tokenize_prompts
from parity_check.report.deliver import Delivery, append_step_summary
from parity_check.report.weight_sync import sentences
from parity_check.report.weight_sync.json import parse
from parity_check.report.weight_sync.renderers import RENDERERS
from parity_check.traces import provenance
from parity_check.traces.prompts import read_prompts
from parity_check.weight_sync.checks import reference_analogue
from parity_check.weight_sync.observed import EngineRun, Mode, Request, Update, Weights, declared
from parity_check.weight_sync.report import WeightSyncReport
from parity_check.weight_sync.scenario import (
    Cold,
    Flown,
    Planned,
    declared_ways,
    fly,
    locate_checkpoint,
    plan_requests,
    replay,
)
from parity_check.weight_sync.timeline import judge, overall

REPORT = "report.json"


def weight_sync(
    config: Config, roles: Sequence[Role], delivery: Delivery, console: Console
) -> ExitCode:
    """Change weights under requests that are on their way, on one engine or on both."""
    delivery.check()
    return deliver(run_scenario(config, roles, console), delivery, console)


def report(directory: Path, delivery: Delivery, console: Console) -> ExitCode:
    """Render a finished run again, as it was judged. Raises InputError for a damaged report."""
    delivery.check()
    path = directory / REPORT
    try:
        stored = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not the report of a weight-sync run: {reason}") from None
    return deliver(stored, delivery, console)


def is_weight_sync(directory: Path) -> bool:
    """Whether a run's directory is one of `weight-sync`."""
    return any(directory.glob(rollouts_name("*")))


def deliver(report: WeightSyncReport, delivery: Delivery, console: Console) -> ExitCode:
    """Print and write the report; returns the exit code. On GitHub Actions, annotate as well."""
    for path, format in delivery.write.items():
        write_text(path, RENDERERS[format](report))
    quiet = console.verbosity < 0 and delivery.format == "text"
    console.data(sentences.verdict_line(report) if quiet else RENDERERS[delivery.format](report))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        if delivery.format == "text":
            console.data(RENDERERS["github"](report))
        append_step_summary(RENDERERS["markdown"](report))
    if delivery.exit_zero:
        return ExitCode.PARITY
    inconclusive = report.exit_code is ExitCode.INCONCLUSIVE
    return delivery.inconclusive if inconclusive else report.exit_code


def run_scenario(config: Config, roles: Sequence[Role], console: Console) -> WeightSyncReport:
    """Run the scenario on the engines, its oracles after it, and judge. Writes the run."""
    settings = config.weight_sync or WeightSync()
    config = config.model_copy(update={"weight_sync": settings})
    _refuse_endpoints(config, roles)
    _check_lengths(settings, config.workload.max_tokens)
    prompts = read_prompts(config.workload.prompts, config.workload.num_prompts)
    checkpoints = [locate_checkpoint(path) for path in settings.weights]
    with RunDirectory(Path(config.run.out), dump_config(config)) as run:
        with session(_in_process(config, roles), roles, run, console) as live:
            specs = ((role, live.engines.specs[role]) for role in roles)
            started = {role: spec for role, spec in specs if isinstance(spec, EngineSpec)}
            ways = declared_ways(started, settings)
            ids = tokenize_prompts(live, prompts)
            plan = plan_requests(prompts, ids, settings.concurrency)
            job = partial(_recorded, plan, config, checkpoints, run)
            flown = live.engines.run(dict.fromkeys(roles, job))
            made = live
        versions = [config.model, *(_model(config, path) for path in checkpoints)]
        colds: list[dict[Role, Cold]] = []
        for version, model in enumerate(versions):
            with session(_cold_config(config, roles, model), roles, run, console) as live:
                jobs = {
                    role: partial(replay, plan, config, keeping, flown[role])
                    for role in roles
                    for keeping in [checkpoints if not version and ways[role][0] == "keep" else []]
                }
                colds.append(live.engines.run(jobs))
        wanted = config.workload.max_tokens
        runs = [
            engine_run(role, ways[role], plan, wanted, flown[role], [c[role] for c in colds])
            for role in roles
        ]
        report = _report(config, made, run, checkpoints, flown, runs)
        for role, each in zip(roles, runs, strict=True):
            run.write(rollouts_name(role), _rollouts(each, flown[role].rows))
        run.write(REPORT, RENDERERS["json"](report))
        run.write("report.html", RENDERERS["html"](report))
    return report


def _check_lengths(settings: WeightSync, max_tokens: int) -> None:
    last = settings.update_after_tokens * len(settings.weights)
    if max_tokens <= last:
        raise ConfigError(
            f"workload.max_tokens: requests of {max_tokens} tokens have ended before the last "
            f"update, which comes after {last}"
        )


def _refuse_endpoints(config: Config, roles: Sequence[Role]) -> None:
    for role in roles:
        if config.engine(role).kind == "endpoint":
            raise ConfigError(f"weight_sync: the {role} is an endpoint: its weights are not ours")


def _in_process(config: Config, roles: Sequence[Role]) -> Config:
    """Engines that can be stepped from outside; what the user sets in `env` wins."""
    return _with_engines(
        config, {r: {"env": {**IN_PROCESS, **config.engine(r).env}} for r in roles}
    )


def _cold_config(config: Config, roles: Sequence[Role], model: ModelConfig) -> Config:
    """Engines that start with given weights, and take nothing from a prefix cache."""
    changes = {
        role: {
            "settings": config.engine(role).settings.model_copy(
                update={"enable_prefix_caching": False}
            )
        }
        for role in roles
    }
    cold = _with_engines(_in_process(config, roles), changes)
    return cold.model_copy(update={"model": model})


def _with_engines(config: Config, changes: Mapping[Role, dict[str, Any]]) -> Config:
    return config.model_copy(
        update={role: config.engine(role).model_copy(update=c) for role, c in changes.items()}
    )


def _model(config: Config, path: str) -> ModelConfig:
    return config.model.model_copy(update={"path": path, "revision": None})


def _recorded(
    plan: Sequence[Planned],
    config: Config,
    checkpoints: Sequence[str],
    run: RunDirectory,
    engine: WorkerEngine,
) -> Flown:
    """Fly, and keep the rollouts at once: the oracles come later, and may be interrupted."""
    flown = fly(plan, config, checkpoints, engine)
    name = rollouts_name(engine.spec.role)
    run.write(name, "".join(json.dumps(row.model_dump()) + "\n" for row in flown.rows))
    engine.forget()
    return flown


def engine_run(
    role: Role,
    way: tuple[Mode, bool],
    plan: Sequence[Planned],
    wanted: int,
    flown: Flown,
    colds: Sequence[Cold],
) -> EngineRun:
    """One engine's rows and its oracles' as arrays; `wanted` tokens were asked of a request."""
    kept = {row.sample_id: row for row in colds[0].kept}
    requests = []
    for place, (planned, row) in enumerate(zip(plan, flown.rows, strict=True)):
        beside = kept.get(planned.sample_id)
        if beside is not None and beside.switches != row.switches:
            beside = None  # another boundary is another oracle
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
    return EngineRun(
        role=role,
        family=flown.description["family"],
        declared=declared(*way),
        clear_cache=way[1],
        prefix_caching=flown.description["settings"]["enable_prefix_caching"]["in_force"],
        block_size=flown.description["config"].get("block_size", 1),
        requests=tuple(requests),
        updates=tuple(
            Update(**{**update.model_dump(), "cache_resets": tuple(update.cache_resets)})
            for update in flown.result.updates
        ),
        preemptions=flown.result.preemptions,
        before=_weights(flown.result.weights_before),
        after=_weights(flown.result.weights_after),
        cold=tuple(_weights(cold.weights) for cold in colds),
    )


def _weights(found: WeightsInForce) -> Weights:
    head = found.head or Head(logits=[0.0], dtype="no")
    return Weights(found.parameters, np.array(head.logits, dtype=np.float64), head.dtype)


def rollouts_name(role: str) -> str:
    """The file with every request of an engine: tokens, logprobs, and then the oracles' too."""
    return f"{role}-weight-sync.jsonl"


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
    made: Session,
    run: RunDirectory,
    checkpoints: Sequence[str],
    flown: Mapping[Role, Flown],
    runs: Sequence[EngineRun],
) -> WeightSyncReport:
    settings = config.weight_sync
    assert settings is not None
    results = [judge(each, settings.limit, config.stats.confidence) for each in runs]
    checks = [check for result in results for check in result.checks]
    if len(runs) == 2:
        measured = {result.role: result.measured for result in results}
        checks.append(reference_analogue(runs[0], runs[1], measured))
    phases = [request.phase for request in runs[0].requests]
    return WeightSyncReport(
        run_id=made.run_id,
        created_utc=made.created_utc,
        command=shlex.join(["parity-check", *sys.argv[1:]]),
        parity_check=__version__,
        config=dump_config(config),
        model=made.model,
        checkpoints=tuple(provenance.model_fingerprint(path, None) for path in checkpoints),
        host=provenance.host_fingerprint(),
        engines=tuple(_engine_report(role, each) for role, each in flown.items()),
        requests={phase: phases.count(phase) for phase in dict.fromkeys(phases)},
        results=tuple(results),
        checks=tuple(checks),
        verdict=overall(checks),
        artifacts=tuple(
            ["report.json", "config.toml"]
            + [name for role in flown for name in (rollouts_name(role), f"{role}.log")]
        ),
    )


def _engine_report(role: Role, flown: Flown) -> EngineReport:
    found = flown.description
    return EngineReport(
        role=role,
        label=flown.label,
        version=found["version"],
        family=found["family"],
        device=found["device"],
        packages=found["packages"],
        settings={
            name: Setting(flown.requested[name], each["in_force"], each["proof"])
            for name, each in found["settings"].items()
        },
        config=found["config"],
        environment=found["environment"],
    )
