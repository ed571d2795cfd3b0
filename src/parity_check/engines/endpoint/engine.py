"""A served endpoint as an engine: operations, proofs, and what stays unknown."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from parity_check.config.engines import EndpointConfig, EndpointTable, Settings
from parity_check.engines.base import Capabilities, ConfiguredEngine, Progress
from parity_check.engines.endpoint import completions, probes
from parity_check.engines.endpoint.answers import Card, Cards, Text, TokenIds
from parity_check.engines.endpoint.probes import PLAIN
from parity_check.engines.endpoint.server import Call, Server
from parity_check.engines.environment.environment import Environment
from parity_check.engines.gpus import Gpu
from parity_check.engines.replies import Sampled, Scored, UnusableError, check_shape
from parity_check.errors import ConfigError, InputError
from parity_check.files import cannot_write
from parity_check.traces.engine import UNKNOWN, EngineDescription, EngineSetting

PENALTIES = ("presence_penalty", "frequency_penalty", "repetition_penalty")
WAYS_OUT = (
    "let it sample (workload.sampled_by), so that the other engine replays its tokens; or compare "
    "at temperature 1 without truncation and penalties"
)


Row = TypeVar("Row", bound=Scored)
CAN = Capabilities(noun="an endpoint", evaluates_by="prefill", repeats=False)


@dataclass(frozen=True)
class ConfiguredEndpoint(ConfiguredEngine[EndpointTable]):
    """`kind = "endpoint"`: nothing is provisioned or started."""

    can = CAN

    @property
    def headline(self) -> str:
        endpoint = self.table.endpoint
        return f"endpoint {endpoint.base_url}, model {endpoint.model}"

    def facts(self) -> Iterator[tuple[str, str]]:
        variable = self.table.endpoint.api_key_env
        state = "set" if variable and os.environ.get(variable) else "not set"
        yield ("key", "none" if variable is None else f"{variable}, {state}")
        yield ("setting", "use doctor --start to see what is in force")

    def check_evaluation(self, stated: Mapping[str, Any]) -> None:
        sampling = {**self.config.workload.sampling(), **stated}
        prompt_logprobs = "processed" if self.table.family == "v0" else "raw"
        changed = left_out(sampling, prompt_logprobs)
        if changed and self.table.settings.logprobs_mode != "raw_logprobs":
            raise ConfigError(
                f"the {self.role} is an endpoint, which scores given tokens by prompt logprobs; "
                f"those do not include {', '.join(changed)}",
                hint=WAYS_OUT,
            )

    def spec(self, model_path: str, environment: Environment | None) -> EndpointSpec:
        read_key(self.role, self.table.endpoint)
        return EndpointSpec(
            self.role,
            self.table.endpoint,
            self.table.family,
            self.table.settings,
            self.config.model.dtype,
        )


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One served endpoint. The key is read when the engine is created."""

    can: ClassVar[Capabilities] = CAN
    repeats_with: ClassVar[Mapping[str, int]] = {}
    """None: it cannot replay its tokens."""
    pauses: ClassVar[None] = None
    devices: ClassVar[frozenset[str]] = frozenset()

    role: str
    endpoint: EndpointConfig
    family: str | None
    settings: Settings
    dtype: str
    """The configured dtype of the model; the server does not report it."""

    @property
    def label(self) -> str:
        return f"endpoint {self.endpoint.model}"

    def memory_share(self) -> float:
        return 0.0

    def claims(self) -> tuple[Gpu, ...]:
        return ()

    def start(
        self, work: Path, log: Path, stall_timeout_s: float, progress: Progress
    ) -> EndpointEngine:
        """Each request has the endpoint's timeout instead of `stall_timeout_s`."""
        return EndpointEngine(self, work, log, progress)


def read_key(role: str, endpoint: EndpointConfig) -> str | None:
    """The API key from the environment. Raises ConfigError if it is not set."""
    if endpoint.api_key_env is None:
        return None
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"{role}.endpoint.api_key_env names {endpoint.api_key_env}, which is not set",
            hint="export it, or remove `api_key_env` for a server without a key",
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{role}.endpoint.api_key_env names {endpoint.api_key_env}, which is not an API key: "
            "it has spaces, control characters or non-ASCII letters",
            hint="export only the key, on one line",
        )
    return key


def left_out(sampling: Mapping[str, Any], prompt_logprobs: str) -> list[str]:
    """The parameters in use that prompt logprobs do not include.

    V1's prompt logprobs are raw (T = 1, no penalties, no truncation). V0's lack only penalties.
    """
    changed = [name for name, value in PLAIN.items() if sampling[name] != value]
    if sampling["temperature"] == 0.0:  # greedy logprobs are those of T = 1
        changed.remove("temperature")
    return changed if prompt_logprobs == "raw" else [n for n in changed if n in PENALTIES]


