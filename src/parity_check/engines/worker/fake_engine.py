"""A deterministic engine with injectable drift and faults, for tests and docs.

A byte-level "language model": the logits of the next of 256 tokens are a hash of the last two.
`engine_args`:

    noise = 0.01          standard deviation, in nats, of an error added to each logit
    seed = 1234           of the sampling and of the noise
    max_model_len = 4096
    tokenizer = "bytes"   or "upper", which reads a text in upper case
    rope_theta = 10000.0  what the engine says that it read from the checkpoint; also `dtype`
    delay_s = 0.0         time that each sample takes
    fault = {op = "replay", after = 3, how = "crash"}
                          at the given operation, after so many samples: crash (SIGKILL), exit,
                          hang, hold_the_gil, out_of_memory, or an exception
                          (op: load, tokenize, decode, generate, replay, rescore, rollout, learn,
                          weight_sync; the last counts pauses), or not_finite: as a trainer says
    update_fault = "skips"
                          what goes wrong with a weight update: see fake_weight_sync.py
"""

import ctypes
import functools
import hashlib
import heapq
import math
import os
import random
import signal
import struct
import time
from pathlib import Path

from failures import WorkerFailure

VOCABULARY = 256
END = 0
DEFAULTS = {
    "model": None,
    "seed": 0,
    "noise": 0.0,
    "max_model_len": 4096,
    "tokenizer": "bytes",
    "rope_theta": None,
    "dtype": None,
    "delay_s": 0.0,
    "fault": None,
    "update_fault": None,
}
BUNDLED = "tiny"
SHIFT = 0.5
"""How far a checkpoint other than the bundled one shifts a logit, in standard deviations."""


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def logits(context):
    """Logits [VOCABULARY] of the next token, with a heavy head and a long tail as in text."""
    return logits_after(bytes(token & 255 for token in context[-2:]))


@functools.lru_cache(maxsize=VOCABULARY * VOCABULARY)
def logits_after(last):
    source = random.Random(hashlib.sha256(last).digest())
    return [source.gauss(0.0, 2.5) for _ in range(VOCABULARY)]


@functools.lru_cache(maxsize=1 << 14)
def shift(weights, last):
    """The shift [VOCABULARY] that a checkpoint, given by name, adds to the logits."""
    if weights == BUNDLED:
        return [0.0] * VOCABULARY
    source = random.Random(f"{weights} {last!r}")
    return [source.gauss(0.0, SHIFT) for _ in range(VOCABULARY)]


def log_softmax(values):
    peak = max(values)
    total = peak + math.log(sum(math.exp(value - peak) for value in values))
    return [value - total for value in values]


def text_of(ids):
    return bytes(ids).decode("latin-1")


