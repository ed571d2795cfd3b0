"""Probe a server with a few fixed requests whose responses prove the settings in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.version import InvalidVersion, Version

from parity_check.engines.endpoint import proofs
from parity_check.engines.endpoint.answers import Usage, VersionTold, WithUsage
from parity_check.engines.endpoint.completions import (
    generate_body,
    read_generated,
    read_prompt_logprobs,
    rescore_body,
)
from parity_check.engines.endpoint.proofs import COLD, Finding, Row
from parity_check.engines.endpoint.server import Call, Server
from parity_check.engines.replies import UnusableError
from parity_check.traces.engine import UNKNOWN, Fact

ONLY_V1_SINCE = Version("0.11")
PLAIN = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""Sampling parameters that do not change the distribution."""
STEPS = 8
TOP = 5
REPEATED = 300
"""Tokens of the repeated prompt: two blocks of 128, the largest common block size."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server reports about itself, and what its responses prove."""

    version: str
    family: str
    prompt_logprobs: Fact
    """The distribution of prompt logprobs: raw, processed or unknown."""
    cache: Mapping[str, str]
    settings: Mapping[str, Finding]


def probe(server: Server, model: str, dtype: str, longest: int) -> Facts:
    """Probe a server. `dtype` is the configured one, `longest` is in tokens. Raises EngineError."""
    told = server.ask("load", Call("/version", optional=True))
    version: str = UNKNOWN
    if told is not None:
        version = server.read("load", "/version", VersionTold, told).version
    warm, cold, cut = _first_tokens(server, model)
    prompt_logprobs = _prompt_logprobs(server, model)
    caching, metrics = _prefix_cache(server, model, min(REPEATED, longest - 2))
    return Facts(
        version=version,
        family=_family(version, prompt_logprobs.in_force),
        prompt_logprobs=prompt_logprobs,
        cache=proofs.cache_config(metrics),
        settings={
            "logprobs_mode": proofs.logprobs_mode(warm, cold, cut),
            "enable_prefix_caching": caching,
            "async_scheduling": (UNKNOWN, "no response of a server shows it"),
            "lm_head_dtype": proofs.lm_head_dtype(warm, dtype),
        },
    )


def fixed_ids(length: int, turn: int = 0) -> list[int]:
    """Plain tokens of any vocabulary: small ids after the special tokens at its start."""
    return [100 + (37 * (place + turn)) % 97 for place in range(length)]


def _first_tokens(server: Server, model: str) -> tuple[list[Row], list[Row], Row]:
    """Top-k logprobs of the first token, for each prompt at T = 1 and T = 1/2, and at top_k = 1."""
    prompts = [fixed_ids(STEPS, turn) for turn in range(STEPS)]
    plans: list[tuple[list[int], Mapping[str, float]]] = [
        *((prompt, PLAIN) for prompt in prompts),
        *((prompt, {**PLAIN, "temperature": COLD}) for prompt in prompts),
        (prompts[0], {**PLAIN, "top_k": 1}),
    ]
    rows: list[Row] = [{}] * len(plans)

    def question(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        prompt, sampling = plans[number]
        parameters = {"sampling": sampling, "max_tokens": 1, "ignore_eos": True}
        return (
            {"sample_id": "probe", "prompt_token_ids": prompt},
            {**parameters, "top_logprobs": TOP},
        )

    def take(number: int, answer: Any) -> None:
        try:
            row = read_generated(answer, model, *question(number))
        except UnusableError as error:
            raise server.bad_answer("load", "a probe", error) from None
        ranked = zip(row.top_token_ids[0], row.top_logprobs[0], strict=True)
        rows[number] = {token: value for token, value in ranked if value is not None}

    bodies = (generate_body(model, *question(number)) for number in range(len(plans)))
    server.send("load", [Call("completions", body, "probe") for body in bodies], take)
    return rows[:STEPS], rows[STEPS : 2 * STEPS], rows[2 * STEPS]


def _prompt_logprobs(server: Server, model: str) -> Fact:
    """The distribution of prompt logprobs, and the proof."""
    prompt = fixed_ids(STEPS)
    request = {"prompt_token_ids": prompt, "completion_token_ids": []}
    rows: list[list[Row]] = []
    for temperature in (1.0, COLD):
        parameters = {"sampling": {**PLAIN, "temperature": temperature}, "top_logprobs": TOP}
        body = rescore_body(model, request, parameters)
        answer = server.ask("load", Call("completions", body, "probe"))
        try:
            found = read_prompt_logprobs(answer, model, prompt)
        except UnusableError as error:
            return Fact(UNKNOWN, str(error))
        rows.append([{token: entry.logprob for token, entry in row.items()} for row in found])
    ratio = proofs.gap_ratio(*rows)
    proof = f"gaps at T = {COLD} are {ratio:.3f} times those at T = 1"
    return Fact("processed" if proofs.tempered(ratio) else "raw", proof)


def _prefix_cache(server: Server, model: str, length: int) -> tuple[Finding, str]:
    """The finding of two identical requests, and the text of /metrics (empty if there is none)."""
    request = {"prompt_token_ids": fixed_ids(length)}
    parameters = {"sampling": PLAIN, "max_tokens": 1, "ignore_eos": True, "top_logprobs": 0}
    call = Call("completions", generate_body(model, request, parameters), "probe")
    before = _metrics(server)
    server.ask("load", call)
    second = server.ask("load", call)
    after = _metrics(server)
    usage = server.read("load", "a probe", WithUsage, second).usage or Usage()
    return proofs.prefix_caching(usage, before, after), after


def _metrics(server: Server) -> str:
    found = server.ask("load", Call("/metrics", optional=True))
    return found if isinstance(found, str) else ""


def _family(version: str, prompt_logprobs: str) -> str:
    """By the version; else by prompt logprobs, to which only V0 applies the temperature."""
    try:
        if Version(version) >= ONLY_V1_SINCE:
            return "v1"
    except InvalidVersion:
        pass
    return {"processed": "v0", "raw": "v1"}.get(prompt_logprobs, UNKNOWN)
