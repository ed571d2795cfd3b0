"""The `weight-sync` command: engines, oracles, files of the run, report.

The engine of each role goes through the updates. Then, for each version of the weights, cold
engines replay the same tokens.
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
    Planned,
    Rows,
    Updated,
    declared_ways,
    locate_checkpoint,
    plan_requests,
    replay,
    run_updates,
)
from parity_check.weight_sync.timeline import judge, overall

REPORT = "report.json"


def weight_sync(
    config: Config, roles: Sequence[Role], delivery: Delivery, console: Console
) -> ExitCode:
    """Update weights while requests are in flight, on one engine or on both."""
    delivery.check()
    return deliver(run_scenario(config, roles, console), delivery, console)


def report(directory: Path, delivery: Delivery, console: Console) -> ExitCode:
    """Render a finished run again, with its stored verdict. Raises InputError."""
    delivery.check()
    path = directory / REPORT
    try:
        stored = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a weight-sync report: {reason}") from None
    return deliver(stored, delivery, console)


def is_weight_sync(directory: Path) -> bool:
    """Whether a run directory is of `weight-sync`."""
    return any(directory.glob(rollouts_name("*")))


def deliver(report: WeightSyncReport, delivery: Delivery, console: Console) -> ExitCode:
    """Print and write the report; return the exit code. On GitHub Actions, also annotate."""
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
    """Run the scenario on the engines, then the oracles, and judge. Writes the run directory."""
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
            job = partial(_run_and_store, plan, config, checkpoints, run)
            updated = live.engines.run(dict.fromkeys(roles, job))
            subject = live
        versions = [config.model, *(_model(config, path) for path in checkpoints)]
        colds: list[dict[Role, Cold]] = []
        for version, model in enumerate(versions):
            with session(_cold_config(config, roles, model), roles, run, console) as live:
                jobs = {
                    role: partial(replay, plan, config, keeping, updated[role])
                    for role in roles
                    for keeping in [checkpoints if not version and ways[role][0] == "keep" else []]
                }
                colds.append(live.engines.run(jobs))
        wanted = config.workload.max_tokens
        runs = [
            engine_run(role, ways[role], plan, wanted, updated[role], [c[role] for c in colds])
            for role in roles
        ]
        report = _report(config, subject, run, checkpoints, updated, runs)
        for role, each in zip(roles, runs, strict=True):
            run.write(rollouts_name(role), _rollouts(each, updated[role].rows))
        run.write(REPORT, RENDERERS["json"](report))
        run.write("report.html", RENDERERS["html"](report))
    return report


def _check_lengths(settings: WeightSync, max_tokens: int) -> None:
    last = settings.update_after_tokens * len(settings.weights)
    if max_tokens <= last:
        raise ConfigError(
            f"workload.max_tokens: requests of {max_tokens} tokens end before the last update, "
            f"which happens after {last} tokens"
        )


def _refuse_endpoints(config: Config, roles: Sequence[Role]) -> None:
    for role in roles:
        if config.engine(role).kind == "endpoint":
            raise ConfigError(
                f"weight_sync: the {role} is an endpoint, whose weights parity-check cannot update"
            )


def _in_process(config: Config, roles: Sequence[Role]) -> Config:
    """Engines that parity-check can step itself; the user's `env` takes precedence."""
    return _with_engines(
        config, {r: {"env": {**IN_PROCESS, **config.engine(r).env}} for r in roles}
    )


def _cold_config(config: Config, roles: Sequence[Role], model: ModelConfig) -> Config:
    """Engines started with the given weights and without prefix caching."""
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


def _run_and_store(
    plan: Sequence[Planned],
    config: Config,
    checkpoints: Sequence[str],
    run: RunDirectory,
    engine: WorkerEngine,
) -> Updated:
    """Run the updates and store the rollouts at once, because the oracles may be interrupted."""
    updated = run_updates(plan, config, checkpoints, engine)
    name = rollouts_name(engine.spec.role)
    run.write(name, "".join(json.dumps(row) + "\n" for row in updated.rows))
    engine.forget()
    return updated


