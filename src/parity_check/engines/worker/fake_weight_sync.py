"""The weight-update scenario on the fake engine: every mode, and faults for the checks to find.

The fake KV cache records which weights wrote it, and the logits depend on that, so that kept,
recomputed and stale KV are distinguishable as on a real engine. `engine_args.update_fault`:

    does_nothing     the update loads nothing
    skips            one parameter keeps its old value
    stale_head       lm_head is projected from an old copy
    refused_reset    a cache reset is refused
    loses_tokens     the first request ends a token early
"""

import time

from failures import WorkerFailure
from fake_engine import float32

FINISHED = "length"


class FakeScenario:
    def __init__(self, engine, command, output):
        self._engine, self._command, self._output = engine, command, output
        self._updates, self._fault = [], engine.arguments["update_fault"]

    def run(self, requests):
        command, engine = self._command, self._engine
        if command["update"] is not None:
            raise WorkerFailure("bad_update", "the fake engine has no custom update")
        if any("completion_token_ids" in request for request in requests):
            self._fault = None  # a replay: faults are only injected into the recorded run
        before = engine.weights()
        flight = [FakeRequest(engine, request) for request in requests if request["in_flight"]]
        held = list(flight)
        for number, checkpoint in enumerate(command["checkpoints"]):
            self._advance(held, command["update_after_tokens"])
            held = self._update(held, checkpoint, number)
        self._advance(held, command["max_tokens"])
        after = engine.weights()
        for request in requests:
            if not request["in_flight"]:
                self._advance([FakeRequest(engine, request)], command["max_tokens"])
        preempted = sum(update["preempted"] for update in self._updates)
        return {
            "updates": self._updates,
            "preemptions": preempted,
            "weights_before": before,
            "weights_after": after,
        }

    def _advance(self, flight, steps):
        """Generate `steps` more tokens for each request; write and remove finished ones."""
        wanted = self._command["max_tokens"]
        for _ in range(steps):
            for request in flight:
                if len(request.tokens) < request.wanted(wanted):
                    request.step(self._command["sampling"])
        for request in list(flight):
            if len(request.tokens) == request.wanted(wanted):
                flight.remove(request)
                if self._fault == "loses_tokens":
                    self._fault = None
                    request.drop_last()
                self._output.write(**request.row(FINISHED))

    def _update(self, held, checkpoint, number):
        command, engine = self._command, self._engine
        mode, clear = command["mode"], command["clear_cache"]
        if engine.family == "v0":
            mode, clear = "keep", False
        in_flight = len(held)
        if mode == "wait":
            self._advance(held, command["max_tokens"])
        if mode == "abort":
            for request in held:
                self._output.write(**request.row("abort"))
            held = []
        refused = self._fault == "refused_reset"
        if clear and not refused:
            engine.cache.clear()
            for request in held:
                request.recompute = True
        tokens = sum(len(request.tokens) for request in held)
        for request in held:
            self._output.note(**request.row(None))
        engine.fault("weight_sync", number)
        time.sleep(engine.arguments["delay_s"])
        engine.load_weights(checkpoint, self._fault)
        for request in held:
            request.switched()
        self._updates.append(
            {
                "checkpoint": checkpoint,
                "loader": "fake",
                "requests_in_flight": in_flight,
                "requests_held": len(held),
                "tokens_held": tokens,
                "cache_resets": [not refused] if clear else [],
                "preempted": len(held) if clear and not refused else 0,
                "standstill_s": 0.0,
                "load_s": 0.0,
                "paused_s": 0.0,
            }
        )
        return held


class FakeRequest:
    """One request: its tokens so far, and which weights wrote the KV of its context."""

    def __init__(self, engine, request):
        self._engine, self._request = engine, request
        self.tokens, self._logprobs, self.switches = [], [], []
        self.recompute = False
        prompt = request["prompt_token_ids"]
        written = engine.cache.get(tuple(prompt))
        self._cached = 0 if written is None else len(prompt)
        self._kv = [engine.body if written is None else written] * len(prompt)
        if engine.caching():
            engine.cache.setdefault(tuple(prompt), engine.body)

    def wanted(self, most):
        forced = self._request.get("completion_token_ids")
        return len(forced) if forced else most

    def step(self, sampling):
        if self.recompute:
            self._kv, self.recompute = [self._engine.body] * len(self._kv), False
        context = self._request["prompt_token_ids"] + self.tokens
        processed, returned = self._engine.step(context, sampling, self._kv)
        forced = self._request.get("completion_token_ids")
        token = forced[len(self.tokens)] if forced else self._engine.draw(processed)
        self.tokens.append(token)
        self._logprobs.append(float32(returned[token]))
        self._kv.append(self._engine.body)

    def switched(self):
        self.switches.append(len(self.tokens))

    def drop_last(self):
        self.tokens.pop()
        self._logprobs.pop()

    def row(self, finish_reason):
        return {
            "sample_id": self._request["sample_id"],
            "token_ids": self.tokens,
            "logprobs": self._logprobs,
            "switches": self.switches,
            "finish_reason": finish_reason,
            "cached_tokens": self._cached,
        }
