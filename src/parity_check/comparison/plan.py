"""Which gates a workload can decide, before it is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from parity_check import words
from parity_check.comparison.judgement import Judgement
from parity_check.config.models import Config
from parity_check.measure import stats
from parity_check.measure.needs import Need, Unit, needs
from parity_check.measure.worth import Worth, different, worth
from parity_check.traces.pairing import Clusters, Index, label_column
from parity_check.traces.prompts import Prompt, cluster_of, own_cluster
from parity_check.traces.trace import Trace

FAMILIES = 1.05
"""Families of prompts meet in a longer look: clusters grow by that much less than its prompts."""
UNEVEN = 20
"""Lengths of samples alone make clusters worth a fifth or an eighth of their number, not less."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of one sampling direction, and what its gates ask for if nothing drifts.

    `tokens` is the most before sampling, because a sample may end earlier; of a trace what it has.
    `turn` is how many samples a prompt has in a look, which may cost `spent` tokens. `greedy`
    samples of one prompt are copies, which are not counted. `unused` are further distinct prompts
    of the file, which this size does not reach. `copies` of a prompt count as one. `worth` knows of
    unequal clusters, and of unequal samples once these are there.
    """

    prompts: int
    clusters: int
    samples: int
    tokens: int
    gates: int
    needs: tuple[Need, ...]
    source: Literal["one look", "looks", "sampled", "trace"] = "one look"
    turn: int = 1
    spent: int = 0
    greedy: bool = False
    unused: int = 0
    copies: int = 0
    worth: Worth | None = None

    def unmet(self) -> list[Need]:
        """The needs that the workload does not meet."""
        return [need for need in self.needs if need.number > self.has(need)]

    def sentence(self) -> str:
        """What the workload can decide and what the other gates ask for, in one line."""
        known = self.source in ("sampled", "trace")
        tokens = words.count(self.tokens, "token")
        most = "" if known else "at most "
        size = f"{words.count(self.samples, 'sample')}{self._worth()}, {most}{tokens} a direction"
        unmet = self.unmet()
        if not unmet:
            needed = max((each.number for each in self.needs if each.unit == "tokens"), default=0)
            mean = math.ceil(needed / self.samples)
            long = ""
            if not known and mean > 1:
                long = f" and samples are about equally long, with {mean} tokens or more on average"
            return f"if nothing drifts{long}, every gate can be decided ({size})"
        return (
            f"even if nothing drifts, {len(self.open())} of {self.gates} gates cannot be decided "
            f"({size}); needed at least: {'; '.join(self._asked(unmet))}; for all of them: "
            f"{self.advice()}"
        )

    def open(self) -> set[str]:
        """The metrics whose gates cannot be decided."""
        return {need.metric for need in self.unmet()}

    def samples_needed(self) -> int:
        """The samples that meet every need, as far as there are prompts for clusters enough."""
        clusters = min(1.0, self._times("clusters"))
        return math.ceil(
            self.samples * max(clusters, self._times("tokens"), self._times("samples"))
        )

    def _worth(self) -> str:
        """What unequal samples are worth, if that is less than there are."""
        if self.worth is None or round(self.worth.samples) >= self.samples:
            return ""
        return f" of unequal length, worth {self.worth.samples:,.0f}"

    def _asked(self, unmet: Sequence[Need]) -> Iterator[str]:
        """Gates that ask for the same together."""
        same: dict[tuple[int, Unit], list[str]] = {}
        for need in unmet:
            same.setdefault((need.number, need.unit), []).append(need.metric)
        for (number, unit), metrics in same.items():
            who = "every gate" if len(metrics) == self.gates else ", ".join(metrics)
            yield f"{who} {words.count(number, unit[:-1])}"

    def _times(self, unit: Unit) -> float:
        """The largest need of a unit, in units of this size."""
        return max((self.times(each) for each in self.needs if each.unit == unit), default=0.0)

    def times(self, need: Need) -> float:
        """How many times this size a gate needs, if further samples are as unequal."""
        lasting = self.has(need)
        if self.worth is not None and need.number > lasting and need.unit != "tokens":
            samples, clusters = self.worth.lasting_samples, self.worth.lasting_clusters
            lasting = samples if need.unit == "samples" else clusters
        return need.number / lasting

    def has(self, need: Need) -> float:
        """What there is of what a gate needs."""
        worth = self.worth
        return {
            "tokens": self.tokens,
            "samples": self.samples if worth is None else worth.samples,
            "clusters": self.clusters if worth is None else worth.clusters,
        }[need.unit]

    def advice(self) -> str:
        """How many prompts, and samples of each, meet every need."""
        if even := self.even():
            return even
        wider = self._times("clusters")
        longer = max(self._times("tokens"), self._times("samples"))
        distinct = self.prompts - self.copies
        if self.greedy:
            wider = max(wider, longer)
        if self.source == "looks" and wider > 1.0:
            wider *= FAMILIES
        prompts = math.ceil(distinct * wider) if wider > 1.0 else self.prompts
        samples = max(math.ceil(self.samples * longer), prompts)
        size = words.count(prompts, "distinct prompt" if self.copies else "prompt")
        if self.source == "trace":
            return f"a trace of {size} and about {words.count(samples, 'such sample')}"
        if self.source == "looks":
            among = math.ceil(prompts * self.prompts / distinct) if wider > 1.0 else prompts
            more = (
                f"workload.most_tokens = {max(math.ceil(samples / self.turn), among) * self.spent}"
            )
            there = wider <= 1.0 or prompts <= distinct + self.unused
            return more if there else f"{size} and {more}"
        if self.greedy:
            return size
        number = math.ceil(samples / prompts)
        each = f"workload.samples_per_prompt = {number} (--samples {number})"
        if wider > 1.0:
            return f"{size} and {each}"
        return f"{each}, or {words.count(math.ceil(self.prompts * longer), 'prompt')}"

    def even(self) -> str | None:
        """The clusters of equal size that are needed, where a few large ones outweigh all others.

        More prompts of the same kind would make these larger as well.
        """
        worth = self.clusters if self.worth is None else self.worth.clusters
        if worth * UNEVEN > self.clusters or self._times("clusters") <= 1.0:
            return None
        number = max(need.number for need in self.needs if need.unit == "clusters")
        return (
            f"{words.count(number, 'cluster')} of about equal size (now {self.clusters:,}, worth "
            f"{worth:.1f})"
        )


def _needs(how: Judgement) -> tuple[Need, ...]:
    """What the gates ask for; clustered by sample, a cluster is a sample."""
    found = needs(how.limits, how.objective, how.level)
    if how.cluster_by != "sample":
        return tuple(found)
    return tuple(replace(n, unit="samples") if n.unit == "clusters" else n for n in found)


def plan(
    prompts: Sequence[Prompt], config: Config, how: Judgement, turns: int | None = None
) -> Plan:
    """The plan of a workload that engines sample, every prompt `samples_per_prompt` times.

    With `turns`, of a run that ends after so many, which go round the prompts in their order.
    """
    workload = config.workload
    greedy = workload.temperature == 0.0
    turn = 1 if greedy else workload.samples_per_prompt
    used = prompts[:turns]
    clusters: Counter[str] = Counter()
    distinct, copies, unused = set(), 0, 0
    for number, prompt in enumerate(prompts):
        name = cluster_of(prompt, how.cluster_by)
        content = prompt.content() if name == own_cluster(prompt) else None
        reached = number < len(used)
        if content in distinct:
            copies += reached
            continue
        if content is not None:
            distinct.add(content)
        if reached:
            clusters[name] += 1
        else:
            unused += 1
    samples = turn * (len(used) - copies if greedy else turns or len(used))
    equal = float(stats.effective_clusters(np.array([*clusters.values()], float)))
    return Plan(
        prompts=len(used),
        copies=copies,
        clusters=len(clusters),
        samples=samples,
        tokens=samples * workload.max_tokens,
        gates=len(how.limits),
        needs=_needs(how),
        source="one look" if turns is None else "looks",
        turn=turn,
        spent=workload.samples_per_prompt * workload.max_tokens,
        greedy=greedy,
        unused=unused,
        worth=Worth(samples, equal, samples, equal),
    )


def stored_plan(trace: Trace, how: Judgement) -> Plan:
    """The plan of a stored trace, whose tokens engines replay."""
    prompts, clusters = Index(), Clusters(how.cluster_by)
    lengths, owners, whose = [np.zeros(0)], [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for batch in trace.batches(label=label_column(how.cluster_by)):
        whose.append(prompts.number(batch.prompt_ids))
        owners.append(clusters.number(batch))
        lengths.append(np.diff(batch.starts).astype(np.float64))
    sizes, owner = np.concatenate(lengths), np.concatenate(owners)
    samples = np.bincount(owner).astype(np.float64)
    tokens = np.bincount(owner, weights=sizes).astype(np.float64)
    of_prompts = different(owner, np.concatenate(whose), len(samples))
    there = samples > 0
    equal = (tokens[there], samples[there], of_prompts[there], how.level)
    return Plan(
        prompts=len(prompts.names),
        clusters=clusters.count(),
        samples=trace.header.samples,
        tokens=trace.header.tokens,
        gates=len(how.limits),
        needs=_needs(how),
        source="trace",
        worth=worth(sizes, *equal) if sizes.any() else None,
    )
