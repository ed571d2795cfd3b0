"""Warnings: what a reader must know about two engines to interpret the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from parity_check.comparison.report import ReportWarning
from parity_check.config.models import ROLES, SHAPING
from parity_check.measure.results import Measurement
from parity_check.measure.stats import FEWEST_CLUSTERS
from parity_check.traces.engine import UNKNOWN
from parity_check.traces.pairing import Clusters, label_column
from parity_check.traces.prefixes import Prefixes
from parity_check.traces.provenance import Difference
from parity_check.traces.trace import Trace, TraceHeader

FOLLOWS_FROM_VERSION = frozenset(
    {
        "attention_backend",
        "block_size",
        "compilation",
        "cudagraph_mode",
        "custom_ops",
        "enable_chunked_prefill",
        "max_num_batched_tokens",
        "max_num_seqs",
        "model_runner",
    }
)
"""Facts that follow from the version or the recipe: shown as differences, without a warning."""
PENALTIES = ("presence_penalty", "frequency_penalty", "repetition_penalty")
NEUTRAL: Mapping[str, float] = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
}
"""Values that do not change the distribution."""
MANY_CERTAIN = 0.8
"""Above this share of certain tokens, means of the others are over five times those of all."""
MOST_COLUMNS = 8
"""Columns of the prompts that are tried as clusters."""
FEW_SHARED = 0.01
"""A share of the prompts that makes no interval too narrow."""
LOWEST_TEMPERATURE = 0.01
"""Every version raises a lower positive temperature to this."""


def warnings_of(
    headers: Mapping[str, TraceHeader],
    differences: Mapping[tuple[str, str], Sequence[Difference]],
) -> Iterator[ReportWarning]:
    """Warnings about the engines of `headers`, by name, and the differences of each pair."""
    yield from _imported(headers)
    yield from _without_effect(headers)
    yield from _own_warnings(headers)
    yield from _foreign_tokens(headers)
    yield from _endpoints(headers)
    yield from _mixed_distributions(headers)
    for pair, found in differences.items():
        yield from _unrequested(*pair, found)
    yield from _checkpoint_defaults(headers)
    sampling = next(iter(headers.values())).sampling
    yield from _trainers(headers)
    yield from _semantics(sampling, {header.engine.family for header in headers.values()})


def impossible_tokens(measurements: Iterable[Measurement]) -> Iterator[ReportWarning]:
    """Sampled tokens that the sampling engine itself gives no chance."""
    for measured in measurements:
        for each in measured.invalid:
            if each.kind == "impossible":
                yield ReportWarning(
                    f"impossible-tokens.{measured.sampled_by}",
                    f"{each.count:,} of the tokens that the {measured.sampled_by} sampled: "
                    f"{each.sentence}",
                )


def certain_tokens(measurements: Iterable[Measurement]) -> Iterator[ReportWarning]:
    """Tokens that both engines are sure of, or whose logprobs are missing, dilute every mean."""
    for measured in measurements:
        others = measured.tokens - measured.certain
        if others and measured.certain > MANY_CERTAIN * measured.tokens:
            yield ReportWarning(
                f"certain-tokens.{measured.sampled_by}",
                f"{measured.certain:,} of {measured.tokens:,} tokens that the "
                f"{measured.sampled_by} sampled have a logprob of 0 on both sides: they had no "
                "alternative, or their logprobs were not recorded. Every mean counts them: k3 of "
                f"the other tokens is {measured.tokens / others:.3g} times as large",
            )


def few_prompts(cluster_by: str, measurements: Iterable[Measurement]) -> Iterator[ReportWarning]:
    """Samples of few prompts are counted as independent."""
    for measured in measurements:
        if measured.prompts < FEWEST_CLUSTERS <= measured.clusters:
            count = measured.prompts
            yield ReportWarning(
                f"few-prompts.{measured.sampled_by}",
                f'stats.cluster_by = "{cluster_by}" counts {measured.clusters:,} clusters, but all '
                f"samples are of {count} prompt{'s' * (count > 1)}: the intervals and the verdict "
                "are about these prompts and say nothing of others",
            )


def copied_logprobs(
    headers: Mapping[str, TraceHeader], measurements: Iterable[Measurement]
) -> Iterator[ReportWarning]:
    """Two columns of a dump that agree to the last bit: one was probably copied from the other."""
    if not any(header.engine.imported for header in headers.values()):
        return
    for measured in measurements:
        if measured["identical_fraction"].value == 1.0:
            yield ReportWarning(
                "copied-logprobs",
                f"all {measured.tokens:,} logprobs of the dump are bit-identical on both sides. A "
                "rollout engine and a trainer rarely agree to the last bit: if one column was "
                "copied from the other, this comparison says nothing",
            )


def greedy_copies(
    sampling: Mapping[str, Any], measurements: Iterable[Measurement]
) -> Iterator[ReportWarning]:
    """Greedy samples of one prompt are one sample."""
    for measured in measurements:
        if sampling.get("temperature") == 0 and measured.samples > measured.prompts:
            yield ReportWarning(
                f"copies.{measured.sampled_by}",
                "at temperature 0 the samples of a prompt are copies, but all "
                f"{measured.samples:,} samples of {measured.prompts:,} prompts are counted: "
                "intervals are too narrow; set workload.samples_per_prompt = 1",
            )


def shared_prefixes(
    prefixes: Prefixes, cluster_by: str, rollouts: Trace
) -> Iterator[ReportWarning]:
    """Prompts that share much of their text are counted as independent."""
    alike = prefixes.alike()
    if alike.prompts <= FEW_SHARED * alike.of:
        return
    column, left = _keeps_together(rollouts, alike.prompts)
    remedy = (
        "add a column with one value for each family of them, and name it in stats.cluster_by"
        if column is None
        else f"--set stats.cluster_by={column} counts {'most of ' if left else ''}them together, "
        "also in parity-check report"
    )
    if column is None:
        remedy += (
            f". Up to {alike.most:,} have one beginning: if it is a system prompt or a date, they "
            "are independent all the same"
        )
    yield ReportWarning(
        "shared-prefixes",
        f"{alike.prompts:,} of {alike.of:,} prompts share at least half of their tokens with "
        f'another prompt, but stats.cluster_by = "{cluster_by}" counts them as independent, so '
        f"intervals are too narrow: {remedy}",
    )


def _keeps_together(rollouts: Trace, shared: int) -> tuple[str | None, int]:
    """The column by which fewest prompts with a common beginning are counted apart, and how many.

    None if by every one with enough clusters it is more than half of those that share one.
    """
    found: tuple[str | None, int] = (None, shared // 2 + 1)
    for column in ("group", *rollouts.labels[:MOST_COLUMNS]):
        prefixes, clusters = Prefixes(), Clusters(column)
        for batch in rollouts.batches(label=label_column(column)):
            prefixes.add(batch, clusters.number(batch))
        left = prefixes.alike().prompts
        if clusters.count() >= FEWEST_CLUSTERS and left < found[1]:
            found = column, left
        if found[1] == 0:
            break
    return found


def lost_replicas(headers: Iterable[TraceHeader]) -> Iterator[ReportWarning]:
    """Replicas that were lost while an engine ran, whose requests others computed again."""
    found = {
        (header.evaluated_by, lost)
        for header in headers
        if header.engine.replicas is not None
        for lost in header.engine.replicas.lost
    }
    for role, lost in sorted(found):
        yield ReportWarning(f"replica-lost.{role}", f"the {role} lost {lost}")


def unchecked(traces: Iterable[Trace]) -> Iterator[ReportWarning]:
    """Traces in which damage cannot be detected."""
    names = [trace.path.name for trace in traces if not trace.has_checksums]
    if names:
        yield ReportWarning(
            "no-checksums",
            f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} no checksums, because "
            "it was written by another program or an old version of parity-check: damage cannot "
            "be detected",
        )


def sampler(header: TraceHeader) -> str:
    """The engine that sampled a trace which neither engine of this run sampled."""
    role = header.sampled_by
    return f"the {role} of another run" if role in ROLES else f"the {role}"


def _imported(headers: Mapping[str, TraceHeader]) -> Iterator[ReportWarning]:
    """What is unknown about an imported dump."""
    found = {name: header for name, header in headers.items() if header.engine.imported}
    if not found:
        return
    names = " and ".join(f"the {h.engine.label} (the {role})" for role, h in found.items())
    unstated = [name for name in SHAPING if any(name not in h.sampling for h in found.values())]
    hint = ""
    if unstated:
        hint = f"; so are {', '.join(unstated)}: pass them to `import --sampling NAME=VALUE`"
    are = "are" if len(found) > 1 else "is"
    yield ReportWarning(
        "imported",
        f"{names} {are} known only from a dump: versions, settings, and whether logprobs are raw "
        f"or processed are unknown{hint}",
    )


def _without_effect(headers: Mapping[str, TraceHeader]) -> Iterator[ReportWarning]:
    """What an engine was asked for and does not do, as its live config and modules show."""
    for role, header in headers.items():
        for name, found in (header.engine.model.get("without_effect") or {}).items():
            yield ReportWarning(
                f"without-effect.{role}.{name}", f"{name} of the {role} has no effect: {found}"
            )


def _own_warnings(headers: Mapping[str, TraceHeader]) -> Iterator[ReportWarning]:
    """What an engine itself says in its log about what it computes."""
    for role, header in headers.items():
        for name, line in (header.engine.model.get("warnings") or {}).items():
            yield ReportWarning(
                f"engine-warns.{role}.{name}", f"the {role} warns in its log: {line}"
            )


def _foreign_tokens(headers: Mapping[str, TraceHeader]) -> Iterator[ReportWarning]:
    """Both engines replayed tokens that neither of them sampled."""
    if all(header.replayed_from is not None for header in headers.values()):
        who = sampler(headers["reference"])
        yield ReportWarning(
            "foreign-tokens",
            f"the tokens were sampled by {who} and replayed by both engines: Δ and ratio compare "
            "candidate with reference on these tokens, and the mean ratio need not be 1 for two "
            "correct engines. To compare the trace's own logprobs, run `parity-check compare "
            "workload.parquet reference.parquet` in the run directory, and the same with "
            "reference-replayed-by-candidate.parquet",
        )


def _endpoints(headers: Mapping[str, TraceHeader]) -> Iterator[ReportWarning]:
    for role in (name for name, header in headers.items() if header.engine.served):
        settings = headers[role].engine.settings
        unknown = [name for name, found in settings.items() if found.in_force == UNKNOWN]
        shown = ", ".join([*unknown, "its weights", "kernels", "batch limits"])
        yield ReportWarning(
            "endpoint.unknown",
            f"the {role} is a served endpoint; these facts about it are unknown: {shown}",
        )
        yield ReportWarning(
            "endpoint.no-floor",
            f"the {role} is a served endpoint and cannot decode the same tokens twice, so it has "
            "no A/A floor",
        )
        others = [n for n, h in headers.items() if n != role and h.sampled_by == n]
        if others:
            yield ReportWarning(
                "endpoint.prefill",
                f"the {role} is an endpoint, which evaluates given tokens by prefill. Where the "
                f"{' or the '.join(others)} sampled, Δ includes the difference between prefill and "
                "decode",
            )


def _mixed_distributions(headers: Mapping[str, TraceHeader]) -> Iterator[ReportWarning]:
    raw, processed = (
        " and the ".join(n for n, h in headers.items() if h.logprob_distribution == distribution)
        for distribution in ("raw", "processed")
    )
    if raw and processed:
        yield ReportWarning(
            "mixed-distributions",
            f"the {raw} returns raw logprobs, the {processed} processed ones: different "
            "distributions unless T = 1 without truncation and penalties",
        )


def _unrequested(
    reference: str, candidate: str, differences: Sequence[Difference]
) -> Iterator[ReportWarning]:
    for difference in differences:
        if not difference.requested and difference.key not in FOLLOWS_FROM_VERSION:
            yield ReportWarning(
                f"unrequested-difference.{difference.key}",
                f"{difference.key} is {_shown(difference.reference)} in the {reference} and "
                f"{_shown(difference.candidate)} in the {candidate}, which was not requested",
            )


def _trainers(headers: Mapping[str, TraceHeader]) -> Iterator[ReportWarning]:
    """Where a trainer differs from a rollout engine by design, which enters the comparison."""
    for name, header in headers.items():
        if not header.engine.trainer:
            continue
        yield ReportWarning(
            f"trainer-path.{name}",
            f"{name} is a trainer's forward pass: it scores by prefill, while rollout engines "
            "decode one token per step; Δ includes the difference between the two paths",
        )
        sampling, truncates = header.sampling, header.engine.config.get("truncation", False)
        shaping = {k: v for k, v in NEUTRAL.items() if k in PENALTIES or not truncates}
        left_out = [key for key, neutral in shaping.items() if sampling[key] != neutral]
        if left_out and sampling["temperature"]:
            yield ReportWarning(
                f"trainer-distribution.{name}",
                f"{name} does not apply {', '.join(left_out)}, so its distribution differs from "
                "the one that was sampled from",
            )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not set" if value in (None, "") else str(value)


def _checkpoint_defaults(headers: Mapping[str, TraceHeader]) -> Iterator[ReportWarning]:
    found = {header.engine.model.get("sampling_defaults") for header in headers.values()}
    for defaults in sorted(filter(None, found)):
        yield ReportWarning(
            "checkpoint-sampling-defaults",
            f"the checkpoint's generation_config.json sets {defaults}. The requests here override "
            "it. A server of this checkpoint applies it to requests that do not set these "
            'parameters, unless it is started with generation_config = "vllm"',
        )


def _semantics(sampling: Mapping[str, Any], families: set[str]) -> Iterator[ReportWarning]:
    """Version differences that no setting shows, if the sampling parameters trigger them."""
    if not sampling.keys() >= set(SHAPING):
        return  # imported trace: unknown
    temperature = sampling["temperature"]
    if sampling["top_p"] < 1 and sampling["min_p"] > 0 and families >= {"v0", "v1"} and temperature:
        yield ReportWarning(
            "semantics.top-p-and-min-p",
            "V0 applies top_p before min_p, V1 applies min_p before top_p: with both set they "
            "keep different tokens (mean |Δ| of 0.08 to 0.10 at top_p 0.8 and min_p 0.1, and "
            "tokens that only one side allows); no setting changes the order",
        )
    if temperature == 0:
        yield ReportWarning(
            "semantics.greedy",
            "temperature 0 is greedy: logprobs are returned at T = 1, without top_k, top_p and "
            "min_p",
        )
    if 0 < temperature < LOWEST_TEMPERATURE:
        yield ReportWarning(
            "semantics.clamped-temperature",
            f"vLLM raises temperature {temperature:g} to {LOWEST_TEMPERATURE:g} and returns "
            "logprobs at that temperature",
        )
