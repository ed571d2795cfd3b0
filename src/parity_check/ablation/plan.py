"""Which configurations of the candidate to try, and what each step did; knows nothing of engines.

Drift is measured as mean |Δ| on the reference's tokens: every step replays the same ones, so what
moves between two steps is not sampling noise. Not as k3, which grows with exp Δ: of raw logprobs
one token may carry nearly all of it, and a share would be that token's.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

import numpy as np

from parity_check.errors import ConfigError, TraceMismatchError
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
"""Why an engine cannot be asked for this value of a setting; None where it can."""

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Rung:
    """One setting of the ladder, and the other value that it may have."""

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

    `key` and `value` are what it changes, None for the first of its part. `directory` is where its
    traces are; steps of the same configuration share one. `refused` says why the engine cannot
    run it.
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
    """Values to try of one setting, or of one argument of the engine."""

    key: str
    values: tuple[Any, ...]


def parse_flip(text: str) -> Flip:
    """`enforce_eager=true,false`; values that are no TOML are taken as strings."""
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
    """The steps, in their order: the ladder, the candidate as it is, its settings one by one.

    `only` picks what is changed, all of SETTINGS and of `flips` when empty; `singly` False leaves
    out the flips that were not asked for by name. Raises ConfigError for an unknown pick, and
    when nothing is left to do.
    """
    asked: dict[str, tuple[Any, ...]] = {}
    for flip in flips:
        asked[flip.key] = (*asked.get(flip.key, ()), *flip.values)
    picked = _picked(only, asked)
    rungs = [rung for rung in LADDER if rung.setting in picked]
    steps = list(_ladder(rungs, engine_args, refuse))
    changes = {
        **{rung.setting: (_flipped(rung, settings),) for rung in rungs if singly},
        **{key: values for key, values in asked.items() if key in picked},
    }
    if changes:
        steps += _singly(settings, engine_args, changes, refuse)
    return tuple(_with_directories(steps))


def _picked(only: Sequence[str], asked: Mapping[str, Any]) -> set[str]:
    known = {*SETTINGS, *asked}
    for name in only:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"--only {name}: no such setting, and no --flip of that name",
                hint=f"did you mean {near[0]}?" if near else "one of: " + ", ".join(SETTINGS),
            )
    left_out = sorted(set(asked) - set(only)) if only else []
    if left_out:
        raise ConfigError(
            f"--only leaves out --flip {left_out[0]}", hint=f"add --only {left_out[0]}"
        )
    return set(only) or known


def _ladder(
    rungs: Sequence[Rung], engine_args: Mapping[str, Any], refuse: Refuse
) -> Iterable[Step]:
    """From the engine's defaults upwards; a rung that it cannot stand on is left out above."""
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
    """A value as a configuration spells it, strings without their quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def _with_directories(steps: Iterable[Step]) -> Iterable[Step]:
    """A directory for every configuration that can run, the same for equal ones."""
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
    """What a step did, from the logprobs that differ in a bit and the facts that engines report.

    `before` and `after` are what was in force, by the name of the setting or argument. Where no
    bit differs, the facts tell a value that changed nothing from one that was never applied; where
    bits differ although the fact did not, the engine does not repeat itself from start to start.
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
    """How many tokens of two replays of one trace have logprobs that differ in a bit."""
    count = 0
    for left, right in zip_longest(before, after):
        if left is None or right is None or len(left.logprobs) != len(right.logprobs):
            raise TraceMismatchError("two steps replayed different tokens")
        bits = (left.logprobs.view(np.uint32), right.logprobs.view(np.uint32))
        count += int(np.count_nonzero(bits[0] != bits[1]))
    return count


@dataclass(frozen=True, slots=True)
class Drift:
    """The |Δ| of one replay: its sum and its usable tokens, by cluster [G]."""

    abs_log_ratio: Floats
    tokens: Floats

    def value(self) -> float:
        """Mean |Δ| a token, in nats."""
        return float(self.abs_log_ratio.sum() / self.tokens.sum())

    def by_cluster(self) -> Floats:
        """What each cluster adds to the value [G]."""
        return np.asarray(self.abs_log_ratio / self.tokens.sum())


def drift(chunks: Iterable[PairedChunk]) -> Drift:
    """The drift of one replay; clusters are numbered as the chunks number them."""
    sums = Accumulator(OBJECTIVES.values(), (1.0,))
    for chunk in chunks:
        sums.add(chunk)
    totals = sums.part("totals")
    return Drift(totals[:, COLUMN["abs_log_ratio"]], totals[:, COLUMN["count"]])


def removed_share(initial: Drift, before: Drift, after: Drift, level: float) -> Estimate | None:
    """The share of the initial drift that a step removes: (before - after) / initial.

    Negative where it adds some. Shares of a ladder add up to 1 - last / first. The interval is that
    of a ratio of sums over clusters. None where there is nothing to remove.
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
    """Whether a mean |Δ| is no larger than that of an engine against itself."""
    if floor is None:
        return False
    highest = floor.value if floor.ci_high is None else floor.ci_high
    return value.value <= max(floor.value, highest)
