"""OpenAI's completions API with vLLM's extensions: build requests and parse responses.

`prompt` takes token ids; `return_token_ids` and `return_tokens_as_token_ids` return ids instead of
text. vLLM writes logprobs as the shortest decimals that round-trip to the same float32, so no
precision is lost, and writes -9999 for -inf, which JSON cannot represent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from parity_check.engines.endpoint.answers import PromptLogprobs, RankedLogprob
from parity_check.engines.replies import Sampled, Scored, UnusableError, typed

FLOOR = -9999.0
"""vLLM's placeholder for -inf: a token that truncation removed."""
TOKEN = "token_id:"


@contextmanager
def _shape_checked() -> Iterator[None]:
    try:
        yield
    except UnusableError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UnusableError(f"not a completion ({type(error).__name__}: {error})") from None


def generate_body(
    model: str, request: Mapping[str, Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Sample one completion. Send every sampling parameter, because servers have own defaults."""
    return {
        **_common(model, parameters["sampling"]),
        "prompt": request["prompt_token_ids"],
        "max_tokens": parameters["max_tokens"],
        "ignore_eos": parameters["ignore_eos"],
        "logprobs": parameters["top_logprobs"],
    }


def rescore_body(
    model: str, request: Mapping[str, Any], parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Score prompt and completion as one prompt; vLLM requires one new token."""
    return {
        **_common(model, parameters["sampling"]),
        "prompt": request["prompt_token_ids"] + request["completion_token_ids"],
        "max_tokens": 1,
        "ignore_eos": True,
        "prompt_logprobs": parameters["top_logprobs"],
    }


def _common(model: str, sampling: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        **sampling,
        "n": 1,
        "stop": [],
        "add_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


@_shape_checked()
def read_generated(
    answer: Any, model: str, request: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Sampled:
    """A row of `generate`. Raises UnusableError."""
    choice = _choice(answer, model, request["prompt_token_ids"])
    columns = choice.get("logprobs")
    if not isinstance(columns, Mapping) or not columns.get("token_logprobs"):
        raise UnusableError("it has no logprobs")
    named = [_token_id(text) for text in columns["tokens"]]
    tokens = choice.get("token_ids") or named
    if tokens != named:
        raise UnusableError(f"its {len(tokens)} token ids differ from those of its logprobs")
    logprobs = columns["token_logprobs"]
    if len(logprobs) != len(tokens):
        raise UnusableError(f"{len(logprobs)} logprobs for {len(tokens)} tokens")
    finish, limit = choice.get("finish_reason"), parameters["max_tokens"]
    if finish not in ("stop", "length"):
        raise UnusableError(f"it ends after {len(tokens)} tokens with finish_reason {finish!r}")
    if len(tokens) > limit or (len(tokens) < limit and finish == "length"):
        raise UnusableError(f"{len(tokens)} tokens instead of the requested {limit}")
    top = parameters["top_logprobs"]
    ranked = [
        _alternatives(token, entries, top)
        for token, entries in zip(tokens, columns["top_logprobs"], strict=True)
    ]
    return typed(
        Sampled,
        {
            "sample_id": request["sample_id"],
            "token_ids": tokens,
            "finish_reason": finish,
            "text": choice.get("text"),
            "logprobs": logprobs,
            "top_token_ids": [[token for token, _ in row] for row in ranked],
            "top_logprobs": [[value for _, value in row] for row in ranked],
        },
    )


@_shape_checked()
def read_rescored(
    answer: Any, model: str, request: Mapping[str, Any], parameters: Mapping[str, Any]
) -> Scored:
    """A row of `rescore`. Raises UnusableError."""
    completion = request["completion_token_ids"]
    sent = request["prompt_token_ids"] + completion
    rows = read_prompt_logprobs(answer, model, sent)[-len(completion) :]
    top = parameters["top_logprobs"]
    ranked = [
        sorted((entry.rank, token, _finite(entry.logprob)) for token, entry in row.items())
        for row in rows
    ]
    return typed(
        Scored,
        {
            "sample_id": request["sample_id"],
            "logprobs": [
                row[token].logprob if token in row else None
                for token, row in zip(completion, rows, strict=True)
            ],
            "top_token_ids": [[token for _, token, _ in row[:top]] for row in ranked],
            "top_logprobs": [[value for _, _, value in row[:top]] for row in ranked],
        },
    )


@_shape_checked()
def read_prompt_logprobs(
    answer: Any, model: str, sent: Sequence[int]
) -> list[Mapping[int, RankedLogprob]]:
    """{token id: {logprob, rank}} of every token except the first. Raises UnusableError."""
    choice = _choice(answer, model, sent)
    if not choice.get("prompt_logprobs"):
        raise UnusableError("it has no prompt_logprobs")
    rows = typed(PromptLogprobs, choice).prompt_logprobs
    found = [row for row in rows[1:] if row is not None]
    if len(rows) != len(sent) or len(found) != len(rows) - 1:
        raise UnusableError(f"{len(rows)} prompt_logprobs for {len(sent)} tokens")
    return [{int(token): entry for token, entry in row.items()} for row in found]


def _choice(answer: Any, model: str, sent: Sequence[int]) -> Mapping[str, Any]:
    """The only choice of a response, after checking model and prompt."""
    if not isinstance(answer, Mapping) or len(answer.get("choices") or ()) != 1:
        raise UnusableError("not a completion with one choice")
    if answer.get("model") != model:
        raise UnusableError(f"it comes from the model {answer.get('model')!r}, not {model!r}")
    choice: Mapping[str, Any] = answer["choices"][0]
    returned = choice.get("prompt_token_ids")
    if returned is None:  # before 0.10.2 only the number of tokens can be checked
        count = (answer.get("usage") or {}).get("prompt_tokens")
        if count != len(sent):
            raise UnusableError(
                f"the server read {count} prompt tokens instead of the {len(sent)} sent"
            )
    elif list(returned) != list(sent):
        place = next(
            (i for i, pair in enumerate(zip(sent, returned, strict=False)) if pair[0] != pair[1]),
            min(len(sent), len(returned)),
        )
        found = returned[place] if place < len(returned) else "nothing"
        given = sent[place] if place < len(sent) else "nothing"
        raise UnusableError(
            f"the server tokenized the prompt again: token {place} is {found}, but {given} was sent"
        )
    return choice


def _token_id(text: Any) -> int:
    if not isinstance(text, str) or not text.removeprefix(TOKEN).isdigit():
        raise UnusableError(
            f"it has token texts instead of ids ({text!r}): the server does not support "
            "return_tokens_as_token_ids"
        )
    return int(text.removeprefix(TOKEN))


def _alternatives(token: int, entries: Any, top: int) -> list[tuple[int, float]]:
    """The `top` likeliest tokens, by rank.

    A response lists the sampled token first, then the likeliest by rank. A sampled token that is
    among the likeliest is listed only once, so sort it in by its logprob.
    """
    if not isinstance(entries, Mapping):
        return []
    found = [(_token_id(name), _finite(value)) for name, value in entries.items()]
    if len(found) > top:
        return [entry for entry in found if entry[0] != token][:top]
    return sorted(found, key=lambda entry: -entry[1])


def _finite(logprob: float) -> float:
    """An alternative's logprob, with the placeholder turned back into -inf."""
    return -math.inf if logprob <= FLOOR else logprob
