"""What is in force on a server for each of the four parity settings, as far as answers prove it.

Nothing can be read back from a server, and nothing is assumed: what no answer shows is `unknown`.

    logprobs_mode          The first tokens after eight prompts at T = 1 and T = 1/2. The gaps
                           between top-k logprobs double when the returned logprobs include the
                           temperature; what top_k = 1 cuts off has no probability when they
                           include the truncation.
    lm_head_dtype          Logits of half precision lie on a coarse grid, and so do the gaps.
    enable_prefix_caching  Two equal requests, one after the other: `cached_tokens` of the second
                           (`--enable-prompt-tokens-details`), or the server's own count of hits
                           and its own word in /metrics.
    async_scheduling       No answer shows it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from parity_check.traces.engine import UNKNOWN

COLD = 0.5
GRID_BITS = {"bfloat16": 10, "float16": 13}
"""A logit of at least 1/8 (bfloat16) or 1/4 (float16) is a multiple of 2^-bits."""
GRID_ERROR = 4e-6
"""Of a difference of two float32 logprobs of size 10, in nats."""
ROUNDING = 1e-5
HITS = re.compile(r"^vllm:prefix_cache_hits(?:_total)?\{[^}]*\} ([\d.e+]+)$", re.MULTILINE)
CACHE_CONFIG = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')

Row = Mapping[int, float]
Finding = tuple[str | bool, str]


def gaps(row: Row, ids: Sequence[int]) -> list[float]:
    """Differences of these tokens' logprobs to the largest of them, in nats."""
    values = [row[token] for token in ids if math.isfinite(row[token])]
    return [max(values) - value for value in values if value < max(values)]


def gap_ratio(warm: Sequence[Row], cold: Sequence[Row]) -> float:
    """Sum of the gaps at T = 1/2 over their sum at T = 1, of the tokens that both rows name."""
    pairs = [(w, c, sorted(set(w) & set(c))) for w, c in zip(warm, cold, strict=True)]
    total = sum(sum(gaps(w, ids)) for w, _, ids in pairs if ids)
    return sum(sum(gaps(c, ids)) for _, c, ids in pairs if ids) / total if total else math.nan


def tempered(ratio: float) -> bool:
    """Whether logprobs include the temperature; half-way between 1 and 2 on a log scale."""
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
    """`model`, or the dtype that the head must have instead; `dtype` is what the model runs in."""
    coarse = dtype if dtype in GRID_BITS else "bfloat16"
    bits = GRID_BITS[coarse]
    found = [gap * 2**bits for row in warm for gap in gaps(row, list(row))]
    near = sum(abs(gap - round(gap)) <= GRID_ERROR * 2**bits for gap in found)
    if not found:
        return UNKNOWN, "all top logprobs are equal"
    proof = f"{near} of {len(found)} top-k gaps are multiples of 2^-{bits} ({coarse}: all of them)"
    head = coarse if near > len(found) / 2 else "float32"
    return ("model" if head == dtype else head), proof


def prefix_caching(usage: Mapping[str, Any], before: str | None, after: str | None) -> Finding:
    """`usage` of the second of two equal requests, /metrics before the first and after both."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if cached:
        return True, f"the second of two equal requests took {cached} tokens from the cache"
    told = cache_config(after or "").get("enable_prefix_caching")
    hits = _hits(after) - _hits(before)
    if hits > 0:
        return True, f"two equal requests, and /metrics counts {hits:g} more tokens from the cache"
    if told == "False":
        return (
            False,
            "/metrics says enable_prefix_caching=False, and two equal requests hit nothing",
        )
    if cached == 0:
        return False, "the second of two equal requests took 0 tokens from the cache"
    if told == "True":
        return UNKNOWN, "/metrics says on, but the second of two equal requests hit nothing"
    return UNKNOWN, "the server tells neither `cached_tokens` nor hits in /metrics"


def cache_config(metrics: str) -> dict[str, str]:
    """What vLLM says of its cache in /metrics; empty where it says nothing."""
    found = CACHE_CONFIG.search(metrics)
    return dict(LABEL.findall(found[1])) if found else {}


def _hits(metrics: str | None) -> float:
    return sum(map(float, HITS.findall(metrics or "")))
