"""The parent side of the worker protocol: spawn, call, map failures, kill the process group."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from parity_check.config.engines import Settings
from parity_check.config.models import ROLES
from parity_check.engines.base import Capabilities, Progress
from parity_check.engines.pauses import Pauses
from parity_check.errors import EngineError, InputError, OutputError, ParityCheckError
from parity_check.files import DISK_FULL_HINT, cannot_write
from parity_check.traces.engine import EngineDescription, described, first_fault

POLL_S = 0.2
SHUTDOWN_GRACE_S = 5.0
LOG_TAIL_LINES = 20

INPUT_KINDS = ("prompt_too_long", "token_out_of_vocabulary", "bad_prompt", "bad_update")
WORKER = Path(__file__).parent / "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """An engine that runs in a worker: its interpreter, variables and arguments."""

    role: str
    label: str
    can: Capabilities
    backend: str
    """The worker's module for it: `worker/<backend>_engine.py`."""
    python: Path
    environ: Mapping[str, str]
    engine_args: Mapping[str, Any]
    family: str | None
    """Checked after the start, if requested."""
    settings: Settings
    platform: str
    repeats_with: Mapping[str, int] = field(default_factory=dict)
    pauses: Pauses | None = None
    hints: Mapping[str, str] = field(default_factory=dict)
    """Hints by kind of failure; {table} is the engine's table in the configuration."""

    @property
    def devices(self) -> frozenset[str] | None:
        """The accelerators visible to it; None for all."""
        if self.platform != "cuda":
            return frozenset()
        listed = self.environ.get("CUDA_VISIBLE_DEVICES")
        return None if listed is None else frozenset(map(str.strip, listed.split(",")))

    def memory_share(self) -> float:
        """vLLM's default is 0.9."""
        return float(self.engine_args.get("gpu_memory_utilization", 0.9))

    def start(
        self, work: Path, log: Path, stall_timeout_s: float, progress: Progress
    ) -> WorkerEngine:
        """Start the worker; `load` loads the engine. Raises EngineError."""
        return WorkerEngine(self, work, log, stall_timeout_s, progress)

    def hint(self, failure: str) -> str | None:
        """The hint for this kind of failure."""
        table = self.role if self.role in ROLES else f"engines.{self.role}"
        found = self.hints.get(failure)
        return None if found is None else found.format(table=table)


