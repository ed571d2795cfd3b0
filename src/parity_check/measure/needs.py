"""The data that a limit asks for before anything is measured: as much as bounds unseen events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from parity_check.measure.limits import Limit
from parity_check.measure.metrics import METRICS
from parity_check.measure.objectives import Objective
from parity_check.measure.stats import FEWEST_CLUSTERS, UNSEEN_CLUSTER, UNSEEN_TOKEN

Unit: TypeAlias = Literal["tokens", "samples", "clusters"]


@dataclass(frozen=True, slots=True)
class Need:
    """The fewest tokens, samples or clusters of a direction with which a gate can be in parity."""

    metric: str
    unit: Unit
    number: int


def needs(limits: Iterable[Limit], objective: Objective, level: float) -> Iterator[Need]:
    """What the gates ask for if nothing drifts: every value at its target, without spread.

    Real spread asks for more. A limit of one exact value asks for nothing.
    """
    for limit in limits:
        if limit.kind == "exact":
            continue
        yield Need(limit.metric, "clusters", FEWEST_CLUSTERS)
        for unit, share in _largest_unseen(limit, objective):
            if 0.0 < share < 1.0:
                # So many independent trials without an event bound its share by 1 - tail^(1 / n).
                number = math.ceil(math.log((1.0 - level) / 2.0) / math.log1p(-share))
                yield Need(limit.metric, unit, number)


def _largest_unseen(limit: Limit, objective: Objective) -> Iterator[tuple[Unit, float]]:
    """Of what a gate counts: the share that may go unseen without leaving the limit; 1 for any."""
    name, row = limit.metric, METRICS[limit.metric]
    if name in UNSEEN_TOKEN:
        room = limit.value if limit.kind == "two_sided" else limit.value - limit.target
        if name == "ess":
            room = 1.0 / limit.value - 1.0
        yield "tokens", room / UNSEEN_TOKEN[name]
        if name in UNSEEN_CLUSTER:
            yield "clusters", room / UNSEEN_CLUSTER[name]
        return
    if row.unit != "share" or name.startswith("ess"):
        return
    share = limit.value if row.better == "lower" else 1.0 - limit.value
    if name.endswith("cluster_fraction"):
        yield "clusters", share
        return
    by_sample = name in ("burst_fraction", "tail_sample_fraction") or (
        name == "clip_fraction" and objective.level != "token"
    )
    yield "samples" if by_sample else "tokens", share
