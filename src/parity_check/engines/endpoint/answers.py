"""Typed values of a server's responses other than completions; see `engines.replies`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from parity_check.engines.replies import Count, Strict, TokenId

TokenName = Annotated[str, Field(pattern=r"^\d{1,10}$")]


class Card(Strict):
    """A model of the server; `max_model_len` and `root` are vLLM's own."""

    id: str
    max_model_len: Annotated[int, Field(gt=2)] | None = None
    root: str | None = None


class Cards(Strict):
    """/models"""

    data: list[Card]


class TokenIds(Strict):
    """/tokenize"""

    tokens: list[TokenId]


class Text(Strict):
    """/detokenize"""

    prompt: str


class VersionTold(Strict):
    """/version"""

    version: str


class RankedLogprob(Strict):
    """The prompt logprob of one token."""

    logprob: float
    rank: Count


class PromptLogprobs(Strict):
    """By position, from the second token on: {token id: logprob and rank}."""

    prompt_logprobs: list[dict[TokenName, RankedLogprob] | None]


class CachedTokens(Strict):
    """The number of prompt tokens from the prefix cache."""

    cached_tokens: Count | None = None


class Usage(Strict):
    """The token usage of a request."""

    prompt_tokens_details: CachedTokens | None = None


class WithUsage(Strict):
    """A completion of which only the usage is read."""

    usage: Usage | None = None
