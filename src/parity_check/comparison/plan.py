"""Which gates a workload can decide, before it is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from parity_check import words
from parity_check.comparison.judgement import Judgement
from parity_check.config.models import Config
from parity_check.measure.needs import Need, Unit, needs
from parity_check.traces.pairing import Index, cluster_names, label_column
from parity_check.traces.prompts import Prompt, cluster_of
from parity_check.traces.trace import Trace


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of one sampling direction, and what its gates ask for if nothing drifts.

    `tokens` is the most, because a sample may end earlier, or of a trace what it has. `unused` are
    further prompts of the file, which this size does not reach.
    """

    prompts: int
    clusters: int
    samples: int
    tokens: int
    gates: int
    needs: tuple[Need, ...]
    source: Literal["one look", "looks", "trace"] = "one look"
    unused: int = 0

    def unmet(self) -> list[Need]:
        """The needs that the workload does not meet."""
        return [need for need in self.needs if need.number > self._has(need)]

    def sentence(self) -> str:
        """What the workload can decide and what the other gates ask for, in one line."""
        most = "" if self.source == "trace" else "at most "
        tokens = words.count(self.tokens, "token")
        size = f"{words.count(self.samples, 'sample')}, {most}{tokens} a direction"
        unmet = self.unmet()
        if not unmet:
            return f"if nothing drifts, every gate can be decided ({size})"
        open = len({need.metric for need in unmet})
        return (
            f"even if nothing drifts, {open} of {self.gates} gates cannot be decided ({size}); "
            f"needed at least: {'; '.join(self._asked(unmet))}; for all of them: "
            f"{self._advice(unmet)}"
        )

    def samples_needed(self) -> int:
        """The samples that meet every need, as far as there are prompts for clusters enough."""
        times = (
            min(1.0, times) if need.unit == "clusters" else times
            for need in self.needs
            if (times := need.number / self._has(need))
        )
        return math.ceil(self.samples * max(times, default=0.0))

    def reached(self, turns: int, tokens: int) -> Plan:
        """After so many turns, each `samples / prompts` samples of one prompt."""
        used = min(1.0, turns / self.prompts)
        prompts = min(self.prompts, turns)
        return replace(
            self,
            prompts=prompts,
            clusters=math.ceil(self.clusters * used),
            samples=turns * self.samples // self.prompts,
            tokens=tokens,
            source="looks",
            unused=self.prompts - prompts,
        )

    def _asked(self, unmet: Sequence[Need]) -> Iterator[str]:
        """Gates that ask for the same together."""
        same: dict[tuple[int, Unit], list[str]] = {}
        for need in unmet:
            same.setdefault((need.number, need.unit), []).append(need.metric)
        for (number, unit), metrics in same.items():
            who = "every gate" if len(metrics) == self.gates else ", ".join(metrics)
            yield f"{who} {words.count(number, unit[:-1])}"

    def _has(self, need: Need) -> int:
        size = {"tokens": self.tokens, "samples": self.samples, "clusters": self.clusters}
        return size[need.unit]

    def _advice(self, unmet: Sequence[Need]) -> str:
        """How many prompts, and samples of each, meet every need."""
        times = dict.fromkeys(("tokens", "samples", "clusters"), 1.0)
        for need in unmet:
            times[need.unit] = max(times[need.unit], need.number / self._has(need))
        prompts = math.ceil(self.prompts * times["clusters"])
        samples = self.samples * max(times["tokens"], times["samples"])
        size = words.count(prompts, "prompt")
        if self.source == "trace":
            return f"a trace of {size} and about {words.count(math.ceil(samples), 'such sample')}"
        if self.source == "looks":
            samples = max(samples, math.ceil(prompts * self.samples / self.prompts))
            tokens = math.ceil(samples * self.tokens / self.samples)
            more = f"workload.most_tokens = {tokens}"
            return more if prompts <= self.prompts + self.unused else f"{size} and {more}"
        advice = f"workload.samples_per_prompt = {math.ceil(samples / prompts)}"
        return advice if prompts == self.prompts else f"{size} and {advice}"


def plan(prompts: Sequence[Prompt], config: Config, how: Judgement) -> Plan:
    """The plan of a workload that engines sample, every prompt `samples_per_prompt` times."""
    workload = config.workload
    each = workload.samples_per_prompt
    clusters = {cluster_of(prompt, how.cluster_by) for prompt in prompts}
    return Plan(
        prompts=len(prompts),
        clusters=len(prompts) * each if how.cluster_by == "sample" else len(clusters),
        samples=len(prompts) * each,
        tokens=len(prompts) * each * workload.max_tokens,
        gates=len(how.limits),
        needs=tuple(needs(how.limits, how.objective, how.level)),
    )


def stored_plan(trace: Trace, how: Judgement) -> Plan:
    """The plan of a stored trace, whose tokens engines replay."""
    prompts, clusters = Index(), Index()
    for batch in trace.batches(label=label_column(how.cluster_by)):
        prompts.number(batch.prompt_ids)
        clusters.number(cluster_names(batch, how.cluster_by))
    return Plan(
        prompts=len(prompts.names),
        clusters=len(clusters.names),
        samples=trace.header.samples,
        tokens=trace.header.tokens,
        gates=len(how.limits),
        needs=tuple(needs(how.limits, how.objective, how.level)),
        source="trace",
    )
