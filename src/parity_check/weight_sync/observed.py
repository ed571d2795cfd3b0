"""Observations of an engine during weight updates, as arrays: requests, weights, updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Phase = Literal["in_flight", "reissued", "fresh"]
Mode = Literal["keep", "wait", "abort"]
Handling = Literal["kept", "recomputed", "drained", "aborted", "unclear"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the scenario. Arrays are per generated token.

    `switches` are the tokens before which the weights changed, `started` the version it began
    with. `cold` [versions, tokens] and `kept` [tokens] are its logprobs in the replays: by a
    cold engine of each version, and by the new weights over the kept KV.
    """

    sample_id: str
    prompt_id: str
    phase: Phase
    prompt_tokens: int
    wanted: int
    finish_reason: str
    cached_tokens: int
    started: int
    switches: tuple[int, ...]
    logprobs: Floats
    cold: Floats
    kept: Floats | None = None

    @property
    def versions(self) -> Ints:
        """Policy version [tokens] under which each token was sampled."""
        places = np.arange(len(self.logprobs))
        return self.started + np.searchsorted(self.switches, places, side="right")

    @property
    def lags(self) -> Ints:
        """How many updates each token [tokens] is behind at the end of its request."""
        return self.started + len(self.switches) - self.versions

    def to_cold(self, version: int | None = None) -> Floats:
        """[tokens] |Δ| to the cold engine of a version, by default of each token's own."""
        own = self.versions if version is None else version
        distance: Floats = np.abs(self.cold[own, np.arange(len(self.logprobs))] - self.logprobs)
        return distance

    def to_kept(self) -> Floats | None:
        """[tokens] |Δ| to each token's weights over the kept KV; None where not measured."""
        return None if self.kept is None else np.abs(self.kept - self.logprobs)


@dataclass(frozen=True, slots=True)
class Weights:
    """What an engine computes with: digests by parameter, and the head's logits.

    `head` are logits for fixed hidden states; None where the model has no lm_head to probe.
    """

    parameters: Mapping[str, str]
    head: Floats | None
    head_dtype: str


@dataclass(frozen=True, slots=True)
class Update:
    """One update as the engine ran it; times in seconds. `standstill_s`: until it had stopped."""

    checkpoint: str
    loader: str
    requests_in_flight: int
    requests_held: int
    tokens_held: int
    cache_resets: tuple[bool, ...]
    preempted: int
    standstill_s: float
    load_s: float
    paused_s: float


@dataclass(frozen=True, slots=True)
class EngineRun:
    """The scenario on one engine, with its replays; `cold` holds the weights of each version."""

    role: str
    family: str
    declared: Handling
    clear_cache: bool
    prefix_caching: bool
    block_size: int
    requests: tuple[Request, ...]
    updates: tuple[Update, ...]
    preemptions: int
    before: Weights
    after: Weights
    cold: tuple[Weights, ...]

    def of(self, *phases: Phase) -> tuple[Request, ...]:
        return tuple(request for request in self.requests if request.phase in phases)

    @property
    def newest(self) -> int:
        return len(self.cold) - 1

    @property
    def refused_reset(self) -> bool:
        return any(not answer for update in self.updates for answer in update.cache_resets)


def declared(mode: Mode, clear_cache: bool) -> Handling:
    """What a pause mode declares about the requests in flight."""
    if mode == "keep":
        return "recomputed" if clear_cache else "kept"
    return "drained" if mode == "wait" else "aborted"


def lag_shares(requests: Sequence[Request], newest: int) -> tuple[float, ...]:
    """Share of the tokens at each lag, from 0 to the number of updates."""
    lags = np.concatenate([np.zeros(0, np.int64), *(request.lags for request in requests)])
    counts = np.bincount(lags, minlength=newest + 1)
    return tuple((counts / max(1, len(lags))).tolist())
