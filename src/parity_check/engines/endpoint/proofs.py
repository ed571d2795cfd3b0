"""The four parity settings in force on a server, as far as its responses prove them.

A server's settings cannot be read back and are not assumed: without a proof they are `unknown`.

    logprobs_mode          The first tokens after eight prompts at T = 1 and T = 1/2. The gaps
                           between top-k logprobs double when the returned logprobs include the
                           temperature; what top_k = 1 cuts off has no probability when they
                           include the truncation.
    lm_head_dtype          Logits of half precision lie on a coarse grid, and so do the gaps.
    enable_prefix_caching  Two equal requests, one after the other: `cached_tokens` of the second
                           (`--enable-prompt-tokens-details`), or the count of cache hits and
                           the setting in /metrics.
    async_scheduling       No answer shows it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from parity_check.engines.endpoint.answers import Usage
from parity_check.traces.engine import UNKNOWN

COLD = 0.5
GRID_BITS = {"bfloat16": 10, "float16": 13}
"""A logit of at least 1/8 (bfloat16) or 1/4 (float16) is a multiple of 2^-bits."""
GRID_ERROR = 4e-6
"""Error of a difference of two float32 logprobs of size 10, in nats."""
ROUNDING = 1e-5
HITS = re.compile(
    r"^vllm:prefix_cache_hits(?:_total)?\{[^}]*\} (\d+(?:\.\d+)?(?:e[+-]?\d+)?)$", re.MULTILINE
)
CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')

Row = Mapping[int, float]
Finding = tuple[str | bool, str]


def gaps(row: Row, ids: Sequence[int]) -> list[float]:
    """Largest logprob of these tokens minus each of the others, in nats."""
    values = [row[token] for token in ids if math.isfinite(row[token])]
    return [max(values) - value for value in values if value < max(values)]


def gap_ratio(warm: Sequence[Row], cold: Sequence[Row]) -> float:
    """Sum of the gaps at T = 1/2 over their sum at T = 1, for the tokens in both rows."""
    pairs = [(w, c, sorted(set(w) & set(c))) for w, c in zip(warm, cold, strict=True)]
    total = sum(sum(gaps(w, ids)) for w, _, ids in pairs if ids)
    return sum(sum(gaps(c, ids)) for _, c, ids in pairs if ids) / total if total else math.nan


def tempered(ratio: float) -> bool:
    """Whether logprobs include the temperature: ratio above the geometric mean of 1 and 2."""
    return ratio > math.sqrt(1 / COLD)


def logprobs_mode(warm: Sequence[Row], cold: Sequence[Row], cut: Row) -> Finding:
    ratio = gap_ratio(warm, cold)
    left = sum(map(math.isfinite, cut.values()))
    proof = (
        f"gaps at T = {COLD} are {ratio:.3f} times those at T = 1 (processed: {1 / COLD:g}, raw: "
        f"1); top_k = 1 leaves {left} of {len(cut)} top logprobs finite (raw: all)"
    )
    if math.isnan(ratio):
        return UNKNOWN, "all top logprobs are equal"
    if any(value > ROUNDING for row in warm for value in row.values()):
        return ("processed_logits" if tempered(ratio) else "raw_logits"), proof
    truncated = left < len(cut)
    if tempered(ratio) and truncated:
        return "processed_logprobs", proof
    if tempered(ratio) or truncated:
        return "partly_processed_logprobs", proof
    return "raw_logprobs", proof


def lm_head_dtype(warm: Sequence[Row], dtype: str) -> Finding:
    """`model`, or the dtype that the head must have instead. `dtype` is that of the model."""
    coarse = dtype if dtype in GRID_BITS else "bfloat16"
    bits = GRID_BITS[coarse]
    found = [gap * 2**bits for row in warm for gap in gaps(row, list(row))]
    near = sum(abs(gap - round(gap)) <= GRID_ERROR * 2**bits for gap in found)
    if not found:
        return UNKNOWN, "all top logprobs are equal"
    proof = f"{near} of {len(found)} top-k gaps are multiples of 2^-{bits} ({coarse}: all of them)"
    head = coarse if near > len(found) / 2 else "float32"
    return ("model" if head == dtype else head), proof


def prefix_caching(usage: Usage, before: str | None, after: str | None) -> Finding:
    """From `usage` of the second of two identical requests, and /metrics before and after both."""
    details = usage.prompt_tokens_details
    cached = None if details is None else details.cached_tokens
    if cached:
        return True, f"the second of two identical requests took {cached} tokens from the cache"
    reported = cache_config(after or "").get("enable_prefix_caching")
    hits = _hits(after) - _hits(before)
    if hits > 0:
        return True, f"after two identical requests, /metrics counts {hits:g} more tokens from the "
        "cache"
    if reported == "False":
        return (
            False,
            "/metrics reports enable_prefix_caching=False, and two identical requests had no "
            "cache hit",
        )
    if cached == 0:
        return False, "the second of two identical requests took 0 tokens from the cache"
    if reported == "True":
        return UNKNOWN, "/metrics reports on, but the second of two identical requests had no "
        "cache hit"
    return UNKNOWN, "the server reports neither `cached_tokens` nor cache hits in /metrics"


def cache_config(metrics: str) -> dict[str, str]:
    """vLLM's cache configuration in /metrics; empty if it is not there."""
    found = CACHE_CONFIG.search(metrics)
    return dict(LABEL.findall(found[1])) if found else {}


def _hits(metrics: str | None) -> float:
    return sum(map(float, HITS.findall(metrics or "")))
