"""Responses of an OpenAI-compatible server as JSON lines, one response body per line.

Fields as returned by vLLM's server (vllm/entrypoints/openai/completion/protocol.py and
chat_completion/protocol.py, vllm-project/vllm) for requests with `logprobs` and `return_token_ids:
true`, which is needed to get ids:

    {"id": "cmpl-1", "object": "text_completion", "model": "tiny", "choices": [{"index": 0,
     "text": " 7.", "finish_reason": "stop", "prompt_token_ids": [1, 17], "token_ids": [92, 5],
     "logprobs": {"tokens": [" 7", "."], "token_logprobs": [-0.31, -1.2],
                  "top_logprobs": [{" 7": -0.31}, {".": -1.2}]}}]}

A chat response has `logprobs.content` with one object per token, and `prompt_token_ids` next to
`choices`. If the server writes tokens as `token_id:92` (return_tokens_as_token_ids), the
alternatives have ids too and are kept. There is no trainer, so the result has one side.
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
    logprob_list,
    objects,
    text_or_none,
    token_list,
    wanted,
)

Tops = list[list[tuple[str, Any]]]
"""The alternatives of each token, by the server's names."""

NAMED_ID = "token_id:"
NO_IDS = "request token ids from the server: `return_token_ids: true`"
NO_LOGPROBS = "request them from the server: `logprobs`"


def recognise(row: Any) -> bool:
    """Whether the first line of a file is one of these."""
    return isinstance(row, dict) and "choices" in row


def read(paths: Sequence[Path]) -> Iterator[Dumped]:
    """The choices of all responses, in order. Raises InputError."""
    models: dict[str, str] = {}
    for path in paths:
        for number, (place, body) in enumerate(json_rows(path)):
            models.setdefault(str(body.get("model")), place)
            if len(models) > 1:
                (first, _), (other, there) = models.items()
                raise InputError(
                    f"{there}: a response of model {other}, but earlier ones are of model {first}"
                )
            for choice in objects(wanted(body, "choices", place), "choices", place):
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
    columns: dict[str, list[Any]] = {"token_ids": ids, "token_logprobs": logprobs}
    check_lengths({**columns, "top_logprobs": tops} if tops else columns, place)
    message = choice.get("message")
    text = choice.get("text") or (message.get("content") if isinstance(message, dict) else None)
    return Dumped(
        place=place,
        sample_id=sample_id,
        token_ids=[*prompt, *ids],
        sampled=[False] * len(prompt) + [True] * len(ids),
        behaviour=[*([None] * len(prompt)), *logprobs],
        evaluating=None,
        finish_reason=text_or_none(choice.get("finish_reason")),
        text=text if isinstance(text, str) else None,
        alternatives=_alternatives(tops, len(prompt), place),
        texts={
            token: text
            for token, text in zip(ids, tokens, strict=False)
            if not text.startswith(NAMED_ID)
        },
    )


def _plain(found: Mapping[str, Any], place: str) -> tuple[list[str], Logprobs, Tops]:
    """Tokens, logprobs and alternatives of a completion."""
    values = logprob_list(wanted(found, "token_logprobs", place), "token_logprobs", place)
    tokens, tops = (found.get(name) or [] for name in ("tokens", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(tops, list):
        raise InputError(f"{place}: `tokens` and `top_logprobs` must be lists")
    tops = objects([each or {} for each in tops], "top_logprobs", place)
    return [str(token) for token in tokens], values, [list(each.items()) for each in tops]


def _chat(found: Mapping[str, Any], place: str) -> tuple[list[str], Logprobs, Tops]:
    """Tokens, logprobs and alternatives of a chat completion."""
    content = objects(found["content"] or [], "content", place)
    tops = [objects(each.get("top_logprobs") or [], "top_logprobs", place) for each in content]
    values = [logprob(entry.get("logprob"), "logprob", place) for entry in content]
    named = [[(str(top.get("token")), top.get("logprob")) for top in each] for each in tops]
    return [str(entry.get("token")) for entry in content], values, named


def _named_id(token: str) -> int | None:
    number = token.removeprefix(NAMED_ID)
    return int(number) if token != number and number.isdigit() else None


def _alternatives(tops: Tops, prompt: int, place: str) -> Alternatives | None:
    """The alternatives, if they have ids. Texts are not unique and are ignored."""
    pairs = [[(_named_id(token), value) for token, value in each] for each in tops]
    if not any(pairs) or any(token is None for each in pairs for token, _ in each):
        return None
    known = [
        [(token, found) for token, value in each if token is not None
         if (found := logprob(value, "top_logprobs", place)) is not None]
        for each in pairs
    ]  # fmt: skip
    ranked = [sorted(each, key=lambda pair: -pair[1]) for each in known]
    before: list[list[Any]] = [[] for _ in range(prompt)]
    return Alternatives(
        [*before, *(token_list([i for i, _ in each], "tokens", place) for each in ranked)],
        [*before, *([value for _, value in each] for each in ranked)],
    )
