"""The weight-update scenario on a VllmEngine: requests in flight, pause, new weights, resume.

The engine runs in this process, so that a pause is between two steps and the same schedule gives
the same tokens before it in every run. V0 can only be paused there. V1 is paused like
`pause_generation(mode, clear_cache)`, through the same scheduler calls.

`wait` does what the engine's own process does: no new request is scheduled, running requests
finish, then the caches are cleared if requested. vLLM refuses this call in-process, because it
would have to step the engine itself; here the scenario does the steps.
"""

import time

import ranks
from columns import logprob_columns
from failures import WorkerFailure
from proofs import FORCED


class StepBoundary:
    """V0: the engine is idle between two steps, and nothing is cleared."""

    def __init__(self, engine):
        self.engine = engine.engine
        self.scheduler = engine.engine.scheduler[0]
        self.preempt = "_preempt"

    def pause(self, flight):
        """Let the other ranks leave the loop in which they wait for the next step."""
        self.engine.stop_remote_worker_execution_loop()

    def resume(self):
        pass


class PausedScheduler:
    """V1: pause the scheduler in one of its modes, and clear or keep its caches."""

    def __init__(self, engine, mode, clear_cache):
        self.core = getattr(engine.engine.engine_core, "engine_core", None)
        if self.core is None:
            raise WorkerFailure(
                "unsupported",
                "weight-sync steps the engine itself: do not change "
                "VLLM_ENABLE_V1_MULTIPROCESSING = 0",
            )
        self.scheduler, self.preempt = self.core.scheduler, "_preempt_request"
        self.mode, self.clear_cache = mode, clear_cache

    def pause(self, flight):
        if self.mode == "wait":
            from vllm.v1.core.sched.interface import PauseState

            self.scheduler.set_pause_state(PauseState.PAUSED_NEW)
            while self.scheduler.running:  # waiting requests are not scheduled
                flight.step()
            if self.clear_cache:
                self.core._reset_caches()
            return
        self.core.pause_scheduler(mode=self.mode, clear_cache=self.clear_cache)
        if self.mode == "abort":
            flight.abort()
        while getattr(self.core, "batch_queue", None):  # a step that async scheduling had started
            flight.step()

    def resume(self):
        self.core.resume_scheduler()


def boundary(engine, command):
    """How the engine is stopped for an update."""
    if engine.family == "v0":
        return StepBoundary(engine)
    return PausedScheduler(engine, command["mode"], command["clear_cache"])


def load(engine, checkpoint, command):
    """Load a checkpoint in place; return the name of the function that did it."""
    loaders = engine.llm.collective_rpc(
        "parity_check_update", args=(checkpoint, command["update"], command["python_path"])
    )
    return loaders[0]


def check_function(engine, command):
    """Reject a function of the user that cannot be called."""
    function, directory = command["update"], command["python_path"]
    if function is None:
        return
    reasons = engine.llm.collective_rpc("parity_check_find_update", args=(function, directory))
    if reason := next(filter(None, reasons), None):
        raise WorkerFailure(
            "bad_update", f"weight_sync.update: cannot use {function}: {one_line(reason)}"
        )


class Watch:
    """Records what the scheduler does: cache resets with their results, and preemptions."""

    def __init__(self, boundary):
        self._scheduler, self._names = boundary.scheduler, ("reset_prefix_cache", boundary.preempt)
        self.resets, self.preemptions = [], 0

    def __enter__(self):
        reset, preempt = (getattr(self._scheduler, name) for name in self._names)

        def watched_reset(*args, **kwargs):
            answer = reset(*args, **kwargs)
            self.resets.append(answer is not False)
            return answer

        def watched_preempt(*args, **kwargs):
            self.preemptions += 1
            return preempt(*args, **kwargs)

        for name, function in zip(self._names, (watched_reset, watched_preempt)):
            setattr(self._scheduler, name, function)
        return self

    def __exit__(self, *_):
        for name in self._names:
            delattr(self._scheduler, name)


