"""One replica: a worker engine inside a Ray actor, on the node where Ray puts it.

The engine runs in a thread of its own, because the kernel ends it with the thread that started it.
The driver asks how far it is; so a call is short, and the actor can be asked at any time.
"""

from __future__ import annotations

import os
import queue
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from parity_check.engines.client import WorkerEngine, WorkerSpec
from parity_check.errors import EngineError, InputError, ParityCheckError


class Progress(NamedTuple):
    """The operation goes on."""

    done: int
    tokens: int


class Finished(NamedTuple):
    """The operation is over; `result` is what the engine's method returned."""

    result: Any


class Failure(NamedTuple):
    """The operation failed; a ParityCheckError in parts, because it travels between processes."""

    is_input: bool
    message: str
    kind: str
    hint: str | None
    details: tuple[str, ...]

    def error(self, where: str, log: Path) -> ParityCheckError:
        message = f"{self.message} ({where})"
        if self.is_input:
            return InputError(message, hint=self.hint, log=log)
        return EngineError(message, kind=self.kind, hint=self.hint, log=log, details=self.details)


State = Progress | Finished | Failure


def _began_with(name: str) -> bool:
    """Whether this process had an environment variable when it began, from its node."""
    variables = Path("/proc/self/environ").read_bytes().split(b"\0")
    return any(each.startswith(name.encode() + b"=") for each in variables)


class Replica:
    """The actor's class. It is made in the actor's process."""

    def __init__(self, spec: WorkerSpec, stall_timeout_s: float) -> None:
        if not _began_with("OMP_NUM_THREADS"):
            # Ray sets it to the CPUs that the actor reserves; another number of threads is another
            # engine than without a cluster: slower, and with other sums.
            os.environ.pop("OMP_NUM_THREADS", None)
        self._spec, self._stall_timeout_s = spec, stall_timeout_s
        self._home = Path(tempfile.mkdtemp(prefix=f"parity-check-{spec.role}-"))
        self._log = self._home / "engine.log"
        self._engine: WorkerEngine | None = None
        self._work: queue.Queue[tuple[str, Sequence[Any], Mapping[str, Any]]] = queue.Queue()
        self._states: queue.Queue[State] = queue.Queue()
        threading.Thread(target=self._serve, daemon=True).start()

    def node(self) -> str:
        """The node's name."""
        return socket.gethostname()

    def process(self) -> int:
        return os.getpid()

    def submit(self, operation: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
        """Begin an operation, a method of the engine; `poll` says what becomes of it."""
        self._work.put((operation, arguments, named))

    def poll(self, seconds: float) -> State:
        """The end of the operation as soon as it comes; else how far it is, after these seconds."""
        newest: State = Progress(0, 0)
        deadline = time.monotonic() + seconds
        while isinstance(newest, Progress):
            try:
                newest = self._states.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
        return newest

    def log(self) -> str:
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _serve(self) -> None:
        while True:
            operation, arguments, named = self._work.get()
            try:
                self._states.put(Finished(self._run(operation, arguments, named)))
            except ParityCheckError as error:
                self._states.put(
                    Failure(
                        is_input=isinstance(error, InputError),
                        message=error.message,
                        kind=getattr(error, "kind", "crashed"),
                        hint=error.hint,
                        details=error.details,
                    )
                )
            except Exception as error:  # an end all the same, which the driver waits for
                traceback.print_exc()
                what = f"failed on its node: {type(error).__name__}: {error}"
                self._states.put(Failure(False, what, "internal", None, ()))

    def _run(self, operation: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        if self._engine is None:
            self._engine = WorkerEngine(
                self._spec, self._home / "jobs", self._log, self._stall_timeout_s, self._progress
            )
        return getattr(self._engine, operation)(*arguments, **named)

    def _progress(self, operation: str, done: int, total: int | None, tokens: int = 0) -> None:
        self._states.put(Progress(done, tokens))
