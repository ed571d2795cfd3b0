"""Diagnose a case: find a cause, subtract it, search again in what is left."""

from __future__ import annotations

import shlex

from parity_check.config.flags import ON_A_TRACE
from parity_check.config.models import ROLES
from parity_check.diagnosis.case import Case, Match, Rule
from parity_check.diagnosis.findings import Diagnosis, Finding, Layer, Stage
from parity_check.diagnosis.known import known
from parity_check.diagnosis.rules import RULES
from parity_check.measure.gates import Verdict

MUCH = 0.3
"""Below this share of E|Δ|, vague rules do not apply: subtraction is not exact."""
APPLIED = {
    "server": "start the server of the {name} with ",
    "trainer": "in the {name}'s forward pass: ",
    "dump": "in the framework that wrote the dump, for its {name}: ",
}
"""Where a setting of an engine is changed that the configuration does not set up, by its kind."""
OPTIONS = {
    'logprobs_mode = "processed_logprobs"': "--logprobs-mode processed_logprobs",
    "enable_prefix_caching = false": "--no-enable-prefix-caching",
    "async_scheduling = false": "--no-async-scheduling",
    'lm_head_dtype = "float32"': """--hf-overrides '{"head_dtype": "float32"}', from 0.26 on""",
}
"""What vLLM calls a setting, for whoever starts the rollout engine of a trainer."""
VAGUE = "different_computation"
"""The cause that says that no pattern says why."""
BLIND = "without alternatives, a temperature, a penalty or truncated support cannot be ruled out"
CLEAN = {
    "semantic": "both engines' logprobs have the same meaning",
    "inference path": "only numeric noise without a pattern",
    "objective": "the backend adds only noise; any further off-policy effect comes from the "
    "trainer: staleness, or the loss",
}


def diagnose(case: Case, verdict: Verdict) -> Diagnosis:
    """Find the causes and judge the three layers, in order."""
    initial = case.evidence.size()
    found: list[Finding] = []
    for rule in RULES:
        if rule.vague and case.evidence.size() < MUCH * initial:
            continue
        match = rule.look(case)
        if match is None:
            continue
        found.append(_finding(rule, match, case, initial))
        if match.after is not None:
            case = case.left_with(match.after)
        if match.settles:
            break
    found.sort(key=lambda finding: (finding.remark, -finding.weight))
    causes = [finding for finding in found if not finding.remark]
    unexplained = verdict == "drift" and not causes
    vague = unexplained or any(finding.cause == VAGUE for finding in causes)
    blind = vague and not case.evidence.has_alternatives
    return Diagnosis(
        stages=_stages(causes, verdict, unexplained, blind),
        findings=tuple(found),
        known=(*map(case.named, known(case)), *_sampled(case)) if unexplained else (),
    )


def _finding(rule: Rule, match: Match, case: Case, initial: float) -> Finding:
    names = match.names()

    def filled(template: str) -> str:
        return case.named(template.format(**names, run="{run}")).replace("{run}", case.run or "")

    explained = None
    if match.after is not None:
        explained = (case.evidence.size() - match.after.size()) / initial if initial else 0.0
    elif match.share is not None:
        explained = match.share * case.evidence.size() / initial if initial else match.share
    if explained is not None:
        explained = min(1.0, max(0.0, explained))
    return Finding(
        cause=rule.cause,
        layer=rule.layer,
        confidence=match.confidence,
        engine=None if match.engine is None else case.names[match.engine],
        claim=filled(rule.claim),
        evidence=(*map(case.named, match.evidence), *_sampled(case)),
        explained=explained,
        weight=match.rows if explained is None else explained,
        fix=_fix(filled(rule.fix), case),
        confirm=_confirm(filled(rule.confirm), case),
    )


def _fix(line: str, case: Case) -> str:
    """The fix; a line of the configuration only for an engine that the configuration sets up.

    Of an engine that is vLLM, with what vLLM itself calls the setting.
    """
    for role in ROLES:
        kind = case.engines[role].kind
        table = case.named(f"[{role}.x]").removesuffix(".x]")
        if not line.startswith(f"{table}."):
            continue
        _, _, values = line.partition("] ")
        place = APPLIED.get(kind)
        fix = line if place is None else place.format(name=case.names[role]) + values
        option = next((OPTIONS[each] for each in OPTIONS if values.startswith(each)), None)
        return f"{fix}; of vLLM itself: {option}" if option and kind in ("vllm", "server") else fix
    return line


def _confirm(command: str, case: Case) -> str | None:
    """The command where what it needs is at hand: a run directory, an engine that can restart."""
    if case.run is None:
        return ON_A_TRACE.format(trace=shlex.quote(case.trace))
    reference, candidate = (case.engines[role].kind for role in ROLES)
    if command.startswith("parity-check ablate") and candidate != "vllm":
        return None
    if command.startswith("parity-check locate") and (
        reference != "vllm"
        or candidate not in ("vllm", "trainer")
        or any(case.names[role] != role for role in ROLES)
    ):
        return None
    return command


def _sampled(case: Case) -> tuple[str, ...]:
    """A note if the traces are too long to be read completely."""
    seen, total = len(case.evidence.delta), case.evidence.total_tokens
    if seen >= total:
        return ()
    return (f"based on {seen:,} of {total:,} tokens: whole samples, evenly spaced",)


def _stages(
    found: list[Finding], verdict: Verdict, unexplained: bool, blind: bool
) -> tuple[Stage, ...]:
    """The layers; `blind` if what was found could be of the semantic one too."""
    causes: dict[Layer, list[str]] = {"semantic": [], "inference path": []}
    for finding in found:
        causes[finding.layer].append(finding.cause)
    stages: list[Stage] = []
    for layer, names in causes.items():
        if names == [VAGUE] and blind and verdict == "inconclusive":
            stages.append(Stage(layer, "unknown", f"found: {VAGUE}, which may be of either layer"))
        elif names:
            stages.append(Stage(layer, "fail", f"found: {', '.join(names)}"))
        elif any(stage.outcome == "fail" for stage in stages):
            stages.append(Stage(layer, "not reached", "the previous layer must pass first"))
        elif layer == "semantic" and blind:
            stages.append(Stage(layer, "unknown", BLIND))
        elif layer == "inference path" and unexplained:
            stages.append(Stage(layer, "fail", "drift found, cause unknown"))
        elif layer == "inference path" and verdict == "inconclusive":
            stages.append(Stage(layer, "not reached", "no cause found, and gates are inconclusive"))
        else:
            stages.append(Stage(layer, "pass", CLEAN[layer]))
    if all(stage.outcome == "pass" for stage in stages):
        stages.append(Stage("objective", "pass", CLEAN["objective"]))
    else:
        stages.append(Stage("objective", "not reached", "the previous layers must pass first"))
    return tuple(stages)