class FakeEngine:
    def __init__(self, command):
        self.arguments = {**DEFAULTS, **command["engine_args"]}
        for name in self.arguments:
            if name not in DEFAULTS:
                raise WorkerFailure("bad_engine_args", f"unknown engine argument `{name}`")
        self.family = command["family"] or "v1"
        self.settings = {
            name: FAKE_DEFAULTS[name] if value == "default" else value
            for name, value in command["settings"].items()
        }
        self.random = random.Random(self.arguments["seed"])
        self.body = self.head = Path(self.arguments["model"] or BUNDLED).name
        self.parameters = {"body": self.body, "lm_head": self.head}
        self.cache = {}
        self.rollouts = self.learner = None
        self.fault("load", 0)

    def describe(self):
        in_force = {
            name: {"in_force": value, "proof": "the fake engine applies every setting"}
            for name, value in self.settings.items()
        }
        return {
            "backend": "fake",
            "version": "0",
            "family": self.family,
            "packages": {},
            "platform": "cpu",
            "device": "none",
            "settings": in_force,
            "config": {
                name: self.arguments[name]
                for name in ("max_model_len", "dtype")
                if self.arguments[name] is not None
            },
            "environment": {},
            "model": {
                "rope_theta": self.arguments["rope_theta"],
                "vocab_size": VOCABULARY,
                "max_model_len": self.arguments["max_model_len"],
                "architectures": ["Fake"],
            },
        }

    def fault(self, op, done):
        fault = self.arguments["fault"]
        if not fault or fault["op"] != op or fault.get("after", 0) != done:
            return
        how = fault["how"]
        if how == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "exit":
            os._exit(7)
        if how == "hang":
            time.sleep(3600)
        if how == "hold_the_gil":
            ctypes.PyDLL(None).sleep(3600)
        if how == "out_of_memory":
            raise MemoryError("injected")
        if how == "not_finite":
            raise WorkerFailure("not_finite", "the loss is nan and the norm of its gradient nan")
        raise RuntimeError(how)

    def tokenize(self, requests, command, output):
        for done, request in enumerate(requests):
            self.fault("tokenize", done)
            text = request["text"] or "".join(m["content"] for m in request["messages"])
            if self.arguments["tokenizer"] == "upper":
                text = text.upper()
            output.write(prompt_id=request["prompt_id"], token_ids=list(text.encode()))

    def decode(self, ids):
        self.fault("decode", 0)
        return list(text_of(ids))

    def check(self, requests, new_tokens):
        for request in requests:
            completion = request.get("completion_token_ids") or []
            length = len(request["prompt_token_ids"]) + (len(completion) or new_tokens)
            if length > self.arguments["max_model_len"]:
                raise WorkerFailure(
                    "prompt_too_long",
                    f"sample {request['sample_id']}: {length} tokens exceed the engine's "
                    f"max_model_len {self.arguments['max_model_len']}",
                )
            for token in (*request["prompt_token_ids"], *completion):
                if not 0 <= token < VOCABULARY:
                    raise WorkerFailure(
                        "token_out_of_vocabulary",
                        f"sample {request['sample_id']}: token id {token} is outside the "
                        f"vocabulary of {VOCABULARY}",
                    )

    def caching(self):
        setting = self.settings["enable_prefix_caching"]
        return FAKE_DEFAULTS["enable_prefix_caching"] if setting == "default" else setting

    def load_weights(self, checkpoint, fault):
        name = Path(checkpoint).name
        if fault == "does_nothing":
            return
        self.body = name
        self.parameters = {"body": name, "lm_head": name}
        if fault == "skips":
            self.parameters["body"] = BUNDLED
        if fault != "stale_head":
            self.head = name

    def weights(self):
        return {
            "parameters": dict(self.parameters),
            "head": {"dtype": "float32", "logits": shift(self.head, b"")},
        }

    def draw(self, processed):
        return self.random.choices(range(VOCABULARY), [math.exp(x) for x in processed])[0]

    def moved(self, context, kv):
        """Logits of the current weights on KV written by the weights `kv`, per token."""
        raw, last = logits(context), bytes(token & 255 for token in context[-2:])
        written = kv or [self.body]
        if {self.body, self.head, *written} == {BUNDLED}:
            return raw
        shares = {weights: written.count(weights) / len(written) for weights in set(written)}
        parts = [(1.0, shift(self.head, last))]
        parts += [(share, shift(weights, last)) for weights, share in sorted(shares.items())]
        return [x + sum(share * part[i] for share, part in parts) for i, x in enumerate(raw)]

    def step(self, context, sampling, kv=()):
        """The logprobs to sample from, and those that the engine returns."""
        raw = self.moved(context, kv)
        temperature = sampling["temperature"] or 1.0
        processed = log_softmax([value / temperature for value in raw])
        mode = self.settings["logprobs_mode"]
        return processed, log_softmax(raw) if mode == "raw_logprobs" else processed

    def columns(self, sample_id, prompt, tokens, command):
        chosen, top_ids, top_logprobs = [], [], []
        noise = random.Random(f"{self.arguments['seed']} {sample_id}")
        for place, token in enumerate(tokens):
            _, returned = self.step(prompt + tokens[:place], command["sampling"])
            if self.arguments["noise"]:
                error = self.arguments["noise"]
                returned = log_softmax([x + noise.gauss(0.0, error) for x in returned])
            chosen.append(float32(returned[token]))
            ranked = heapq.nlargest(
                command["top_logprobs"], range(VOCABULARY), key=returned.__getitem__
            )
            top_ids.append(ranked)
            top_logprobs.append([float32(returned[i]) for i in ranked])
        return {"logprobs": chosen, "top_token_ids": top_ids, "top_logprobs": top_logprobs}

    def generate(self, requests, command, output):
        self.check(requests, command["max_tokens"])
        for done, request in enumerate(requests):
            self.fault("generate", done)
            time.sleep(self.arguments["delay_s"])
            prompt, tokens = request["prompt_token_ids"], []
            while len(tokens) < command["max_tokens"]:
                processed, _ = self.step(prompt + tokens, command["sampling"])
                tokens.append(self.draw(processed))
                if tokens[-1] == END and not command["ignore_eos"]:
                    break
            output.write(
                sample_id=request["sample_id"],
                token_ids=tokens,
                finish_reason="stop" if tokens[-1] == END else "length",
                text=text_of(tokens),
                **self.columns(request["sample_id"], prompt, tokens, command),
            )

    def replay(self, requests, command, output, op="replay"):
        self.check(requests, 0)
        for done, request in enumerate(requests):
            self.fault(op, done)
            time.sleep(self.arguments["delay_s"])
            prompt, tokens = request["prompt_token_ids"], request["completion_token_ids"]
            output.write(
                sample_id=request["sample_id"],
                **self.columns(request["sample_id"], prompt, tokens, command),
            )

    def weight_sync(self, requests, command, output):
        from fake_weight_sync import FakeScenario

        self.check(requests, command["max_tokens"])
        return FakeScenario(self, command, output).run(requests)

    def rescore(self, requests, command, output):
        self.replay(requests, command, output, op="rescore")

    # --- training ---------------------------------------------------------------------------------

    def rollout(self, requests, command, output):
        from fake_training import FakeRollouts

        if self.rollouts is None:
            self.rollouts = FakeRollouts(self)
        return self.rollouts.run(requests, command, output)

    def begin(self, command):
        from fake_training import FakeLearner

        self.learner = FakeLearner(self)

    def learn(self, requests, command, output):
        return self.learner.learn(requests, command, output)

    def save(self, command):
        from fake_training import save

        save(command)

    def reward(self, requests, command, output):
        from fake_training import reward

        reward(requests, command, output)


FAKE_DEFAULTS = {
    "logprobs_mode": "raw_logprobs",
    "enable_prefix_caching": True,
    "async_scheduling": True,
    "lm_head_dtype": "model",
}