class EndpointEngine:
    """The operations of an engine as requests to a server.

    It can sample, and score given tokens by prefill. It cannot decode given tokens.
    """

    def __init__(self, spec: EndpointSpec, job_dir: Path, log: Path, progress: Progress) -> None:
        self.spec = spec
        self._job_dir, self._progress = job_dir, progress
        self._model = spec.endpoint.model
        self._ids = itertools.count(1)
        try:
            job_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(job_dir, error) from None
        self._server = Server(spec.role, spec.endpoint, read_key(spec.role, spec.endpoint), log)

    # --- operations ---------------------------------------------------------------------------

    def load(self) -> EngineDescription:
        """Find the model on the server and probe the settings in force. Raises EngineError."""
        started = time.perf_counter()
        card = self._card()
        longest = card.max_model_len
        facts = probes.probe(self._server, self._model, self.spec.dtype, longest or probes.REPEATED)
        requested = self.spec.settings.model_dump()
        config = {
            "max_model_len": longest,
            "kv_cache_dtype": facts.cache.get("cache_dtype"),
        }
        self.description = EngineDescription(
            label=f"{self.spec.label}, vllm {facts.version}",
            backend="endpoint",
            version=facts.version,
            family=facts.family,
            evaluates_by=CAN.evaluates_by,
            packages={} if facts.version == UNKNOWN else {"vllm": facts.version},
            platform=UNKNOWN,
            device=self.spec.endpoint.base_url,
            settings={
                name: EngineSetting(requested[name], found, proof)
                for name, (found, proof) in facts.settings.items()
            },
            prompt_logprobs=facts.prompt_logprobs,
            self_check_s=round(time.perf_counter() - started, 3),
            config={name: value for name, value in config.items() if value is not None},
            environment={},
            model={
                "rope_theta": None,
                "vocab_size": None,
                "max_model_len": longest,
                "architectures": [],
                "sampling_defaults": "",
                "root": card.root,
            },
        )
        self._check_family()
        self._check_settings()
        return self.description

    def tokenize(self, prompts: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Token ids of prompts {prompt_id, text | messages, template}, in order, by /tokenize."""
        calls = [
            Call(
                "/tokenize",
                {"model": self._model, "messages": prompt["messages"], **_template(prompt)}
                if prompt.get("messages") is not None
                else {"model": self._model, "prompt": prompt["text"]},
                f"prompt {prompt['prompt_id']}",
                optional=True,
            )
            for prompt in prompts
        ]
        answers = self._gather("tokenize", calls)
        if any(answer is None for answer in answers):
            raise InputError(
                f"the {self.spec.role} endpoint has no /tokenize",
                hint="use `prompt_token_ids` in the prompts file",
            )
        return [
            self._server.read("tokenize", call.name, TokenIds, answer).tokens
            for call, answer in zip(calls, answers, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The text of each single token id, by /detokenize, or its number without that route."""
        calls = [
            Call("/detokenize", {"model": self._model, "tokens": [token]}, optional=True)
            for token in ids
        ]
        return [
            f"<{token}>"
            if answer is None
            else self._server.read("decode", f"token {token}", Text, answer).prompt
            for token, answer in zip(ids, self._gather("decode", calls), strict=True)
        ]

    def generate(
        self, requests: Sequence[Mapping[str, Any]], *, max_tokens: int, **parameters: Any
    ) -> list[Sampled]:
        """Sample; rows in the order of the requests. Raises EngineError."""
        return self._complete(
            "generate",
            completions.generate_body,
            completions.read_generated,
            requests,
            {"max_tokens": max_tokens, **parameters},
        )

    def score(
        self, op: str, requests: Sequence[Mapping[str, Any]], **parameters: Any
    ) -> list[Scored]:
        """Run `generate` or `rescore`; rows in the order of the requests. Raises EngineError."""
        if op != "rescore":
            raise self._server.error(
                f"cannot {op}: a server can only sample, and score by prefill",
                kind="unsupported",
                hint=WAYS_OUT,
            )
        self._check_rescore(parameters["sampling"])
        return self._complete(
            "rescore", completions.rescore_body, completions.read_rescored, requests, parameters
        )

    def forget(self) -> None:
        """Delete the results of finished operations, which are in the trace by now."""
        for file in self._job_dir.glob("*.jsonl"):
            file.unlink()

    def close(self) -> None:
        """Close the engine. No connection stays open between operations."""
        self.kill()

    def kill(self) -> None:
        """Cancel running requests. Safe to call again, and from any thread."""
        self._server.end()

    # --- answers ------------------------------------------------------------------------------

    def _complete(
        self,
        op: str,
        make: Callable[..., dict[str, Any]],
        read: Callable[..., Row],
        requests: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
    ) -> list[Row]:
        """A completion for each request, stored as they arrive."""
        calls = [
            Call("completions", make(self._model, request, parameters), request["sample_id"])
            for request in requests
        ]
        rows: dict[int, Row] = {}
        tokens = 0
        finished = self._job_dir / f"{op}-{next(self._ids)}.jsonl"
        part = finished.with_name(finished.name + ".part")
        self._progress(op, 0, len(requests))
        try:
            with part.open("w", encoding="utf-8") as lines:

                def take(number: int, answer: Any) -> None:
                    nonlocal tokens
                    row = self._read(op, read, answer, requests[number], parameters)
                    rows[number] = row
                    lines.write(json.dumps(row.model_dump()) + "\n")
                    lines.flush()
                    tokens += len(row.logprobs)
                    self._progress(op, len(rows), len(requests), tokens)

                self._server.send(op, calls, take)
            part.replace(finished)
        except OSError as error:
            raise cannot_write(part, error) from None
        return [rows[number] for number in range(len(requests))]

    def _gather(self, operation: str, calls: Sequence[Call]) -> list[Any]:
        answers: list[Any] = [None] * len(calls)
        done = itertools.count(1)

        def take(number: int, answer: Any) -> None:
            answers[number] = answer
            self._progress(operation, next(done), len(calls))

        self._server.send(operation, calls, take)
        return answers

    def _read(
        self,
        op: str,
        read: Callable[..., Row],
        answer: Any,
        request: Mapping[str, Any],
        parameters: Mapping[str, Any],
    ) -> Row:
        try:
            row = read(answer, self._model, request, parameters)
            check_shape(row, len(row.logprobs), parameters["top_logprobs"])
            return row
        except UnusableError as error:
            about = f"sample {request['sample_id']}"
            raise self._server.bad_answer(op, about, error) from None

    def _card(self) -> Card:
        """The entry of the model in /models. Raises EngineError if it is not served."""
        answer = self._server.ask("load", Call("models"))
        named = {card.id: card for card in self._server.read("load", "/models", Cards, answer).data}
        if self._model not in named:
            served = ", ".join(named) or "nothing"
            raise self._server.error(
                f"does not serve the model {self._model!r}",
                kind="wrong_model",
                hint=f"it serves {served}: set {self.spec.role}.endpoint.model",
            )
        return named[self._model]

    # --- what is in force ---------------------------------------------------------------------

    def _check_family(self) -> None:
        wanted, found = self.spec.family, self.description.family
        if wanted and found not in (wanted, UNKNOWN):
            raise self._server.error(
                f"runs vLLM's {found.upper()} engine, but {wanted.upper()} was requested",
                kind="wrong_family",
            )

    def _check_settings(self) -> None:
        for name, found in self.description.settings.items():
            if found.requested != "default" and found.in_force not in (found.requested, UNKNOWN):
                raise self._server.error(
                    f"does not match the configuration: {name} = {json.dumps(found.requested)} was "
                    f"requested, but {json.dumps(found.in_force)} is in force ({found.proof})",
                    kind="setting_not_applied",
                    hint="restart the server with this setting, or remove it from the "
                    "configuration",
                )

    def _check_rescore(self, sampling: Mapping[str, Any]) -> None:
        """Reject a rescore whose prompt logprobs would belong to a different distribution."""
        assert self.description.prompt_logprobs is not None
        prompt = self.description.prompt_logprobs.in_force
        decode = self.description.settings["logprobs_mode"].in_force
        if prompt == UNKNOWN:
            raise self._server.error(
                "returns no prompt_logprobs, so it can only sample", kind="unsupported"
            )
        changed = left_out(sampling, prompt)
        if changed and (prompt, decode) != ("raw", "raw_logprobs"):
            raise self._server.error(
                "scores given tokens by prompt logprobs, which do not include "
                f"{', '.join(changed)}",
                kind="unsupported",
                hint=WAYS_OUT,
            )


def _template(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the chat template, as /tokenize takes them."""
    rest = dict(prompt.get("template", {}))
    tools = {"tools": rest.pop("tools")} if "tools" in rest else {}
    return {**tools, **({"chat_template_kwargs": rest} if rest else {})}
