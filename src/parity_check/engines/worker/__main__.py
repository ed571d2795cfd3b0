"""The engine worker: one inference engine behind a line protocol, version 1.

    {python} {this directory} JOB_DIR REPLY_FD

The parent writes one JSON object per line to stdin:

    {"id": 3, "op": "generate", ...}

and reads JSON lines from REPLY_FD: any number of

    {"id": 3, "progress": {"done": 12, "total": 192, "unit": "samples", "tokens": 768}}

then exactly one of

    {"id": 3, "ok": true, "result": {...}}
    {"id": 3, "ok": false, "kind": "bad_engine_args", "message": "one line", "traceback": "..."}

stdout and stderr are the engine's own and go to its log. Bulk data are JSON lines in files of
JOB_DIR: `requests` names the input. The output is written to `out` + ".part", one line per sample
in the order of completion, and renamed to `out` when complete. Floats are written as repr(float64),
which represents a float32 exactly. When stdin closes, the parent is gone, and the whole process
group exits.

op          payload                                    result
load        backend, engine_args, family, settings     as describe
describe                                               the engine's fingerprint
tokenize    requests {prompt_id, text | messages,      out {prompt_id, token_ids}
            template}
decode      ids: [...]                                 texts: [...], one string a token id
generate    requests {sample_id, prompt_token_ids}     out {sample_id, token_ids, logprobs, ...}
replay      requests + completion_token_ids            out, the given tokens forced in decode
rescore     requests + completion_token_ids            out, scored by prefill; a trainer takes
                                                       samples_per_batch, and gives the entropy
probe       as replay, modules, noise                  as replay, a trainer as rescore; what every
                                                       module put out, as arrays in modules;
                                                       {dtypes: {module: dtype}}
weights                                                {parameters: {name: digest}, head}
weight_sync requests {sample_id, prompt_token_ids,     out {sample_id, token_ids, logprobs,
            in_flight, completion_token_ids?},           switches, finish_reason, ...};
            checkpoints, update_after_tokens, mode,      {updates, preemptions,
            clear_cache, update, python_path, ...        weights_before, weights_after}
rollout     requests {sample_id, due,                  out {sample_id, token_ids, logprobs,
            prompt_token_ids if new}, checkpoint,       switches, text, ...} of what is due;
            tokens, mode, clear_cache, update, ...      {paused_s, load_s}
begin       learning_rate, betas, weight_decay         {}
learn       requests {sample_id, prompt_token_ids,     out {sample_id, logprobs, entropy};
            completion_token_ids, logprobs,             {loss, grad_norm}
            advantage}, loss, epsilon_low, ...
save        directory                                  {}
reward      requests {sample_id, prompt, completion,   out {sample_id, reward}
            answer}, function, python_path, timeout_s
shutdown                                               {}

`weight_sync` generates the requests in flight (with forced tokens, if a request has them). Whenever
all have `update_after_tokens` more tokens, it pauses the engine, loads the next checkpoint and
resumes. Then it runs the other requests. `switches` are the tokens before which the weights
changed. At each pause `out` also gets a row for every open request, with the tokens so far and
finish_reason null; a later row of the same sample replaces it.

`rollout` loads the checkpoint, if there is one, starts the new requests, and runs until those that
are due have ended and every other one has `tokens` more tokens. The others stay in flight; their
rows have no tokens and finish_reason null. `begin`, `learn`, `save`, `reward`: see
learner_engine.py.

Known failures have a `kind`: vllm_not_installed, transformers_not_installed, bad_engine_args,
wrong_family, setting_not_applied, unsupported, out_of_memory, prompt_too_long,
token_out_of_vocabulary, replay_mismatch, load_failed, disk_full, bad_update, update_failed,
no_device, missing_package, kv_cache_too_small, ranks_differ, not_finite, bad_reward; everything
else is `internal`, with a traceback.

This directory runs in the engine's own interpreter (Python 3.9 and later). It uses the standard
library and the packages of that environment, and imports nothing of parity-check.
"""

import contextlib
import errno
import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from failures import WorkerFailure

