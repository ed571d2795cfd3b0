"""Responses of an OpenAI-compatible server as JSON lines, a response body a line.

Fields as vLLM's server answers (vllm/entrypoints/openai/completion/protocol.py and
chat_completion/protocol.py, vllm-project/vllm), asked with `logprobs`, and with
`return_token_ids: true`, without which a response has no ids:

    {"id": "cmpl-1", "object": "text_completion", "model": "tiny", "choices": [{"index": 0,
     "text": " 7.", "finish_reason": "stop", "prompt_token_ids": [1, 17], "token_ids": [92, 5],
     "logprobs": {"tokens": [" 7", "."], "token_logprobs": [-0.31, -1.2],
                  "top_logprobs": [{" 7": -0.31}, {".": -1.2}]}}]}

A chat response has `logprobs.content` with one object a token, and `prompt_token_ids` beside
`choices`. Where the server writes tokens as `token_id:92` (return_tokens_as_token_ids), its
alternatives have ids too, and are kept. There is no trainer: the result is one side alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity_check.errors import InputError
from parity_check.importers.dump import (
    Alternatives,
    Dumped,
    Logprobs,
    check_lengths,
    json_rows,
    logprob,
    token_list,
    wanted,
)

NAMED_ID = "token_id:"
NO_IDS = "ask the server for ids: `return_token_ids: true`"
NO_LOGPROBS = "ask the server for them: `logprobs`"


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The choices of all responses, in their order. Raises InputError."""
    models: dict[str, str] = {}
    for path in paths:
        for number, (place, body) in enumerate(json_rows(path)):
            models.setdefault(str(body.get("model")), place)
            if len(models) > 1:
                (first, _), (other, there) = models.items()
                raise InputError(f"{there}: a response of model {other} among those of {first}")
            for choice in _list(wanted(body, "choices", place), "choices", place):
                name = f"{path.stem}/{number}/{choice.get('index', 0)}"
                yield _sequence(body, choice, name, place)


def _sequence(
    body: Mapping[str, Any], choice: Mapping[str, Any], sample_id: str, place: str
) -> Dumped:
    found = wanted(choice, "logprobs", place, NO_LOGPROBS)
    if not isinstance(found, dict):
        raise InputError(f"{place}: `logprobs` is not an object")
    tokens, logprobs, tops = _chat(found, place) if "content" in found else _plain(found, place)
    ids = choice.get("token_ids")
    if ids is None:
        ids = [_named_id(token) for token in tokens]
        if None in ids:
            raise InputError(f"{place}: `token_ids` is missing", hint=NO_IDS)
    prompt = choice.get("prompt_token_ids") or body.get("prompt_token_ids")
    prompt = wanted({"prompt_token_ids": prompt}, "prompt_token_ids", place, NO_IDS)
    ids = token_list(ids, "token_ids", place)
    prompt = token_list(prompt, "prompt_token_ids", place)
    check_lengths({"token_ids": ids, "token_logprobs": logprobs}, place)
    text = choice.get("text") or (choice.get("message") or {}).get("content")
    return Dumped(
        place=place,
        sample_id=sample_id,
        token_ids=[*prompt, *ids],
        sampled=[False] * len(prompt) + [True] * len(ids),
        behaviour=[*([None] * len(prompt)), *logprobs],
        evaluating=None,
        finish_reason=choice.get("finish_reason"),
        text=text if isinstance(text, str) else None,
        alternatives=_alternatives(tops, len(prompt)),
        texts={
            token: text
            for token, text in zip(ids, tokens, strict=False)
            if not text.startswith(NAMED_ID)
        },
    )


def _plain(found: Mapping[str, Any], place: str) -> tuple[list[str], Logprobs, list[Any]]:
    """Tokens, logprobs and alternatives of a completion."""
    values = _list(wanted(found, "token_logprobs", place), "token_logprobs", place)
    tokens = [str(token) for token in found.get("tokens") or []]
    tops = [each or {} for each in found.get("top_logprobs") or []]
    return tokens, [logprob(each, "token_logprobs", place) for each in values], tops


def _chat(found: Mapping[str, Any], place: str) -> tuple[list[str], Logprobs, list[Any]]:
    """The same of a chat completion."""
    content = _list(found["content"] or [], "content", place)
    tops = [
        {each["token"]: each["logprob"] for each in entry.get("top_logprobs") or []}
        for entry in content
    ]
    values = [logprob(entry.get("logprob"), "logprob", place) for entry in content]
    return [str(entry.get("token")) for entry in content], values, tops


def _list(value: Any, name: str, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{place}: `{name}` is not a list")
    return value


def _named_id(token: str) -> int | None:
    number = token.removeprefix(NAMED_ID)
    return int(number) if token != number and number.isdigit() else None


def _alternatives(tops: Sequence[Mapping[str, float]], prompt: int) -> Alternatives | None:
    """Alternatives that are named by their ids; texts are not unique, and are left out."""
    ids = [[_named_id(token) for token in each] for each in tops]
    if not any(ids) or any(token is None for each in ids for token in each):
        return None
    ranked = [
        sorted(zip(each, top.values(), strict=True), key=lambda pair: -pair[1])
        for each, top in zip(ids, tops, strict=True)
    ]
    before: list[list[Any]] = [[] for _ in range(prompt)]
    return Alternatives(
        [*before, *([i for i, _ in pairs if i is not None] for pairs in ranked)],
        [*before, *([value for _, value in pairs] for pairs in ranked)],
    )
