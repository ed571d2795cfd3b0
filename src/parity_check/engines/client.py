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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Self

from pydantic import ValidationError

from parity_check import interrupts
from parity_check.config.engines import Settings
from parity_check.config.models import place
from parity_check.engines import causes, gpus, processes, replies
from parity_check.engines.base import Capabilities, Progress
from parity_check.engines.gpus import Gpu
from parity_check.engines.log import EngineLog
from parity_check.engines.pauses import Pauses
from parity_check.engines.probe import Probe, read_probe
from parity_check.engines.replies import (
    Failed,
    Flying,
    Learned,
    Optimized,
    Paused,
    Probed,
    Reply,
    Rewarded,
    Row,
    Sampled,
    Scored,
    Texts,
    Tokenized,
    UnusableError,
    Updated,
    WeightsInForce,
    Working,
)
from parity_check.errors import EngineError, InputError, OutputError, ParityCheckError
from parity_check.files import DISK_FULL_HINT, cannot_write
from parity_check.traces.adapter import Adapter
from parity_check.traces.engine import EngineDescription, described, first_fault

SHUTDOWN_GRACE_S = 5.0

INPUT_KINDS = (
    "prompt_too_long",
    "token_out_of_vocabulary",
    "bad_prompt",
    "bad_update",
    "bad_reward",
)
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
    adapter: Adapter | None = None
    repeats_with: Mapping[str, int] = field(default_factory=dict)
    pauses: Pauses | None = None
    hints: Mapping[str, str] = field(default_factory=dict)
    """Hints by kind of failure; {table} is the engine's table in the configuration."""
    table: str | None = None
    """That table, where it is not the role's."""

    def loaded(self) -> dict[str, Any]:
        """The arguments of the worker's operation `load`."""
        return {
            "backend": self.backend,
            "engine_args": dict(self.engine_args),
            "family": self.family,
            "settings": self.settings.model_dump(),
            "adapter": None if self.adapter is None else self.adapter.loaded(),
        }

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

    def claims(self) -> tuple[Gpu, ...] | None:
        """The GPUs of whose memory vLLM takes a share at its start; a trainer takes what it needs.

        As they are now; None if they are not known.
        """
        if self.platform != "cuda" or self.backend != "vllm":
            return ()
        found = gpus.listed()
        seen = None if found is None else gpus.visible(found, {**os.environ, **self.environ})
        used = self.engine_args.get("tensor_parallel_size") or 1
        return None if seen is None else seen[:used]

    def start(
        self, work: Path, log: Path, stall_timeout_s: float, progress: Progress
    ) -> WorkerEngine:
        """Start the worker; `load` loads the engine. Raises EngineError."""
        return WorkerEngine(self, work, log, stall_timeout_s, progress)

    def hint(self, failure: str) -> str | None:
        """The hint for this kind of failure."""
        found = self.hints.get(failure)
        prefix = self.python.parent.parent
        return (
            None
            if found is None
            else found.format(table=self.table or place(self.role), prefix=prefix)
        )


