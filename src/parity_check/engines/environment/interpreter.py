"""Probe an interpreter by running `worker/probe.py` with it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parity_check.engines import processes
from parity_check.errors import EngineEnvironmentError

_PROBE = Path(__file__).parents[1] / "worker" / "probe.py"
# The first import of vllm compiles thousands of files, possibly on a busy machine.
_TIMEOUT_S = 120
_CHECK_TIMEOUT_S = 300
# Variables of the parent's interpreter that would affect another one, or that would recompile
# thousands of files at every start.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True, slots=True)
class Probe:
    """The content of an interpreter. `kind` and `message` are empty if nothing is wrong.

    `build` has the facts to compile against its torch; empty without `check`.
    """

    kind: str = ""
    message: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    distribution: str = ""
    platform: str = ""
    prefix: str = ""
    machine: str = ""
    stamp: str = ""
    build: Mapping[str, Any] = field(default_factory=dict)


def from_json(answer: Mapping[str, Any]) -> Probe:
    """A probe from its JSON; ignores unknown keys."""
    return Probe(**{key: answer[key] for key in Probe.__slots__ if key in answer})


def run_probe(python: Path, environ: Mapping[str, str], *, check: bool) -> Probe:
    """Probe an interpreter; with `check`, import vllm and call one C operation (2 to 10 s).

    Raises EngineEnvironmentError if the interpreter itself does not work.
    """
    limit = _CHECK_TIMEOUT_S if check else _TIMEOUT_S
    command = [str(python), str(_PROBE), *(["--check"] if check else [])]
    own = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    try:
        done = processes.run(command, environ={**own, **environ}, limit_s=limit)
    except TimeoutError as error:
        message = f"{python} did not respond within {limit} s"
        raise EngineEnvironmentError(message, hint=f"try it yourself: {python} -V") from error
    except OSError as error:
        message = f"{python} does not start: {error.strerror}"
        raise EngineEnvironmentError(message, hint="is it a Python interpreter?") from error
    try:
        return from_json(json.loads(done.stdout.rstrip().rsplit("\n", 1)[-1]))
    except (ValueError, TypeError) as error:
        raise EngineEnvironmentError(
            f"{python} does not work: {_how_it_ended(done)}",
            hint=f"try it yourself: {python} {_PROBE} --check",
        ) from error


def _how_it_ended(done: processes.Ended) -> str:
    if done.returncode < 0:
        return f"killed by {signal.Signals(-done.returncode).name}"
    last = done.stderr.strip().rsplit("\n", 1)[-1]
    return last or f"exit status {done.returncode} without output"
