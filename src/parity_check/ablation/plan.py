"""Which candidate configurations to try, and the effect of each step. Independent of engines.

Drift is measured as mean |Δ| on the reference's tokens. Every step replays the same tokens, so
differences between steps contain no sampling noise. k3 is not used because it grows with exp Δ:
with raw logprobs a single token may dominate it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

import numpy as np

from parity_check.errors import ConfigError, TraceMismatchError, suggestion
from parity_check.measure import stats
from parity_check.measure.accumulator import Accumulator
from parity_check.measure.metrics import COLUMN, PairedChunk
from parity_check.measure.objectives import OBJECTIVES
from parity_check.measure.stats import Estimate, Floats
from parity_check.traces.batch import SampleBatch

Part: TypeAlias = Literal["ladder", "own", "flip"]
Effect: TypeAlias = Literal[
    "changed", "changed unasked", "already so", "not applied", "no effect here", "not known"
]
Refuse: TypeAlias = Callable[[str, Any], str | None]
"""Why an engine does not support this value of a setting; None if it does."""

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Rung:
    """One setting of the ladder, with its other value."""

    setting: str
    value: str | bool
    other: str | bool
    name: str


LADDER = (
    Rung("logprobs_mode", "processed_logprobs", "raw_logprobs", "+ processed_logprobs"),
    Rung("enable_prefix_caching", False, True, "+ prefix caching off"),
    Rung("async_scheduling", False, True, "+ async scheduling off"),
    Rung("lm_head_dtype", "float32", "model", "+ fp32 lm_head"),
)
SETTINGS = tuple(rung.setting for rung in LADDER)
START = "engine defaults"
OWN = "as configured"


@dataclass(frozen=True, slots=True)
class Step:
    """One row of an ablation: a configuration of the candidate.

    `key` and `value` are the change, None for the first step of a part. `directory` has the traces;
    steps with the same configuration share one. `refused` says why the engine cannot run it.
    """

    part: Part
    name: str
    key: str | None
    value: Any
    settings: Mapping[str, Any]
    engine_args: Mapping[str, Any]
    directory: str | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Flip:
    """Values to try for one setting or engine argument."""

    key: str
    values: tuple[Any, ...]


def parse_flip(text: str) -> Flip:
    """Parse `enforce_eager=true,false`; values that are not TOML are strings."""
    key, separator, listed = text.partition("=")
    key, listed = key.strip(), listed.strip()
    if not (separator and key and listed):
        raise ConfigError(f"--flip {text}: expected KEY=VALUE,VALUE…")
    try:
        values = tomllib.loads(f"values = [{listed}]")["values"]
    except tomllib.TOMLDecodeError:
        values = [value.strip() for value in listed.split(",")]
    return Flip(key, tuple(values))


def plan(
    settings: Mapping[str, Any],
    engine_args: Mapping[str, Any],
    *,
    only: Sequence[str] = (),
    flips: Sequence[Flip] = (),
    singly: bool = True,
    refuse: Refuse = lambda _key, _value: None,
) -> tuple[Step, ...]:
    """The steps in order: the ladder, the candidate as configured, then single flips.

    `only` selects what to change (default: all of SETTINGS and `flips`). `singly` False skips the
    single flips of SETTINGS. Raises ConfigError for an unknown name in `only`.
    """
    requested: dict[str, tuple[Any, ...]] = {}
    for flip in flips:
        requested[flip.key] = (*requested.get(flip.key, ()), *flip.values)
    picked = _picked(only, requested)
    rungs = [rung for rung in LADDER if rung.setting in picked]
    steps = list(_ladder(rungs, engine_args, refuse))
    changes = {
        **{rung.setting: (_flipped(rung, settings),) for rung in rungs if singly},
        **{key: values for key, values in requested.items() if key in picked},
    }
    if changes:
        steps += _singly(settings, engine_args, changes, refuse)
    return tuple(_with_directories(steps))


def _picked(only: Sequence[str], requested: Mapping[str, Any]) -> set[str]:
    known = {*SETTINGS, *requested}
    for name in only:
        if name not in known:
            raise ConfigError(
                f"--only {name}: neither a setting nor a --flip",
                hint=suggestion(name, [*SETTINGS, *requested]),
            )
    left_out = sorted(set(requested) - set(only)) if only else []
    if left_out:
        raise ConfigError(f"--only excludes --flip {left_out[0]}", hint=f"add --only {left_out[0]}")
    return set(only) or known


def _ladder(
    rungs: Sequence[Rung], engine_args: Mapping[str, Any], refuse: Refuse
) -> Iterable[Step]:
    """From the engine's defaults upwards. A refused rung is not included in later ones."""
    if not rungs:
        return
    settings: dict[str, Any] = dict.fromkeys(SETTINGS, DEFAULT)
    yield Step("ladder", START, None, None, settings, engine_args)
    for rung in rungs:
        wanted = {**settings, rung.setting: rung.value}
        reason = refuse(rung.setting, rung.value)
        yield Step(
            "ladder", rung.name, rung.setting, rung.value, wanted, engine_args, refused=reason
        )
        settings = settings if reason else wanted


