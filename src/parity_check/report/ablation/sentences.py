"""What an ablation says in words: shared by the renderers that a person reads."""

from __future__ import annotations

from collections.abc import Iterator

from parity_check.ablation.plan import START, Part, written
from parity_check.ablation.report import AblationReport, StepReport
from parity_check.measure.stats import Estimate
from parity_check.report import numbers
from parity_check.report.sentences import MARKS, share_label

TITLES = {
    "ladder": "the ladder: from the engine's defaults, one setting after another",
    "own": "single flips: the candidate as configured, and one thing changed at a time",
}
SHOWN = ("mean_log_ratio", "mean_importance_ratio", "k3_kl", "clip_fraction")


def verdict_line(report: AblationReport) -> str:
    """The last line: where the ladder ends, what removes most, the exit code."""
    mark, word, told = "✗", "FAILED", ["no step was finished"]
    if report.verdict is not None:
        mark, word = MARKS[report.verdict], report.verdict.upper()
        told = [*_end(report), *_most(report)]
    return f"{mark} {word}  {'; '.join(told)}  (exit {int(report.exit_code)})"


def _end(report: AblationReport) -> Iterator[str]:
    ladder = report.finished("ladder")
    best = report.best
    if ladder:
        whole = all(step.state in ("finished", "refused") for step in _all_of(report, "ladder"))
        what = "the ladder ends" if whole else "the ladder, as far as it was run, ends"
        yield f"{what} {_where(ladder[-1])} ({_reference(ladder[-1])})"
    if best is not None and not (ladder and _same(ladder[-1], best)):
        yield f"best is {_reference(best)}, {_where(best)}"


def _all_of(report: AblationReport, part: Part) -> list[StepReport]:
    return [step for step in report.steps if step.part == part]


def _same(one: StepReport, other: StepReport) -> bool:
    return one.directory == other.directory or one.outcome == other.outcome


def _most(report: AblationReport) -> Iterator[str]:
    """The step that removes most of the drift, of the ladder's and of the flips'."""
    for steps in (report.finished("ladder"), report.finished("flip")):
        measured = [(step.removed.value, step) for step in steps if step.removed is not None]
        largest = max(measured, key=lambda each: each[0], default=None)
        if largest is not None and largest[0] > 0:
            _, step = largest
            assert step.removed is not None
            yield f"{_reference(step)} removes {share(step.removed.value)} of the drift"
            return


def _where(step: StepReport) -> str:
    if step.at_floor:
        return "at the floor"
    return f"in {step.verdict}" if step.verdict != "inconclusive" else "inconclusive"


def _reference(step: StepReport) -> str:
    return f"step {step.number}, {step.name}"


def outcome(step: StepReport) -> str:
    """One cell: what became of a step."""
    if step.state != "finished" or step.verdict is None:
        return step.state
    return "✓ at the floor" if step.at_floor else f"{MARKS[step.verdict]} {step.verdict}"


def asked_and_in_force(step: StepReport) -> str:
    """One cell: what was asked for, and what the engine runs with where that is not the same."""
    if step.key is None:
        return "left to the engine" if step.name == START else ""
    asked = written(step.requested)
    if step.state != "finished":
        return f"{asked} → ?"
    found = "not reported" if step.in_force is None else written(step.in_force)
    return asked if found == asked else f"{asked} → {found}"


def notes(report: AblationReport) -> Iterator[str]:
    """A sentence for every step of which the numbers do not say enough."""
    for step in report.steps:
        what = _note(report, step)
        if what:
            yield f"{step.number}  {step.name}: {what}"


def _note(report: AblationReport, step: StepReport) -> str | None:
    if step.state in ("refused", "failed"):
        return f"{step.state}: {step.reason}"
    if step.state == "not run":
        return "not run yet"
    if any(
        (each.number, each.directory) == (step.against, step.directory) for each in report.steps
    ):
        return f"the same configuration as step {step.against}"
    identical = f"bit-identical to step {step.against} on the replay, "
    fact = written(step.in_force)
    return {
        "changed unasked": f"{step.differing:,} logprobs differ from step {step.against}, though "
        f"it was {fact} there too: the engine does not repeat itself from start to start"
        if step.differing is not None
        else "",
        "already so": f"{identical}where it was {fact} already",
        "not applied": f"{identical}not applied: asked for {written(step.requested)}, in force is "
        f"{fact}",
        "no effect here": f"{identical}of no effect here: it is in force ({fact}), and was not "
        "before",
        "not known": f"{identical}not applied, or of no effect here: the engine does not report it",
    }.get(step.effect or "changed")


def what_was_run(report: AblationReport) -> Iterator[str]:
    """The engines and the tokens, a sentence each."""
    candidate = next((step.candidate for step in report.finished()), None)
    if report.reference is None or report.workload is None or candidate is None:
        return
    took = f", taken from run {report.source}" if report.source else ""
    yield (
        f"reference {report.reference.label}, {report.reference.family.upper()}; "
        f"candidate {candidate.label}, {candidate.family.upper()}"
    )
    compared = report.workload
    yield (
        f"every step replays the same {compared.tokens:,} tokens of the reference "
        f"({compared.prompts} prompts, {compared.samples} samples, "
        f"temperature {compared.sampling['temperature']:g}{took}) and samples its own"
    )


def legend(report: AblationReport) -> Iterator[str]:
    """How to read the numbers, a sentence each."""
    yield (
        "removes: (mean |Δ| before - after) / mean |Δ| at the start, in nats on the reference's "
        "tokens, the same in every step. A rung of the ladder is compared with the one below it, "
        "and the start is the ladder's first: its shares add up to 1 - last / first. A single flip "
        "is compared with the candidate as configured. Negative: it adds drift."
    )
    yield (
        "at the floor: in both directions mean |Δ| is no larger than that of an engine against "
        "itself (A/A: another batch order and composition). Other verdicts are by the gates of the "
        "configuration, all of them, as in `compare`."
    )
    yield (
        "Δ = logprob of the evaluating engine − logprob of the engine that sampled; ratio = exp Δ. "
        f"Clip: {share_label(report.objective)}. Intervals are at "
        f"{100 * report.level:g} %, clustered by {report.config['stats']['cluster_by']}."
    )


def share(value: float) -> str:
    """A share of the drift, which may be negative."""
    percent = 100 * value
    if percent in (0, 100):
        return f"{percent:g} %"
    return f"{percent:.2f} %" if abs(percent) >= 0.005 else f"{percent:.1e} %"


def removed(step: StepReport) -> str:
    """One cell: the share of the drift that a step removes, in percent, with its interval."""
    found = step.removed
    if found is None:
        return "at the floor" if step.effect else "–"
    if found.ci_low is None or found.ci_high is None:
        return share(found.value)
    low, high = (share(end).removesuffix(" %") for end in (found.ci_low, found.ci_high))
    return f"{share(found.value)} [{low}, {high}]"


def value_with_interval(estimate: Estimate) -> tuple[str, str]:
    return numbers.value(estimate), numbers.interval(estimate)


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
