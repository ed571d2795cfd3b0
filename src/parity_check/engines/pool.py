"""A pool of engines: side by side on separate devices, in turns on a shared one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Self, TypeVar

from parity_check.engines import room
from parity_check.engines.base import Engine, Progress, Spec
from parity_check.engines.side_by_side import raise_first, wait_all
from parity_check.errors import EngineError, ParityCheckError

N = TypeVar("N", bound=str)
T = TypeVar("T")
Job = Callable[[Engine], T]

FULL_DEVICE = 0.95
"""Engines whose memory shares sum to at most this stay loaded together."""

DAMAGED = ("crashed", "damaged", "internal", "load_failed", "vllm_not_installed")
"""Kinds of failures that a damaged environment can cause."""


class EnginePool:
    """Starts engines when they are first needed, and closes all at the end.

    On separate devices, engines start and run side by side. On a shared device they take turns, and
    stay loaded between turns if their memory shares fit. `mend` repairs the environment of an
    engine that did not start, and returns whether it was damaged.
    """

    def __init__(
        self,
        specs: Mapping[str, Spec],
        work_dir: Path,
        log_dir: Path,
        stall_timeout_s: float,
        progress: Callable[[str], Progress],
        mend: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.specs: dict[str, Spec] = dict(specs)
        self._work_dir = work_dir
        self._log_dirs = dict.fromkeys(specs, log_dir)
        self._stall_timeout_s, self._progress, self._mend = stall_timeout_s, progress, mend
        self._engines: dict[str, Engine] = {}
        self._lock, self._ended = threading.Lock(), False

    @property
    def side_by_side(self) -> bool:
        """Whether no two engines run on the same device."""
        pairs = combinations(self.specs.values(), 2)
        return not any(_share_a_device(one, other) for one, other in pairs)

    @property
    def resident(self) -> bool:
        """Whether all engines stay loaded."""
        shares = (spec.memory_share() for spec in self.specs.values())
        return self.side_by_side or sum(shares) <= FULL_DEVICE

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._kill()
        for engine in self._engines.values():
            engine.close()

    def run(self, jobs: Mapping[N, Job[T]]) -> dict[N, T]:
        """Run one job on each named engine. The first failure cancels the other jobs.

        In turns, an engine that fails its job is closed; its next job starts it again.
        """
        if len(jobs) == 1 or not self.side_by_side:
            return {role: self._run(role, job) for role, job in self._loaded_first(jobs)}
        with ThreadPoolExecutor(max_workers=len(self.specs)) as threads:
            try:
                futures = {
                    role: threads.submit(lambda r, j: j(self._engine(r)), role, job)
                    for role, job in jobs.items()
                }
                wait_all(futures.values())
                raise_first(futures.values())
            except BaseException:
                self._kill()
                raise
        return {role: future.result() for role, future in futures.items()}

    def exchange(self, spec: Spec, log_dir: Path) -> None:
        """Replace the engine of a role and close the old one. The next job starts the new one."""
        role = spec.role
        self.end(role)
        self.specs[role], self._log_dirs[role] = spec, log_dir

    def end(self, role: str) -> None:
        """Close an engine, if it is running. The next job starts it again."""
        if role in self._engines:
            self._engines.pop(role).close()

    def _run(self, role: str, job: Job[T]) -> T:
        try:
            return job(self._engine(role))
        except ParityCheckError:
            self.end(role)
            raise

    def _loaded_first(self, jobs: Mapping[N, Job[T]]) -> list[tuple[N, Job[T]]]:
        return sorted(jobs.items(), key=lambda item: item[0] not in self._engines)

    def _engine(self, role: str) -> Engine:
        if role not in self._engines:
            if not self.resident:
                for other in list(self._engines):
                    self.end(other)
            self._start(role)
        return self._engines[role]

    def _start(self, role: str) -> None:
        """Load an engine; retry once if its environment was damaged and could be repaired."""
        try:
            self._spawn(role).load()
        except EngineError as error:
            if error.kind not in DAMAGED or not self._mend(role):
                raise
            self.end(role)
            self._spawn(role).load()

    def _spawn(self, role: str) -> Engine:
        spec, log = self.specs[role], self._log_dirs[role] / f"{role}.log"
        work, progress = self._work_dir / role, self._progress(role)
        room.wait(role, spec.memory_share(), spec.claims, lambda what: progress(what, 0, None))
        with self._lock:
            if self._ended:
                raise RuntimeError("the pool has ended")  # in an abandoned thread
            progress("starting the engine", 0, None)
            self._engines[role] = spec.start(work, log, self._stall_timeout_s, progress)
            return self._engines[role]

    def _kill(self) -> None:
        """Kill all engines, including one that is starting."""
        with self._lock:
            self._ended = True
        for engine in self._engines.values():
            engine.kill()


def _share_a_device(one: Spec, other: Spec) -> bool:
    mine, theirs = one.devices, other.devices
    if mine is None:
        return theirs is None or bool(theirs)
    return bool(mine) if theirs is None else bool(mine & theirs)