PROGRESS_INTERVAL_S = 0.2
BULK = (
    "tokenize",
    "generate",
    "replay",
    "rescore",
    "probe",
    "weight_sync",
    "rollout",
    "learn",
    "reward",
)
"""Operations that read requests and write a row of each."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Channel:
    """The reply descriptor, and the bulk files of one job."""

    def __init__(self, job_dir, fd):
        self.job_dir = Path(job_dir)
        self._stream = os.fdopen(fd, "w", buffering=1, encoding="utf-8")
        self._last_progress = 0.0

    def send(self, **message):
        self._stream.write(json.dumps(message) + "\n")

    def progress(self, command_id, **progress):
        now, over = time.monotonic(), progress["done"] == progress["total"]
        if over or now - self._last_progress >= PROGRESS_INTERVAL_S:
            self._last_progress = now
            self.send(id=command_id, progress=progress)

    def requests(self, name):
        with (self.job_dir / name).open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]


class Output:
    """A bulk output: one line per sample, flushed immediately, renamed when complete."""

    def __init__(self, channel, command, total, unit="samples"):
        self._channel, self._id, self._total, self._unit = channel, command["id"], total, unit
        self._path = channel.job_dir / command["out"]
        self._part = self._path.with_name(self._path.name + ".part")
        self._done = self._tokens = 0

    def __enter__(self):
        self._file = self._part.open("w", encoding="utf-8")
        return self

    def write(self, **row):
        self.note(**row)
        self._done += 1
        self._tokens += len(row.get("logprobs", ()))
        self.tick()

    def note(self, **row):
        """Write a line that is not a finished sample."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def beside(self, name):
        """The path of another file of the same job."""
        return self._path.with_name(name)

    def tick(self):
        self._channel.progress(
            self._id, done=self._done, total=self._total, unit=self._unit, tokens=self._tokens
        )

    def __exit__(self, kind, *_):
        self._file.close()
        if kind is None:
            self._part.replace(self._path)


def make_engine(command):
    """For the backend `vllm`, the class VllmEngine in vllm_engine.py; likewise for others."""
    backend = command["backend"]
    module = importlib.import_module(f"{backend}_engine")
    return getattr(module, f"{backend.title()}Engine")(command)


def run(engine, channel, command):
    """Run one command; return the engine (created by `load`) and the result."""
    op = command["op"]
    if op == "load":
        engine = make_engine(command)
        return engine, engine.describe()
    if engine is None:
        raise WorkerFailure("internal", f"`{op}` came before `load`")
    if op == "describe":
        return engine, engine.describe()
    if op == "decode":
        return engine, {"texts": engine.decode(command["ids"])}
    if op == "weights":
        return engine, engine.weights()
    if op in ("begin", "save"):
        getattr(engine, op)(command)
        return engine, {}
    if op not in BULK:
        raise WorkerFailure("internal", f"unknown operation `{op}`")
    requests = channel.requests(command["requests"])
    unit = "prompts" if op == "tokenize" else "samples"
    with Output(channel, command, len(requests), unit) as output:
        result = getattr(engine, op)(requests, command, output)
    return engine, result or {}


def describe_error(error):
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return {"kind": "disk_full", "message": f"cannot write: {os.strerror(error.errno)}"}
    kind = "out_of_memory" if isinstance(error, MemoryError) else "internal"
    return {"kind": kind, "message": f"{type(error).__name__}: {error}".splitlines()[0]}


def read_commands(commands):
    """Fill the queue from stdin; kill the process group when the parent is gone.

    Through a file of its own: a process that vLLM forks closes `sys.stdin`, and would wait for ever
    for the lock that a thread holds while it reads it.
    """
    with os.fdopen(os.dup(0), encoding="utf-8") as lines:
        for line in lines:
            commands.put(json.loads(line))
    os.killpg(0, signal.SIGKILL)


def main():
    channel = Channel(sys.argv[1], int(sys.argv[2]))
    commands = queue.Queue()
    threading.Thread(target=read_commands, args=(commands,), daemon=True).start()
    engine = None
    while True:
        command = commands.get()
        if command["op"] == "shutdown":
            channel.send(id=command["id"], ok=True, result={})
            # Skip the engine's own teardown, which can hang for seconds.
            os._exit(0)
        try:
            engine, result = run(engine, channel, command)
        except WorkerFailure as failure:
            traceback.print_exc()
            channel.send(id=command["id"], ok=False, kind=failure.kind, message=failure.message)
        except BaseException as error:
            # The log may be on the same full disk.
            with contextlib.suppress(OSError):
                traceback.print_exc()
            channel.send(
                id=command["id"],
                ok=False,
                traceback=traceback.format_exc(),
                **describe_error(error),
            )
        else:
            channel.send(id=command["id"], ok=True, result=result)


if __name__ == "__main__":
    main()
