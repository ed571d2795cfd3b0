"""A server in this process that answers as vLLM's does, with the fake engine's numbers and faults.

What a real server answers is tested in tests/engines/test_endpoint.py; here it is what goes wrong.
"""

from __future__ import annotations

import gzip
import importlib
import json
import math
import random
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import tomli_w

from helpers.support import SMALL
from parity_check.engines.client import WORKER

Fault = Callable[[int, dict[str, Any]], Any]
"""Called with the number of a request for samples, from 0, and the answer that it would get.

Returns the answer to give, or a status, or one of the words of `Handler.misbehave`.
"""
VOCABULARY = 256
MODEL = "tiny"
KEY = "sk-the-secret-of-the-tests"


def _fake_engine() -> Any:
    sys.path.insert(0, str(WORKER))
    try:
        return importlib.import_module("fake_engine")
    finally:
        sys.path.remove(str(WORKER))


class Stub(ThreadingHTTPServer):
    """Serves one model; `seen` holds (path, body, headers) of every request."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, **facts: Any) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fake = _fake_engine()
        self.fault: Fault = lambda _, answer: answer
        self.raw = self.fp16_head = False
        self.key: str | None = None
        self.version: str | None = "0.18.1"
        self.metrics: str | None = None
        self.cached: int | None = None
        self.tokenizes = True
        self.instead: dict[str, bytes] = {}
        """Bytes in place of the answer of a path, said to be JSON."""
        self.seen: list[tuple[str, dict[str, Any] | None, dict[str, str]]] = []
        self.samples = count()
        self.over = threading.Event()
        self.scheme = "http"
        self.random = random.Random(1)
        for name, value in facts.items():
            assert hasattr(self, name), name
            setattr(self, name, value)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""

    # --- the model ----------------------------------------------------------------------------

    def logprobs(self, context: list[int], body: dict[str, Any], raw: bool) -> list[float]:
        """Of every token, -9999 for what truncation cut off, as vLLM writes it."""
        logits = self.fake.logits(context)
        if self.fp16_head:
            logits = [round(value * 1024) / 1024 for value in logits]
        if not raw:
            logits = [value / (body["temperature"] or 1.0) for value in logits]
        found: list[float] = self.fake.log_softmax(logits)
        if body["top_k"] == 1 and not raw:
            best = max(found)
            found = [0.0 if value == best else -9999.0 for value in found]
        return [self.fake.float32(value) for value in found]

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, tokens = body["prompt"], []
        logprobs, top = [], []
        for _ in range(body["max_tokens"]):
            weights = [math.exp(x) for x in self.logprobs(prompt + tokens, body, raw=False)]
            token = self.random.choices(range(VOCABULARY), weights)[0]
            values = self.logprobs(prompt + tokens, body, raw=self.raw)
            ids = [token, *self.best(values, body.get("logprobs") or 0)]
            top.append({f"token_id:{each}": values[each] for each in ids})
            logprobs.append(values[token])
            tokens.append(token)
        choice: dict[str, Any] = {
            "index": 0,
            "text": self.fake.text_of(tokens),
            "finish_reason": "length",
            "token_ids": tokens,
            "prompt_token_ids": prompt,
            "logprobs": None,
            "prompt_logprobs": None,
        }
        if body.get("logprobs") is not None:
            choice["logprobs"] = {
                "tokens": [f"token_id:{token}" for token in tokens],
                "token_logprobs": logprobs,
                "top_logprobs": top,
            }
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = [None, *map(self.scored(body), range(1, len(prompt)))]
        usage: dict[str, Any] = {"prompt_tokens": len(prompt)}
        if self.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return {"model": body["model"], "choices": [choice], "usage": usage}

    def scored(self, body: dict[str, Any]) -> Callable[[int], dict[str, Any]]:
        def at(place: int) -> dict[str, Any]:
            prompt = body["prompt"]
            values = self.logprobs(prompt[:place], body, raw=True)
            best = self.best(values, body["prompt_logprobs"])
            ranks = {token: rank for rank, token in enumerate(best, 1)}
            ids = dict.fromkeys([prompt[place], *best])
            return {
                str(token): {"logprob": values[token], "rank": ranks.get(token, 99)}
                for token in ids
            }

        return at

    @staticmethod
    def best(values: list[float], number: int) -> list[int]:
        return sorted(range(VOCABULARY), key=values.__getitem__, reverse=True)[:number]


class Handler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing: pytest's output is for failures."""

    def do_GET(self) -> None:
        self.respond(None)

    def do_POST(self) -> None:
        self.respond(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def respond(self, body: dict[str, Any] | None) -> None:
        stub = self.server
        stub.seen.append((self.path, body, dict(self.headers)))
        if stub.key and self.headers.get("authorization") != f"Bearer {stub.key}":
            told = f"wrong key in {self.headers.get('authorization')}"
            self.answer({"error": {"message": told}}, 401)
            return
        answers = {
            "/v1/models": {"data": [{"id": MODEL, "max_model_len": 1024, "root": "/models/tiny"}]},
            "/version": stub.version and {"version": stub.version},
            "/metrics": stub.metrics,
        }
        if self.path in stub.instead:
            self.send(stub.instead[self.path])
            return
        if self.path == "/v1/completions":
            assert body is not None
            answer: Any = stub.complete(body)
            if body["max_tokens"] > 1 or len(body["prompt"]) not in (8, 300):  # no probe
                answer = stub.fault(next(stub.samples), answer)
        elif self.path == "/tokenize" and stub.tokenizes:
            answer = {"tokens": list(body["prompt"].encode())} if body else None
        elif self.path == "/detokenize" and stub.tokenizes:
            answer = {"prompt": stub.fake.text_of(body["tokens"])} if body else None
        else:
            answer = answers.get(self.path)
        if answer is None:
            answer = 404
        if isinstance(answer, str) and self.path != "/metrics":
            self.misbehave(answer)
        elif isinstance(answer, int):
            self.answer({"error": {"message": f"this is a {answer}"}}, answer)
        else:
            self.answer(answer, 200)

    def answer(self, content: Any, status: int) -> None:
        text = isinstance(content, str)
        data = (content if text else json.dumps(content)).encode()
        self.send(data, status, **{"content-type": "text/plain"} if text else {})

    def send(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def misbehave(self, how: str) -> None:
        if how == "hang":
            self.server.over.wait(60)
        elif how == "cut":  # promises more than comes
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "100000")
            self.end_headers()
            self.wfile.write(b'{"model": "tiny", "choices": [')
        elif how == "half":  # half of an answer, in good order
            self.send(b'{"model": ')
        elif how == "deep":
            self.send(b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
        elif how == "digits":
            self.send(b'{"choices": [' + b"9" * 5000 + b"]}")
        elif how == "no gzip":
            self.send(b"{}", **{"content-encoding": "gzip"})
        elif how == "half a gzip":
            self.send(gzip.compress(b"x" * 1000)[:-12], **{"content-encoding": "gzip"})
        elif how == "bomb":
            self.send(gzip.compress(bytes(1 << 22)), **{"content-encoding": "gzip"})
        elif how == "endless":  # something comes all the time
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            while not self.server.over.wait(0.05):
                self.wfile.write(b" ")
        elif how == "die":
            self.server.shutdown()
            self.server.socket.close()
        else:
            raise AssertionError(how)
        self.close_connection = True


@contextmanager
def serving(certificate: Path | None = None, **facts: Any) -> Iterator[Stub]:
    """A stub that runs; with `certificate`, a PEM of key and certificate, over TLS."""
    stub = Stub(**facts)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        stub.socket = context.wrap_socket(stub.socket, server_side=True)
        stub.scheme = "https"
    thread = threading.Thread(target=stub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.over.set()
        stub.shutdown()
        stub.server_close()


def endpoint_config(directory: Path, url: str, **tables: dict[str, Any]) -> Path:
    """parity.toml with a fake reference and the endpoint as candidate, which samples."""
    endpoint = {"base_url": url, "model": MODEL, "retries": 1, **tables.pop("endpoint", {})}
    tree = {
        "reference": {"kind": "fake"},
        "candidate": {
            "kind": "endpoint",
            "endpoint": endpoint,
            "settings": tables.pop("settings", {}),
        },
        "workload": {**SMALL, "sampled_by": "candidate", **tables.pop("workload", {})},
        "run": {"out": "runs"},
        **tables,
    }
    path = directory / "parity.toml"
    path.write_text(tomli_w.dumps(tree))
    return path