class InFlight:
    """Requests in flight: their tokens so far, and the tokens at which the weights changed."""

    def __init__(self, engine, output):
        self._engine, self._output = engine, output
        self._results, self._open, self.switches, self._marks = {}, {}, {}, {}

    def add(self, requests, **parameters):
        """Start requests; one with `completion_token_ids` is forced to them."""
        params = [self._params(request, parameters) for request in requests]
        self._open.update(self._engine.admit(requests, params))
        for request in requests:
            self.switches[request["sample_id"]] = []
            self._marks[request["sample_id"]] = 0

    def _params(self, request, parameters):
        from vllm.sampling_params import RequestOutputKind

        forced = request.get("completion_token_ids")
        params = self._engine.sampling_params(
            max_tokens=len(forced) if forced else parameters["max_tokens"],
            ignore_eos=parameters["ignore_eos"],
            logprobs=0,
            extra_args={FORCED: forced} if forced else None,
            **parameters["sampling"],
        )
        params.output_kind = RequestOutputKind.CUMULATIVE
        return params

    def __bool__(self):
        return bool(self._open)

    def step(self):
        """Run one step of the engine and write finished requests."""
        for result in self._engine.engine.step():
            if result.request_id not in self._open:
                continue
            self._results[result.request_id] = result
            if result.finished:
                self._write(self._open.pop(result.request_id), self._results.pop(result.request_id))
        self._output.tick()

    def drain(self):
        while self:
            self.step()

    def abort(self):
        """Write all requests, which the scheduler has aborted, with their tokens so far."""
        for request_id in list(self._open):
            self._engine.engine.abort_request([request_id])
            request = self._open.pop(request_id)
            self._write(request, self._results.get(request_id), finish_reason="abort")

    def tokens(self):
        """{sample: tokens so far} of the open requests."""
        return {
            request["sample_id"]: self._count(request_id)
            for request_id, request in self._open.items()
        }

    def due(self, tokens):
        """Whether every open request has at least `tokens` more tokens than at the last update."""
        return all(n >= self._marks[sample] + tokens for sample, n in self.tokens().items())

    def switched(self):
        """Record that the weights change before the next token."""
        for sample, count in self.tokens().items():
            self.switches[sample].append(count)
            self._marks[sample] = count

    def note(self):
        """Write the tokens of the open requests, to keep them if the pause is interrupted."""
        for request_id, request in self._open.items():
            result = self._results.get(request_id)
            self._output.note(**self._row(request, result, finish_reason=None))

    def _count(self, request_id):
        result = self._results.get(request_id)
        return 0 if result is None else len(result.outputs[0].token_ids)

    def _write(self, request, result, finish_reason=None):
        reason = finish_reason or result.outputs[0].finish_reason
        self._output.write(**self._row(request, result, reason))

    def _row(self, request, result, finish_reason):
        tokens = [] if result is None else list(result.outputs[0].token_ids)
        logprobs = result.outputs[0].logprobs if tokens else []
        return {
            "sample_id": request["sample_id"],
            "token_ids": tokens,
            "logprobs": logprob_columns(tokens, logprobs, 0)["logprobs"],
            "switches": self.switches[request["sample_id"]],
            "finish_reason": finish_reason,
            "cached_tokens": getattr(result, "num_cached_tokens", None) or 0,
        }


class Scenario:
    """One command: requests in flight while the weights change, then the later requests."""

    def __init__(self, engine, command, output):
        self._engine, self._command, self._output = engine, command, output
        self._boundary = boundary(engine, command)
        self._updates = []

    def run(self, requests):
        check_function(self._engine, self._command)
        before = weights(self._engine)
        in_flight = [request for request in requests if request["in_flight"]]
        with Watch(self._boundary) as watch:
            flight = self._start(in_flight)
            for checkpoint in self._command["checkpoints"]:
                while flight and not flight.due(self._command["update_after_tokens"]):
                    flight.step()
                self._update(flight, checkpoint, watch, before)
            flight.drain()
            total = watch.preemptions
        after = weights(self._engine)
        self._start([request for request in requests if not request["in_flight"]]).drain()
        return {
            "updates": self._updates,
            "preemptions": total,
            "weights_before": before,
            "weights_after": after,
        }

    def _start(self, requests):
        flight = InFlight(self._engine, self._output)
        flight.add(
            requests,
            max_tokens=self._command["max_tokens"],
            ignore_eos=True,
            sampling=self._command["sampling"],
        )
        return flight

    def _update(self, flight, checkpoint, watch, before):
        resets, preemptions = len(watch.resets), watch.preemptions
        in_flight = len(flight.tokens())
        started = time.perf_counter()
        self._boundary.pause(flight)
        standing = time.perf_counter()
        tokens = flight.tokens()
        flight.note()
        try:
            loader = load(self._engine, checkpoint, self._command)
        except Exception as error:
            raise self._failed(error, before) from error
        loaded = time.perf_counter()
        flight.switched()
        self._boundary.resume()
        self._updates.append(
            {
                "checkpoint": checkpoint,
                "loader": loader,
                "requests_in_flight": in_flight,
                "requests_held": len(tokens),
                "tokens_held": sum(tokens.values()),
                "cache_resets": watch.resets[resets:],
                "preempted": watch.preemptions - preemptions,
                "standstill_s": round(standing - started, 4),
                "load_s": round(loaded - standing, 4),
                "paused_s": round(time.perf_counter() - started, 4),
            }
        )

    def _failed(self, error, before):
        """The failure of an update that raised, with the state of the model."""
        then, now = before["parameters"], weights(self._engine)["parameters"]
        changed = sum(now.get(name) != found for name, found in then.items())
        state = "the model still has the old weights"
        if changed:
            state = (
                f"{changed} of {len(then)} parameters changed: the model is partially updated and "
                "must not be used"
            )
        what = one_line(f"{type(error).__name__}: {error}")
        return WorkerFailure("update_failed", f"the update raised {what}; {state}")


def weights(engine):
    """The weights in force in all processes, which must give the same logits."""
    found = engine.llm.collective_rpc("parity_check_weights")
    heads = [{"the logits of lm_head": each["head"] and each["head"]["digest"]} for each in found]
    ranks.agreed(heads)
    return {
        "parameters": ranks.by_rank([each["parameters"] for each in found]),
        "head": next((each["head"] for each in found if each["head"] is not None), None),
    }


def one_line(text):
    return " ".join(str(text).split())[:300]
