"""What a comparison of many engines says in words: shared by the renderers that a person reads."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check.report.matrix.model import FirstStep, MatrixReport, Pair, Rollouts
from parity_check.report.numbers import value
from parity_check.report.sentences import MARKS, reason, share_label

OUTCOMES = {"pass": "✓", "fail": "✗", "unknown": "?"}
LOSS = {
    "bypass": "takes the rollout's logprobs as the old ones (bypass)",
    "recompute": "recomputes its old logprobs with the trainer (recompute)",
}


def verdict_line(report: MatrixReport) -> str:
    """The last line: the verdict, how many gates stand behind it, the exit code."""
    gates = report.gates
    count = {name: sum(gate.verdict == name for gate in gates) for name in MARKS}
    outcome = f"all {len(gates)} gates inside their limits"
    if count["drift"]:
        outcome = f"{count['drift']} of {len(gates)} gates outside their limits"
        outcome += f", {count['inconclusive']} not settled" if count["inconclusive"] else ""
    elif count["inconclusive"]:
        outcome = f"{count['inconclusive']} of {len(gates)} gates not settled, none outside"
    mark = MARKS[report.verdict]
    return f"{mark} {report.verdict.upper()}  {outcome}  (exit {int(report.exit_code)})"


def title(rollouts: Rollouts) -> str:
    size = rollouts.size
    excluded = f" ({size.excluded:,} more are unusable)" if size.excluded else ""
    return (
        f"sampled by the {rollouts.sampled_by}, scored by every engine: {size.clusters} prompts, "
        f"{size.samples} samples, {size.tokens:,} tokens{excluded}"
    )


def pair_name(pair: Pair) -> str:
    return f"{pair.evaluating} − {pair.behaviour}"


def outcome(pair: Pair) -> str:
    """One cell: the worst verdict of a pair's gates; empty where the pair is not judged."""
    for verdict in ("drift", "inconclusive", "parity"):
        if any(gate.verdict == verdict for gate in pair.gates):
            return f"{MARKS[verdict]} {verdict}"
    return ""


def reasons(report: MatrixReport) -> Iterator[tuple[str, list[str]]]:
    """Why gates are not parity: a title for each pair that has such, and a sentence each."""
    for rollouts in report.rollouts:
        for pair in rollouts.pairs:
            found = [
                f"{MARKS[gate.verdict]} {gate.metric}: {reason(gate)}"
                for gate in pair.gates
                if gate.verdict != "parity"
            ]
            if found:
                yield f"{pair_name(pair)}, sampled by the {rollouts.sampled_by}", found


def first_step(step: FirstStep) -> str:
    """What one loss would see before any update, in one sentence."""
    told = "the configured loss" if step.configured else "a loss that"
    told += (", which " if step.configured else " ") + LOSS[step.logprobs]
    if step.ratio is None or step.clip is None:
        seen = "ratio 1, if the trainer repeats itself (not measured: workload.repeats = 0)"
    else:
        own = ", the trainer's own batch noise" if step.logprobs == "recompute" else ""
        seen = (
            f"mean ratio {value(step.ratio)}, {share_label(step.clip.objective)} "
            f"{value(step.clip.counted)}{own}"
        )
    weight = "no importance weight"
    if step.truncation is not None:
        weight = (
            f"{share_label(step.truncation.objective)} of its importance weight "
            f"{value(step.truncation.counted)}"
        )
    return f"{step.trainer}: {told}: {seen}; {weight}"


def legend(report: MatrixReport) -> Iterator[str]:
    """How to read the numbers, a sentence each."""
    yield (
        "a − b: Δ = logprob of a − logprob of b, nats per token; ratio = exp Δ. Where b sampled "
        "the tokens the mean ratio of an honest pair is 1, and the pair is judged; other pairs are "
        "shown for what they explain."
    )
    yield (
        "A/A floor: an engine against itself, in another batch order and composition; a trainer in "
        "another batch shape as well (one sample at a time, or eight)."
    )
    yield (
        "share: Σ Δ(leg) Δ(whole) / Σ Δ(whole)². The shares of the two legs add up to 1, as do "
        "their mean Δ to that of the whole; a leg that pulls against the whole has a negative one. "
        "Three engines that err independently and alike share half and half."
    )
    yield (
        f"clip: {share_label(report.objective)}, as in {report.objective.counter} "
        f"({report.objective.source}). Intervals are at {100 * report.level:g} %, clustered by "
        f"{report.config['stats']['cluster_by']}."
    )
