"""Rollouts of a training run: requests stay in flight from command to command.

Each command first loads the trainer's new weights, at a pause of the engine, then starts new
requests and runs until the requests that are due have ended. The others go on with the next
command: their later tokens are sampled with newer weights, over the KV of the older ones.
"""

import time

import weight_sync
from failures import WorkerFailure

IN_FLIGHT = {
    "token_ids": [],
    "logprobs": [],
    "switches": [],
    "finish_reason": None,
    "cached_tokens": 0,
}
"""The row of a request that is not handed over yet."""
NO_UPDATE = {"paused_s": 0.0, "load_s": 0.0}


class Rollouts(weight_sync.InFlight):
    """All requests of a run that have not been handed over yet."""

    def __init__(self, engine, command):
        super().__init__(engine, None)
        self._boundary = weight_sync.boundary(engine, command)
        self._ended = {}
        weight_sync.check_function(engine, command)

    def run(self, requests, command, output):
        self._output = output
        new = [request for request in requests if request.get("prompt_token_ids")]
        due = [request["sample_id"] for request in requests if request["due"]]
        self._engine.check_tokens(new, command["max_tokens"])
        timing = (
            self._update(command) if command["checkpoint"] else {"paused_s": 0.0, "load_s": 0.0}
        )
        self.add(
            new,
            max_tokens=command["max_tokens"],
            ignore_eos=command["ignore_eos"],
            sampling=command["sampling"],
        )
        while self and not (self.due(command["tokens"]) and all(s in self._ended for s in due)):
            self.step()
        for request in requests:
            if request["due"]:
                output.write(**self._ended.pop(request["sample_id"]))
            else:
                output.note(sample_id=request["sample_id"], **IN_FLIGHT)
        return timing

    def _update(self, command):
        started = time.perf_counter()
        self._boundary.pause(self)
        standing = time.perf_counter()
        try:
            weight_sync.load(self._engine, command["checkpoint"], command)
        except Exception as error:
            what = weight_sync.one_line(f"{type(error).__name__}: {error}")
            raise WorkerFailure("update_failed", f"the update raised {what}") from error
        loaded = time.perf_counter()
        self.switched()
        self._boundary.resume()
        return {
            "paused_s": round(time.perf_counter() - started, 4),
            "load_s": round(loaded - standing, 4),
        }

    def _write(self, request, result, finish_reason=None):
        reason = finish_reason or result.outputs[0].finish_reason
        row = self._row(request, result, reason)
        row["text"] = self._engine.tokenizer.decode(row["token_ids"], skip_special_tokens=True)
        self._ended[request["sample_id"]] = row
        del self.switches[request["sample_id"]], self._marks[request["sample_id"]]