def engine_run(
    role: Role,
    way: tuple[Mode, bool],
    plan: Sequence[Planned],
    wanted: int,
    updated: Updated,
    colds: Sequence[Cold],
) -> EngineRun:
    """Rows of one engine and its oracles as arrays; `wanted` tokens were requested per request."""
    kept = {row["sample_id"]: row for row in colds[0].kept}
    requests = []
    for place, (planned, row) in enumerate(zip(plan, updated.rows, strict=True)):
        kept_row = kept.get(planned.sample_id)
        if kept_row is not None and kept_row["switches"] != row["switches"]:
            kept_row = None  # a different boundary is a different oracle
        requests.append(
            Request(
                sample_id=planned.sample_id,
                prompt_id=planned.prompt_id,
                phase=planned.phase,
                prompt_tokens=len(planned.token_ids),
                wanted=wanted,
                finish_reason=row["finish_reason"],
                cached_tokens=row["cached_tokens"],
                started=0 if planned.phase == "in_flight" else len(colds) - 1,
                switches=tuple(row["switches"]),
                logprobs=np.array(row["logprobs"], dtype=np.float64),
                cold=np.array([cold.logprobs[place] for cold in colds], dtype=np.float64),
                kept=None if kept_row is None else np.array(kept_row["logprobs"], dtype=np.float64),
            )
        )
    return EngineRun(
        role=role,
        family=updated.description["family"],
        declared=declared(*way),
        clear_cache=way[1],
        prefix_caching=updated.description["settings"]["enable_prefix_caching"]["in_force"],
        block_size=updated.description["config"].get("block_size", 1),
        requests=tuple(requests),
        updates=tuple(
            Update(**{**update, "cache_resets": tuple(update["cache_resets"])})
            for update in updated.result["updates"]
        ),
        preemptions=updated.result["preemptions"],
        before=_weights(updated.result["weights_before"]),
        after=_weights(updated.result["weights_after"]),
        cold=tuple(_weights(cold.weights) for cold in colds),
    )


def _weights(found: Mapping[str, Any]) -> Weights:
    head = found["head"] or {"logits": [0.0], "dtype": "no"}
    return Weights(
        found["parameters"], np.array(head["logits"], dtype=np.float64), str(head["dtype"])
    )


def rollouts_name(role: str) -> str:
    """The file with all requests of an engine: tokens, logprobs, and logprobs of the oracles."""
    return f"{role}-weight-sync.jsonl"


def _rollouts(run: EngineRun, recorded: Rows) -> str:
    rows = (
        {
            "sample_id": request.sample_id,
            "phase": request.phase,
            "finish_reason": request.finish_reason,
            "cached_tokens": request.cached_tokens,
            "token_ids": row["token_ids"],
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
    subject: Session,
    run: RunDirectory,
    checkpoints: Sequence[str],
    updated: Mapping[Role, Updated],
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
        run_id=subject.run_id,
        created_utc=subject.created_utc,
        command=shlex.join(["parity-check", *sys.argv[1:]]),
        parity_check=__version__,
        config=dump_config(config),
        model=subject.model,
        checkpoints=tuple(provenance.model_fingerprint(path, None) for path in checkpoints),
        host=provenance.host_fingerprint(),
        engines=tuple(_engine_report(role, each) for role, each in updated.items()),
        requests={phase: phases.count(phase) for phase in dict.fromkeys(phases)},
        results=tuple(results),
        checks=tuple(checks),
        verdict=overall(checks),
        artifacts=tuple(
            ["report.json", "config.toml"]
            + [name for role in updated for name in (rollouts_name(role), f"{role}.log")]
        ),
    )


def _engine_report(role: Role, updated: Updated) -> EngineReport:
    found = updated.description
    return EngineReport(
        role=role,
        label=updated.label,
        version=found["version"],
        family=found["family"],
        device=found["device"],
        packages=found["packages"],
        settings={
            name: Setting(updated.requested[name], each["in_force"], each["proof"])
            for name, each in found["settings"].items()
        },
        config=found["config"],
        environment=found["environment"],
    )