def _flipped(rung: Rung, settings: Mapping[str, Any]) -> str | bool:
    return rung.other if settings[rung.setting] == rung.value else rung.value


def _singly(
    settings: Mapping[str, Any],
    engine_args: Mapping[str, Any],
    changes: Mapping[str, Sequence[Any]],
    refuse: Refuse,
) -> Iterable[Step]:
    yield Step("own", OWN, None, None, settings, engine_args)
    for key, values in changes.items():
        for value in values:
            of_engine = key not in SETTINGS
            yield Step(
                "flip",
                f"{key} = {written(value)}",
                key,
                value,
                settings if of_engine else {**settings, key: value},
                {**engine_args, key: value} if of_engine else engine_args,
                refused=None if of_engine else refuse(key, value),
            )


def written(value: Any) -> str:
    """A value as in a configuration, but strings without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def _with_directories(steps: Iterable[Step]) -> Iterable[Step]:
    """Assign a directory to every configuration that can run; equal ones share it."""
    known: dict[str, str] = {}
    for step in steps:
        if step.refused:
            yield step
            continue
        configuration = json.dumps([dict(step.settings), dict(step.engine_args)], sort_keys=True)
        yield replace(step, directory=known.setdefault(configuration, f"step-{len(known) + 1}"))


def effect(
    key: str, value: Any, before: Mapping[str, Any], after: Mapping[str, Any], differing: int
) -> Effect:
    """The effect of a step, from the bits of the logprobs and the facts that engines report.

    `before` and `after` are the values in force, by setting or argument name. If no bit differs,
    these facts distinguish a value without effect from one that was not applied. If bits differ but
    the fact does not, the engine is not reproducible across restarts.
    """
    same = key in after and before.get(key) == after[key]
    if differing:
        return "changed unasked" if same else "changed"
    if key not in after:
        return "not known"
    if not same:
        return "no effect here"
    return "already so" if value == DEFAULT or str(value) == str(after[key]) else "not applied"


def differing_tokens(before: Iterable[SampleBatch], after: Iterable[SampleBatch]) -> int:
    """How many tokens have logprobs that are not bit-identical between two replays of a trace."""
    count = 0
    for left, right in zip_longest(before, after):
        if left is None or right is None or len(left.logprobs) != len(right.logprobs):
            raise TraceMismatchError("two steps replayed different tokens")
        bits = (left.logprobs.view(np.uint32), right.logprobs.view(np.uint32))
        count += int(np.count_nonzero(bits[0] != bits[1]))
    return count


@dataclass(frozen=True, slots=True)
class Drift:
    """The |Δ| of one replay: sum and usable tokens by cluster [G]."""

    abs_log_ratio: Floats
    tokens: Floats

    def value(self) -> float:
        """Mean |Δ| per token, in nats."""
        return float(self.abs_log_ratio.sum() / self.tokens.sum())

    def by_cluster(self) -> Floats:
        """The contribution of each cluster to the value [G]."""
        return np.asarray(self.abs_log_ratio / self.tokens.sum())


def drift(chunks: Iterable[PairedChunk]) -> Drift:
    """The drift of one replay, with the cluster numbers of the chunks."""
    sums = Accumulator(OBJECTIVES.values(), (1.0,))
    for chunk in chunks:
        sums.add(chunk)
    totals = sums.part("totals")
    return Drift(totals[:, COLUMN["abs_log_ratio"]], totals[:, COLUMN["count"]])


def removed_share(initial: Drift, before: Drift, after: Drift, level: float) -> Estimate | None:
    """The share of the initial drift that a step removes: (before - after) / initial.

    Negative if the step adds drift. The shares of a ladder sum to 1 - last / first. The interval is
    that of a ratio of sums over clusters. None if there is no drift to remove.
    """
    if initial.value() == 0.0:
        return None
    present = initial.tokens > 0
    sums = (before.by_cluster() - after.by_cluster())[present]
    weights = initial.by_cluster()[present]
    low = high = None
    note = stats.too_few_clusters(initial.tokens[present])
    if not note:
        low, high = (float(end) for end in stats.skewed_interval(sums, weights, level))
    return Estimate(
        "removed_share", "reference", float(sums.sum() / weights.sum()), low, high, level,
        round(after.tokens.sum()), len(sums), "share", note,
        float(stats.effective_clusters(initial.tokens[present])),
    )  # fmt: skip


def at_floor(value: Estimate, floor: Estimate | None) -> bool:
    """Whether a mean |Δ| is within the noise floor."""
    if floor is None:
        return False
    highest = floor.value if floor.ci_high is None else floor.ci_high
    return value.value <= max(floor.value, highest)