class WorkerEngine:
    """One engine in a worker process, with its own interpreter and process group.

    Not thread-safe: one operation at a time. `kill` may be called from any thread.
    """

    def __init__(
        self, spec: WorkerSpec, job_dir: Path, log: Path, stall_timeout_s: float, progress: Progress
    ) -> None:
        self.spec = spec
        self._job_dir = job_dir
        self._stall_timeout_s, self._progress = stall_timeout_s, progress
        self._ids = itertools.count(1)
        self._buffer = b""
        self._process, self._replies, self._log = self._spawn(log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- operations -------------------------------------------------------------------------

    def load(self) -> EngineDescription:
        """Start the engine and return its description. Raises EngineError."""
        requested = self.spec.settings.model_dump()
        reply = self._call("load", **self.spec.loaded())
        try:
            found = described(
                reply,
                label=self.spec.label,
                requested=requested,
                evaluates_by=self.spec.can.evaluates_by,
            )
        except ValidationError as error:
            self._unusable("load", first_fault(error))
        warnings = self._log.warnings()
        self.description = replace(found, model={**found.model, "warnings": warnings})
        return self.description

    def tokenize(self, prompts: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Token ids of prompts {prompt_id, text | messages}, in order."""
        rows, _ = self._bulk("tokenize", Tokenized, prompts, name="prompt_id")
        return [row.token_ids for row in rows]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The text of each single token id, for display."""
        found = self._typed("decode", Texts, self._call("decode", ids=list(ids)))
        if len(found.texts) != len(ids):
            self._unusable("decode", f"{len(found.texts)} texts for {len(ids)} token ids")
        return found.texts

    def generate(
        self, requests: Sequence[Mapping[str, Any]], *, max_tokens: int, **parameters: Any
    ) -> list[Sampled]:
        """Sample as one batch; rows in the order of the requests."""
        rows, _ = self._bulk("generate", Sampled, requests, max_tokens=max_tokens, **parameters)
        for row in rows:
            tokens = len(row.token_ids)
            if not 0 < tokens <= max_tokens:
                self._unusable(
                    "generate",
                    f"sample {row.sample_id!r}: {tokens} tokens instead of the requested "
                    f"{max_tokens}",
                )
            self._check_shape("generate", row, tokens, parameters["top_logprobs"])
        return rows

    def score(
        self, op: str, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> list[Scored]:
        """Run `generate`, `replay` or `rescore` as one batch; rows in the order of the requests."""
        rows, _ = self._bulk(op, Scored, requests, **parameters)
        for request, row in zip(requests, rows, strict=True):
            tokens = len(request["completion_token_ids"])
            self._check_shape(op, row, tokens, parameters["top_logprobs"])
        return rows

    def probe(self, requests: Sequence[Mapping[str, Any]], **parameters: Any) -> Probe:
        """Replay requests one at a time and record what every module puts out."""
        modules = self._job_dir / f"modules-{next(self._ids)}.npz"
        rows, result = self._bulk(
            "probe", Scored, requests, modules=modules.name, top_logprobs=0, **parameters
        )
        for request, row in zip(requests, rows, strict=True):
            self._check_shape("probe", row, len(request["completion_token_ids"]), 0)
        dtypes = self._typed("probe", Probed, result).dtypes
        try:
            return read_probe(modules, dtypes, [row.logprobs for row in rows])
        except UnusableError as error:
            self._unusable("probe", str(error))
        finally:
            modules.unlink(missing_ok=True)

    def weights(self) -> WeightsInForce:
        """The weights in force: digests of all parameters, and logits of fixed hidden states."""
        return self._typed("weights", WeightsInForce, self._call("weights"))

    def weight_sync(
        self, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> tuple[list[Flying], Updated]:
        """Run requests through weight updates; return the last row of each, and the result."""
        rows, result = self._bulk("weight_sync", Flying, requests, **parameters)
        for row in rows:
            if row.finish_reason is None:
                self._unusable("weight_sync", f"sample {row.sample_id!r} has not ended")
            if len(row.logprobs) != len(row.token_ids):
                self._unusable(
                    "weight_sync",
                    f"sample {row.sample_id!r}: {len(row.logprobs)} logprobs for "
                    f"{len(row.token_ids)} tokens",
                )
        return rows, self._typed("weight_sync", Updated, result)

    def rollout(
        self, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> tuple[list[Flying], Paused]:
        """One phase of rollouts; the rows of what was due, in the order of the requests."""
        rows, result = self._bulk("rollout", Flying, requests, **parameters)
        due = [row for request, row in zip(requests, rows, strict=True) if request["due"]]
        for row in due:
            if row.finish_reason is None or len(row.logprobs) != len(row.token_ids):
                self._unusable("rollout", f"sample {row.sample_id!r} is not whole")
        return due, self._typed("rollout", Paused, result)

    def begin(self, **parameters: Any) -> None:
        """Start training from the checkpoint's weights, with a new optimiser."""
        self._call("begin", **parameters)

    def learn(
        self, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> tuple[list[Learned], Optimized]:
        """One step of training; the trainer's logprobs, in the order of the requests."""
        rows, result = self._bulk("learn", Learned, requests, **parameters)
        for request, row in zip(requests, rows, strict=True):
            tokens = len(request["completion_token_ids"])
            if not len(row.logprobs) == len(row.entropy) == tokens:
                self._unusable("learn", f"sample {row.sample_id!r} is not whole")
        return rows, self._typed("learn", Optimized, result)

    def save(self, directory: Path) -> None:
        """Write the trainer's weights as a checkpoint."""
        self._call("save", directory=str(directory))

    def reward(self, requests: Sequence[Mapping[str, Any]], **parameters: Any) -> list[float]:
        """The rewards by the user's function, in the order of the requests."""
        rows, _ = self._bulk("reward", Rewarded, requests, **parameters)
        return [row.reward for row in rows]

    def forget(self) -> None:
        """Delete the results of finished operations, which are in the trace by now."""
        for file in self._job_dir.glob("*.jsonl"):
            file.unlink()

    def close(self) -> None:
        """Shut the worker down, then kill its process group."""
        deadline = time.monotonic() + SHUTDOWN_GRACE_S
        with contextlib.suppress(OSError):
            self._send("shutdown", SHUTDOWN_GRACE_S)
            while self._process.poll() is None and time.monotonic() < deadline:
                if interrupts.came():
                    break
                time.sleep(0.01)
        self.kill()
        if self._replies is not None:
            os.close(self._replies)
            self._replies = None

    def kill(self) -> None:
        """Kill the process group. Safe to call again."""
        processes.end(self._process)

    # --- process ------------------------------------------------------------------------------

    def _spawn(self, path: Path) -> tuple[subprocess.Popen[bytes], int | None, EngineLog]:
        try:
            self._job_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self._job_dir, error) from None
        log, file = EngineLog.begin(path)
        answers, worker_end = os.pipe()
        try:
            with file:
                process = processes.start(
                    [str(self.spec.python), str(WORKER), str(self._job_dir), str(worker_end)],
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=file,
                    descriptors=[worker_end],
                    cwd=self._job_dir,
                    environ=self._environ(),
                )
        except OSError as error:
            os.close(answers)
            raise EngineError(
                f"cannot run {self.spec.python}: {error.strerror}", kind="crashed", log=path
            ) from None
        finally:
            os.close(worker_end)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        return process, answers, log

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
        self,
        op: str,
        kind: type[Row],
        requests: Sequence[Mapping[str, Any]],
        name: str = "sample_id",
        **parameters: Any,
    ) -> tuple[list[Row], dict[str, Any]]:
        """Write the requests and run the operation; return its output file and its result."""
        file = f"{op}-{next(self._ids)}"
        source, out = self._job_dir / f"{file}.in.jsonl", self._job_dir / f"{file}.jsonl"
        try:
            with source.open("w", encoding="utf-8") as lines:
                lines.writelines(json.dumps(request) + "\n" for request in requests)
        except OSError as error:
            raise cannot_write(source, error) from None
        result = self._call(op, requests=source.name, out=out.name, **parameters)
        try:
            return replies.read_rows(out, kind, requests, name), result
        except UnusableError as error:
            fields = ", ".join(kind.model_fields)
            self._unusable(op, f"{error}; expected, for each request, {fields}")

    def _send(self, op: str, limit_s: float, **payload: Any) -> int:
        """Raises OSError: TimeoutError if it is not read, InterruptedError after a signal."""
        command_id = next(self._ids)
        assert self._process.stdin is not None
        pipe = self._process.stdin.fileno()
        rest = (json.dumps({"id": command_id, "op": op, **payload}) + "\n").encode()
        deadline = time.monotonic() + limit_s
        while rest:
            _, ready, _ = select.select([], [pipe], [], interrupts.POLL_S)
            if ready:
                rest = rest[os.write(pipe, rest) :]
                continue
            if interrupts.came():
                raise InterruptedError
            if time.monotonic() > deadline:
                raise TimeoutError
        return command_id

    def _call(self, op: str, **payload: Any) -> dict[str, Any]:
        try:
            command_id = self._send(op, self._stall_timeout_s, **payload)
        except TimeoutError:
            raise self._hung(op) from None
        except OSError:
            interrupts.check()
            raise self._crashed(op) from None
        for reply in self._read(op):
            if reply.id != command_id:
                self._unusable(op, f"it is for command {reply.id}, but {command_id} is running")
            if isinstance(reply, Working):
                now = reply.progress
                self._progress(op, now.done, now.total, now.tokens)
            elif isinstance(reply, Failed):
                raise self._failure(op, reply)
            else:
                return reply.result
        raise self._crashed(op)

    def _read(self, op: str) -> Iterator[Reply]:
        """Yield replies until the worker closes the pipe. Raises EngineError if it hangs."""
        assert self._replies is not None
        alive, log_size = time.monotonic(), -1
        while True:
            interrupts.check()
            ready, _, _ = select.select([self._replies], [], [], interrupts.POLL_S)
            if ready:
                received = os.read(self._replies, 1 << 16)
                if not received:
                    return
                *lines, self._buffer = (self._buffer + received).split(b"\n")
                alive = time.monotonic()
                if len(self._buffer) > replies.LONGEST_REPLY:
                    self._unusable(op, f"a line of more than {replies.LONGEST_REPLY:,} bytes")
                for line in lines:
                    yield self._reply(op, line)
            elif self._process.poll() is not None:
                return
            # While a model loads for minutes, only the log shows progress.
            elif (size := self._log.size()) != log_size:
                alive, log_size = time.monotonic(), size
            elif time.monotonic() - alive > self._stall_timeout_s:
                raise self._hung(op)

    def _reply(self, op: str, line: bytes) -> Reply:
        try:
            return replies.read_reply(line)
        except UnusableError as error:
            self._unusable(op, f"{error}; expected progress, a result or a failure")

    def _typed(self, op: str, kind: type[replies.Answer], result: dict[str, Any]) -> replies.Answer:
        try:
            return replies.typed(kind, result)
        except UnusableError as error:
            self._unusable(op, f"{error}; expected {', '.join(kind.model_fields)}")

    def _check_shape(self, op: str, row: Scored, tokens: int, top: int) -> None:
        try:
            replies.check_shape(row, tokens, top)
        except UnusableError as error:
            self._unusable(op, str(error))

    # --- failures -----------------------------------------------------------------------------

    def _unusable(self, op: str, why: str) -> NoReturn:
        """The worker violates the protocol, so later replies cannot be trusted either."""
        self.kill()
        raise self._error(
            f"returned an invalid reply to {op}: {why}",
            "protocol",
            "something in the engine's environment or its plugins interferes with the worker",
        )

    def _hung(self, op: str) -> EngineError:
        self.kill()
        return self._error(
            f"made no progress for {self._stall_timeout_s:g} s during {op}",
            "hung",
            "raise run.stall_timeout_s if it needs more time",
        )

    def _failure(self, op: str, reply: Failed) -> ParityCheckError:
        if reply.kind in INPUT_KINDS:
            return InputError(reply.message, log=self._log.path)
        if reply.kind == "disk_full":
            return OutputError(f"the {self.spec.role} engine {reply.message}", hint=DISK_FULL_HINT)
        verb = "could not start" if op == "load" else f"failed to {op}"
        cause = causes.explain(reply.kind, reply.message, self._log)
        hint = self.spec.hint(cause.kind)
        return self._error(f"{verb}: {cause.message}", cause.kind, hint, cause.details)

    def _crashed(self, op: str) -> EngineError:
        code = self._ended()
        self.kill()
        if code is None:
            return self._error(f"stopped responding during {op}, but is still running", "crashed")
        cause = f"exited with code {code}"
        hint = None
        if code < 0:
            cause = f"was killed by {_name(-code)}"
            if -code == signal.SIGKILL:
                hint = "killed from outside or by the OOM killer (see dmesg)"
        return self._error(f"{cause} during {op}", "crashed", hint, self._log.tail())

    def _ended(self) -> int | None:
        """The exit status; None while the process is running."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(interrupts.POLL_S)
        return None

    def _error(
        self, what: str, kind: str, hint: str | None = None, details: tuple[str, ...] = ()
    ) -> EngineError:
        return EngineError(
            f"the {self.spec.role} engine ({self.spec.label}) {what}",
            kind=kind,
            hint=hint,
            log=self._log.path,
            details=details,
        )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"
