"""`vllm serve` on loopback, with the arguments of an engine that is started in process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from engines.support import make_config, make_spec
from parity_check.config.engines import EndpointConfig, Settings
from parity_check.engines.client import WORKER
from parity_check.engines.endpoint.engine import EndpointEngine, EndpointSpec

START_S = 240.0
NAME = "tiny"


class Served(NamedTuple):
    """A running server, in a process group of its own."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def options(engine_args: dict[str, Any]) -> Iterator[str]:
    """vllm.LLM's arguments as vllm serve takes them."""
    for name, value in engine_args.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        else:
            yield from (f"--{option}", json.dumps(value) if isinstance(value, dict) else str(value))


@contextlib.contextmanager
def served(version: str, directory: Path, **engine: Any) -> Iterator[Served]:
    """Serve the bundled model until the end of the block; raises when the server does not start."""
    spec = make_spec(version, **engine)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dropped = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    log = directory / f"serve-{version}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(str(spec.python), "-m", "vllm.entrypoints.openai.api_server"),
                *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", NAME),
                *options(dict(spec.engine_args)),
            ],
            env={
                **{name: value for name, value in os.environ.items() if name not in dropped},
                **spec.environ,
                "PYTHONPATH": str(WORKER / "extension"),
                "VLLM_ENABLE_V1_MULTIPROCESSING": "1",  # the server insists
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    found = Served(process, f"http://127.0.0.1:{port}/v1", log)
    try:
        _wait_until_healthy(found)
        yield found
    finally:
        found.kill()


def _wait_until_healthy(server: Served) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            urllib.request.urlopen(server.url.replace("/v1", "/health"), timeout=1)
            return
        time.sleep(0.2)
    raise AssertionError(server.log.read_text()[-3000:])


def endpoint_engine(
    version: str, url: str, directory: Path, settings: Settings | None = None, **endpoint: Any
) -> EndpointEngine:
    """The server as the candidate; not loaded yet."""
    spec = EndpointSpec(
        role="candidate",
        endpoint=EndpointConfig(base_url=url, **{"model": NAME, "retries": 1, **endpoint}),
        family="v1",
        settings=settings or Settings(**dict.fromkeys(Settings.model_fields, "default")),
        dtype=make_config(version).model.dtype,
    )
    return EndpointEngine(spec, directory / "jobs", directory / "candidate.log", lambda *_: None)
