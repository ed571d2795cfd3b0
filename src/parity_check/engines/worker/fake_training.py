"""Rollouts in flight and a trainer on the fake engine: the protocol of training, without a model.

The trainer's weights have two states: those of the checkpoint, and those behind its first step. It
applies the temperature and has no noise; what the rollout engine has, the curves show.
"""

import math
from pathlib import Path

from failures import WorkerFailure
from fake_engine import BUNDLED, END, text_of
from fake_weight_sync import FakeRequest

TRAINED = "weights"


class FakeRollouts:
    """All requests of a run that have not been handed over yet."""

    def __init__(self, engine):
        self._engine, self._flight = engine, {}

    def run(self, requests, command, output):
        self._engine.check([r for r in requests if r.get("prompt_token_ids")], 0)
        if command["checkpoint"] is not None:
            self._engine.load_weights(command["checkpoint"], self._engine.arguments["update_fault"])
            for request in self._flight.values():
                if not request.ended:
                    request.switched()
        for request in requests:
            if request.get("prompt_token_ids"):
                self._flight[request["sample_id"]] = OpenRequest(self._engine, request)
        due = [request["sample_id"] for request in requests if request["due"]]
        for name, request in self._flight.items():
            more = command["max_tokens"] if name in due else command["tokens"]
            request.advance(more, command)
        for done, request in enumerate(requests):
            self._engine.fault("rollout", done)
            name = request["sample_id"]
            if name in due:
                row = self._flight.pop(name).row("length")
                output.write(**row, text=text_of(row["token_ids"]))
            else:
                output.note(**self._flight[name].row(None))
        return {"paused_s": 0.0, "load_s": 0.0}


class OpenRequest(FakeRequest):
    ended = False

    def advance(self, more, command):
        while more and not self.ended:
            self.step(command["sampling"])
            more -= 1
            end = self.tokens[-1] == END and not command["ignore_eos"]
            self.ended = end or len(self.tokens) == command["max_tokens"]


class FakeLearner:
    """The weights of a run: of the checkpoint, or behind at least one step."""

    def __init__(self, engine):
        self._engine = engine
        engine.body = engine.head = BUNDLED

    def learn(self, requests, command, output):
        engine = self._engine
        for done, request in enumerate(requests):
            engine.fault("learn", done)
            prompt, tokens = request["prompt_token_ids"], request["completion_token_ids"]
            rows = [
                engine.step(prompt + tokens[:place], command["sampling"])[0]
                for place in range(len(tokens))
            ]
            output.write(
                sample_id=request["sample_id"],
                logprobs=[row[token] for row, token in zip(rows, tokens)],
                entropy=[-sum(x * math.exp(x) for x in row) for row in rows],
            )
        engine.body = engine.head = TRAINED
        moved = any(request["advantage"] for request in requests)
        return {"loss": 0.0, "grad_norm": 1.0 if moved else 0.0}


def save(command):
    Path(command["directory"]).mkdir(exist_ok=True)


def reward(requests, command, output):
    if command["function"] != "fake:length":
        raise WorkerFailure("bad_reward", f"training.reward: cannot use {command['function']}")
    for request in requests:
        output.write(sample_id=request["sample_id"], reward=float(len(request["completion"])))
