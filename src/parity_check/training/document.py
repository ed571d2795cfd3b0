"""A training comparison as a document: the curves, how far they are apart, since which step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from parity_check import words
from parity_check.comparison.document.engines import name, plain
from parity_check.comparison.report import EngineReport
from parity_check.config.training import FIRST
from parity_check.measure.gates import Verdict
from parity_check.measure.stats import Floats
from parity_check.report.document import (
    Block,
    Check,
    Checks,
    Column,
    Coverage,
    Document,
    Figure,
    Judged,
    Legend,
    PageOnly,
    Panel,
    Row,
    Section,
    Sentence,
    Table,
    Warnings,
)
from parity_check.report.repeat import repeat
from parity_check.training import pictures
from parity_check.training.curves import CURVES, Curve
from parity_check.training.judge import WIDEST
from parity_check.training.record import record
from parity_check.training.report import ArmReport, Result, TrainingReport

PANELS = ("clip_rate", "k3_kl", "entropy", "reward", "mean_ratio")
HEALTHY = "Healthy: every line stays in the band of the reference's seeds."
LEGEND = (
    "distance = mean over the steps of the arm's curve minus the reference's. Its interval and the "
    "band come from blocks of consecutive steps, because steps of one run are not independent, "
    "and are never narrower than the reference's seeds differ from one another.",
    "An arm is inside (parity) if the whole interval is within the limit: a multiple of the "
    "reference's own band, and at least the smallest distance that matters.",
)
UPDATES_UNSEEN = "`compare` changes no weights: it does not see lag, nor how new weights arrive."
TOO_SMALL = "The drift is there, and too small to move these curves in so few steps."
UNDECIDED = "One of the two had too little data to decide."


def document(report: TrainingReport) -> Document:
    """Everything that any renderer shows of a training comparison."""
    checks = tuple(_checks(report))
    every = tuple(check for block in checks for check in block.checks)
    return Document(
        head=report.head,
        title=f"Training with {_names(report)} against the reference",
        verdict=report.verdict,
        exit_code=report.exit_code,
        outcome=_outcome(report),
        lead=_lead(every, report.verdict),
        facts={
            **{arm.name: name(arm.engine) for arm in report.arms},
            "trainer": _trainer(report.trainer),
        },
        sections=(
            Section("compared", "What was trained", tuple(_compared(report))),
            Section("curves", "Curves", tuple(_curves(report)), early=True),
            Section("rungs", "Arm by arm", tuple(_rungs(report))),
            Section("agreement", "One-shot comparison", tuple(_agreement(report))),
            Section("checks", "Checks", checks, early=True),
            Section("time", "Time", (_time(report),)),
            Section("repeat", "Repeat this run", (PageOnly(repeat(report.head)),)),
        ),
        coverage=Coverage(
            tuple(arm.name for arm in report.arms),
            tuple(arm.name for arm in report.arms if _steps(report, arm.name) == report.wanted),
        ),
        record=record(report),
    )


def _names(report: TrainingReport) -> str:
    return ", ".join(arm.name for arm in report.others)


def _steps(report: TrainingReport, arm: str) -> int:
    return int(report.curve(arm, "clip_rate").shape[1])


def _outcome(report: TrainingReport) -> str:
    inside = [arm.name for arm in report.others if report.verdict_of(arm) == "parity"]
    arms = words.count(len(report.others), "arm")
    unresolved = {each.curve for each in report.results if each.unresolved}
    labels = [curve.label for curve in CURVES if curve.name in unresolved]
    left = f"; {' and '.join(labels)} not judged" if labels else ""
    return f"{len(inside)} of {arms} inside the reference's band{left}"


def _lead(checks: tuple[Check, ...], verdict: Verdict) -> str:
    return next(
        (f"{c.label} of {c.group}: {c.reason}" for c in checks if c.verdict == verdict),
        "nothing was judged",
    )


# --- what was trained -----------------------------------------------------------------------------


def _compared(report: TrainingReport) -> Iterator[Block]:
    settings = dict.fromkeys(key for arm in report.arms for key in arm.engine.settings)
    rows = [Row(("engine", *(name(arm.engine) for arm in report.arms)))]
    rows += [
        Row((key, *(plain(arm.engine.settings[key].in_force) for arm in report.arms)))
        for key in settings
    ]
    rows += [
        Row(("lag, updates", *(str(arm.lag) for arm in report.arms))),
        Row(("weight update", *map(_update, report.arms))),
        Row(("seeds", *(", ".join(map(str, arm.seeds)) for arm in report.arms))),
    ]
    yield Table("Arms", (Column(""), *(Column(arm.name) for arm in report.arms)), tuple(rows))
    yield Sentence(_loss(report))
    if report.notices:
        yield Warnings(tuple(("training", notice) for notice in report.notices))


def _update(arm: ArmReport) -> str:
    if arm.engine.family == "v0":
        return "between two steps"
    return f"pause {arm.mode}, cache {'cleared' if arm.clear_cache else 'kept'}"


def _loss(report: TrainingReport) -> str:
    training, workload = report.head.config["training"], report.head.config["workload"]
    trainer = report.trainer
    head = plain(trainer.settings["lm_head_dtype"].in_force)
    over = "the rollout's" if training["old_logprobs"] == "bypass" else "the trainer's own"
    return (
        f"trainer: {_trainer(trainer)}, lm_head {head}; {training['loss']} with ε "
        f"{training['epsilon_low']:g}/{training['epsilon_high']:g}, ratio over {over} logprobs; "
        f"AdamW, learning rate {training['learning_rate']:g}; "
        f"{words.count(training['steps'], 'step')} of "
        f"{words.count(training['prompts_per_step'], 'prompt')} × "
        f"{words.count(training['group_size'], 'sample')}, temperature "
        f"{workload['temperature']:g}, up to {words.count(workload['max_tokens'], 'token')}"
    )


def _trainer(trainer: EngineReport) -> str:
    """Its versions and the dtype of its body, as far as its worker says them."""
    torch, dtype = trainer.packages.get("torch"), trainer.config.get("dtype")
    parts = [trainer.label, f"torch {torch}" if torch else None, dtype]
    return ", ".join(part for part in parts if part)


# --- curves -----------------------------------------------------------------------------------


def _curves(report: TrainingReport) -> Iterator[Block]:
    columns = (
        Column("arm"), Column("curve"), Column("mean", "right"), Column("reference", "right"),
        Column("distance", "right"), Column("interval", "right"), Column("limit", "right"),
        Column("first step outside", "right"), Column("verdict"),
    )  # fmt: skip
    rows = [
        _row(report, arm, curve, place == 0)
        for arm in report.others
        for place, curve in enumerate(each for each in CURVES if each.judging != "shown")
        if _has(report, arm.name)
    ]
    yield Table("Each arm's curves against the reference's", columns, tuple(rows))
    yield Figure("curves", "Curves by step", HEALTHY, tuple(_panels(report)))
    yield Legend(LEGEND)


def _has(report: TrainingReport, arm: str) -> bool:
    return any(each.arm == arm for each in report.results)


def _row(report: TrainingReport, arm: ArmReport, curve: Curve, first: bool) -> Row:
    result, reference = report.result(arm.name, curve.name), report.result(FIRST, curve.name)
    found = result.distance
    assert found is not None
    shown = partial(_number, curve)
    return Row(
        (
            arm.name if first else "",
            curve.label,
            shown(result.mean),
            shown(reference.mean),
            _signed(curve, found.value),
            f"[{_signed(curve, found.ci_low)}, {_signed(curve, found.ci_high)}]",
            f"± {shown(found.limit)}",
            "never" if found.first_outside is None else str(found.first_outside),
            "not judged" if result.unresolved else Judged(found.verdict),
        ),
        marked=found.verdict == "drift" and not result.unresolved,
    )


def _number(curve: Curve, value: float) -> str:
    if curve.unit == "share":
        return f"{100 * value:.1f} %"
    return f"{value:.2e}" if curve.name == "k3_kl" else f"{value:.3f}"


def _signed(curve: Curve, value: float) -> str:
    return ("+" if value >= 0 else "") + _number(curve, value)


def _panels(report: TrainingReport) -> Iterator[Panel]:
    for curve in CURVES:
        if curve.name not in PANELS:
            continue
        reference = report.curve(FIRST, curve.name)
        arms = {arm.name: report.curve(arm.name, curve.name) for arm in report.others}
        arms = {arm: values for arm, values in arms.items() if values.size}
        half = 2 * report.result(FIRST, curve.name).band.step
        yield Panel(
            partial(
                pictures.curve, reference=reference, arms=arms, half_width=half, label=curve.label
            ),
            f"{curve.label}: {curve.definition}",
            f"{curve.label} by step: {_spoken(report, curve)}.",
            (5.0, 3.2),
        )
    shares = {arm.name: _lag_shares(report, arm.name) for arm in report.arms}
    yield Panel(
        partial(pictures.lags, shares={k: v for k, v in shares.items() if v.size}),
        "lag: how many updates a token's policy is behind the trainer's when it is learned from",
        "Share of tokens at each lag: "
        + "; ".join(f"{arm} {_percent(values)}" for arm, values in shares.items())
        + ".",
        (5.0, 3.2),
    )


def _percent(shares: Floats) -> str:
    return ", ".join(f"{100 * share:.0f} %" for share in shares)


def _spoken(report: TrainingReport, curve: Curve) -> str:
    means = [
        f"{arm.name} {_number(curve, report.result(arm.name, curve.name).mean)}"
        for arm in report.arms
        if _has(report, arm.name)
    ]
    return "mean of " + ", ".join(means)


def _lag_shares(report: TrainingReport, arm: str) -> Floats:
    rows = [each for each in report.steps if each.arm == arm]
    size = max((len(each.lag_shares) for each in rows), default=0)
    totals = np.zeros(size)
    for each in rows:
        totals[: len(each.lag_shares)] += np.array(each.lag_shares) * each.tokens
    return totals / max(1, sum(each.tokens for each in rows))


# --- rungs, agreement, time -------------------------------------------------------------------


def _rungs(report: TrainingReport) -> Iterator[Block]:
    """With more than two arms: what each of them removes of the distance of the one before."""
    arms = [arm for arm in report.others if _has(report, arm.name)]
    if len(arms) < 3:
        return
    judged = [curve for curve in CURVES if curve.judging == "judged"]
    columns = (
        Column("arm"),
        *(
            Column(f"{what}{curve.label}", "right")
            for curve in judged
            for what in ("distance in ", "removes of ")
        ),
        Column("verdict"),
    )
    rows = []
    for place, arm in enumerate(arms):
        cells: list[str] = []
        for curve in judged:
            own = _distance(report, arm, curve)
            before = _distance(report, arms[place - 1], curve) if place else None
            removed = "–" if before is None else _signed(curve, abs(before) - abs(own))
            cells += [_signed(curve, own), removed]
        rows.append(Row((arm.name, *cells, Judged(report.verdict_of(arm)))))
    yield Table("What each arm removes of the distance of the arm before it", columns, tuple(rows))


def _distance(report: TrainingReport, arm: ArmReport, curve: Curve) -> float:
    found = report.result(arm.name, curve.name).distance
    assert found is not None
    return found.value


def _agreement(report: TrainingReport) -> Iterator[Block]:
    compared = [arm for arm in report.others if arm.compared is not None]
    if not compared:
        yield Sentence("The engines were not compared: training.compare = false.", muted=True)
        return
    columns = (Column("arm"), Column("compare"), Column("train"), Column("agree"), Column(""))
    rows = []
    for arm in compared:
        assert arm.compared is not None
        trained = report.verdict_of(arm)
        agree = arm.compared == trained
        why = "" if agree else _why(arm, trained, report.arms[0])
        rows.append(
            Row(
                (arm.name, Judged(arm.compared), Judged(trained), "yes" if agree else "no", why),
                marked=not agree,
            )
        )
    yield Table("The verdict of `compare` on the same engines", columns, tuple(rows))


def _why(arm: ArmReport, trained: Verdict, reference: ArmReport) -> str:
    """What is known of a disagreement."""
    if "inconclusive" in (arm.compared, trained):
        return UNDECIDED
    if arm.compared == "drift":
        return TOO_SMALL
    same = (arm.lag, arm.mode, arm.clear_cache) == (
        reference.lag, reference.mode, reference.clear_cache,
    )  # fmt: skip
    return "" if same else UPDATES_UNSEEN


def _time(report: TrainingReport) -> Table:
    columns = (
        Column("arm"), Column("steps", "right"), Column("seconds", "right"),
        *(Column(each, "right") for each in ("engine", "trainer", "weights")),
    )  # fmt: skip
    rows = []
    for arm in report.arms:
        steps = [each for each in report.steps if each.arm == arm.name]
        sample, learn, sync = (
            sum(getattr(each, phase) for each in steps)
            for phase in ("sample_s", "learn_s", "sync_s")
        )
        total = sample + learn + sync
        shares = (f"{100 * part / total:.0f} %" if total else "–" for part in (sample, learn, sync))
        rows.append(Row((arm.name, str(len(steps)), f"{total:.1f}", *shares)))
    return Table("Where the time went", columns, tuple(rows))


# --- checks -----------------------------------------------------------------------------------


def _checks(report: TrainingReport) -> Iterator[Checks]:
    """Those of each arm."""
    for arm in report.others:
        yield Checks(arm.name, tuple(_of_arm(report, arm)))


def _of_arm(report: TrainingReport, arm: ArmReport) -> Iterator[Check]:
    if arm.stopped is not None:
        yield Check(
            arm.name, "steps", "steps", "drift",
            f"stopped after {_steps(report, arm.name)} of {report.wanted} steps: {arm.stopped}",
        )  # fmt: skip
    elif untrained := report.untrained(arm.name):
        yield Check(
            arm.name, "gradient", "gradient", "inconclusive",
            f"most steps of {' and '.join(untrained)} had no gradient, so the weights hardly "
            "changed",
            "rewards that differ within a prompt's samples would resolve it",
        )  # fmt: skip
    for curve in CURVES:
        if curve.judging != "shown" and _has(report, arm.name):
            yield _check(arm, curve, report.result(arm.name, curve.name))


def _check(arm: ArmReport, curve: Curve, result: Result) -> Check:
    found = result.distance
    assert found is not None
    if result.unresolved:
        return Check(
            arm.name, curve.name, curve.label, None,
            "not judged: the reference's own seeds differ by "
            f"{_number(curve, result.band.half_width)}",
            "more samples or seeds would resolve it",
        )  # fmt: skip
    where = {"parity": "within", "drift": "outside", "inconclusive": "not clearly within"}
    since = "" if found.first_outside is None else f", since step {found.first_outside}"
    if found.verdict == "inconclusive" and found.limit > WIDEST * curve.matters:
        since += (
            f"; the limit is the spread of the reference's own seeds, more than {WIDEST:g} times "
            f"the {_number(curve, curve.matters)} that matter"
        )
    return Check(
        arm.name, curve.name, curve.label, found.verdict,
        f"{_signed(curve, found.value)} "
        f"[{_signed(curve, found.ci_low)}, {_signed(curve, found.ci_high)}] from the reference, "
        f"{where[found.verdict]} ± {_number(curve, found.limit)}{since}",
        "more steps or seeds would resolve it" if found.verdict == "inconclusive" else None,
    )  # fmt: skip