class WorkerEngine:
    """One engine in a worker process, with its own interpreter and process group.

    Not thread-safe: one operation at a time. `kill` may be called from any thread.
    """

    def __init__(
        self, spec: WorkerSpec, job_dir: Path, log: Path, stall_timeout_s: float, progress: Progress
    ) -> None:
        self.spec = spec
        self._job_dir, self._log = job_dir, log
        self._stall_timeout_s, self._progress = stall_timeout_s, progress
        self._ids = itertools.count(1)
        self._buffer = b""
        self._process, self._replies = self._spawn()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- operations -------------------------------------------------------------------------

    def load(self) -> EngineDescription:
        """Start the engine and return its description. Raises EngineError."""
        requested = self.spec.settings.model_dump()
        reply = self._call(
            "load",
            backend=self.spec.backend,
            engine_args=dict(self.spec.engine_args),
            family=self.spec.family,
            settings=requested,
        )
        try:
            self.description = described(
                reply,
                label=self.spec.label,
                requested=requested,
                evaluates_by=self.spec.can.evaluates_by,
            )
        except ValidationError as error:
            raise self._error(
                f"sent an invalid reply to load: {first_fault(error)}", kind="protocol"
            ) from None
        return self.description

    def tokenize(self, prompts: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Token ids of prompts {prompt_id, text | messages}, in order."""
        rows = self._bulk("tokenize", prompts)
        ids = {row["prompt_id"]: row["token_ids"] for row in rows}
        return [ids[prompt["prompt_id"]] for prompt in prompts]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The text of each single token id, for display."""
        texts: list[str] = self._call("decode", ids=list(ids))["texts"]
        return texts

    def sample(
        self, op: str, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> list[dict[str, Any]]:
        """Run `generate`, `replay` or `rescore` as one batch; rows in the order of the requests."""
        rows = {row["sample_id"]: row for row in self._bulk(op, requests, **parameters)}
        return [rows[request["sample_id"]] for request in requests]

    def weights(self) -> dict[str, Any]:
        """The weights in force: digests of all parameters, and logits of fixed hidden states."""
        return self._call("weights")

    def weight_sync(
        self, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Run requests through weight updates; return the last row of each, and the result."""
        out, result = self._exchange("weight_sync", requests, **parameters)
        with out.open(encoding="utf-8") as lines:
            rows = {row["sample_id"]: row for row in map(json.loads, lines)}
        return [rows[request["sample_id"]] for request in requests], result

    def forget(self) -> None:
        """Delete the results of finished operations, which are in the trace by now."""
        for file in self._job_dir.glob("*.jsonl"):
            file.unlink()

    def close(self) -> None:
        """Shut the worker down, then kill its process group."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                self._send("shutdown")
                self._process.wait(SHUTDOWN_GRACE_S)
        self.kill()

    def kill(self) -> None:
        """Kill the process group. Safe to call again."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    # --- process ------------------------------------------------------------------------------

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        try:
            self._job_dir.mkdir(parents=True, exist_ok=True)
            log = self._log.open("ab")
        except OSError as error:
            raise cannot_write(self._log, error) from None
        replies, worker_end = os.pipe()
        try:
            with log:
                process = subprocess.Popen(
                    [str(self.spec.python), str(WORKER), str(self._job_dir), str(worker_end)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[worker_end],
                    cwd=self._job_dir,
                    env=self._environ(),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(replies)
            raise EngineError(
                f"cannot run {self.spec.python}: {error.strerror}", kind="crashed", log=self._log
            ) from None
        finally:
            os.close(worker_end)
        return process, replies

    def _environ(self) -> dict[str, str]:
        """The caller's environment, without variables that would affect the engine's Python."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
        }
        return {
            **inherited,
            "PYTHONPATH": str(WORKER / "extension"),
            "PYTHONNOUSERSITE": "1",
            "PYTHONUNBUFFERED": "1",
            **self.spec.environ,
        }

    # --- protocol -----------------------------------------------------------------------------

    def _bulk(
        self, op: str, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> Iterator[dict[str, Any]]:
        out, _ = self._exchange(op, requests, **parameters)
        with out.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def _exchange(
        self, op: str, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> tuple[Path, dict[str, Any]]:
        """Write the requests and run the operation; return its output file and its result."""
        name = f"{op}-{next(self._ids)}"
        source, out = self._job_dir / f"{name}.in.jsonl", self._job_dir / f"{name}.jsonl"
        try:
            with source.open("w", encoding="utf-8") as lines:
                lines.writelines(json.dumps(request) + "\n" for request in requests)
        except OSError as error:
            raise cannot_write(source, error) from None
        return out, self._call(op, requests=source.name, out=out.name, **parameters)

    def _send(self, op: str, **payload: Any) -> int:
        command_id = next(self._ids)
        assert self._process.stdin is not None
        line = json.dumps({"id": command_id, "op": op, **payload}) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        return command_id

    def _call(self, op: str, **payload: Any) -> dict[str, Any]:
        try:
            command_id = self._send(op, **payload)
        except OSError:
            raise self._crashed(op) from None
        for reply in self._read(op):
            if reply["id"] != command_id:
                continue
            if "progress" in reply:
                progress = reply["progress"]
                self._progress(op, progress["done"], progress["total"])
            elif reply["ok"]:
                result: dict[str, Any] = reply["result"]
                return result
            else:
                raise self._failure(op, reply)
        raise self._crashed(op)

    def _read(self, op: str) -> Iterator[dict[str, Any]]:
        """Yield replies until the worker closes the pipe. Raises EngineError if it hangs."""
        alive, log_size = time.monotonic(), -1
        while True:
            ready, _, _ = select.select([self._replies], [], [], POLL_S)
            if ready:
                received = os.read(self._replies, 1 << 16)
                if not received:
                    return
                *lines, self._buffer = (self._buffer + received).split(b"\n")
                alive = time.monotonic()
                yield from map(json.loads, lines)
            elif self._process.poll() is not None:
                return
            # While a model loads for minutes, only the log shows progress.
            elif (size := self._log.stat().st_size) != log_size:
                alive, log_size = time.monotonic(), size
            elif time.monotonic() - alive > self._stall_timeout_s:
                self.kill()
                raise self._error(
                    f"made no progress for {self._stall_timeout_s:g} s during {op}",
                    kind="hung",
                    hint="raise run.stall_timeout_s if it needs more time",
                )

    # --- failures -----------------------------------------------------------------------------

    def _failure(self, op: str, reply: Mapping[str, Any]) -> ParityCheckError:
        kind, message = reply["kind"], reply["message"]
        if kind in INPUT_KINDS:
            return InputError(message, log=self._log)
        if kind == "disk_full":
            return OutputError(f"the {self.spec.role} engine {message}", hint=DISK_FULL_HINT)
        verb = "could not start" if op == "load" else f"failed to {op}"
        return self._error(f"{verb}: {message}", kind=kind, hint=self.spec.hint(kind))

    def _crashed(self, op: str) -> EngineError:
        self.kill()
        code = self._process.returncode
        cause = f"exited with code {code}"
        hint = None
        if code < 0:
            cause = f"was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                hint = "killed from outside or by the OOM killer (see dmesg)"
        return self._error(f"{cause} during {op}", kind="crashed", hint=hint, with_tail=True)

    def _error(
        self, what: str, *, kind: str, hint: str | None = None, with_tail: bool = False
    ) -> EngineError:
        return EngineError(
            f"the {self.spec.role} engine ({self.spec.label}) {what}",
            kind=kind,
            hint=hint,
            log=self._log,
            details=self._log_tail() if with_tail else (),
        )

    def _log_tail(self) -> tuple[str, ...]:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return tuple(text.splitlines()[-LOG_TAIL_LINES:])
