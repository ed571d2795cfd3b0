"""`locate` on the engines of a comparison while they are loaded, on tokens that they recorded."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from parity_check.comparison.located import Depth, Located
from parity_check.config.models import ROLES
from parity_check.locate import document, probes
from parity_check.locate.differences import by_layer, place_of
from parity_check.locate.measured import report_of
from parity_check.locate.report import LocateReport
from parity_check.recording.session import Session
from parity_check.traces.trace import Sample, Trace


def why_not(live: Session) -> str | None:
    """Why the modules of a run's engines cannot be read as they are; None if they can."""
    for role in ROLES:
        if role not in live.engines.specs:
            return f"the {role} is a stored trace"
        reason = probes.why_not(role, live.config)
        if reason is not None:
            return reason
    if not live.engines.resident:
        return "the engines take turns on one device"
    described = live.engines.run(dict.fromkeys(ROLES, lambda engine: engine.description))
    for role, engine in described.items():
        if probes.compiles(role, live.config) and not engine.config.get("enforce_eager", False):
            return f"the {role} runs compiled graphs, which call no module"
    return None


def locate(live: Session, trace: Path) -> Located:
    """Probe the reference and the candidate on the first tokens of a few samples of a trace."""
    samples = _few(Trace(trace))
    config = live.config
    plain, noisy = (partial(probes.probe, config, samples, each) for each in (False, True))
    probed = live.engines.run(dict.fromkeys(ROLES, plain))
    noise = live.engines.run({"reference": noisy})["reference"].probe
    return summary(report_of(live, samples, probed, noise))


def summary(found: LocateReport) -> Located:
    """What a comparison's report shows of it."""
    shown = document.document(found)
    depths = []
    for place, group in by_layer(found.differences):
        first = found.first if found.first in group else None
        most = first or max(group, key=lambda each: each.times_noise)
        depths.append(
            Depth(
                place=place.removeprefix("model."),
                module=place_of(most.module).partition(", ")[2],
                relative=most.relative,
                noise=most.noise,
                verdict="drift" if most.is_beyond_noise else "parity",
            )
        )
    return Located(
        verdict=found.verdict,
        module=None if found.first is None else place_of(found.first.module),
        summary=shown.outcome,
        reason=shown.lead,
        passes=found.passes,
        depths=tuple(depths),
    )


def _few(trace: Trace) -> list[Sample]:
    """One sample of each of a few prompts, cut to a few tokens."""
    by_prompt: dict[str, Sample] = {}
    for sample in trace.samples():
        if len(sample.completion_token_ids):
            by_prompt.setdefault(sample.prompt_id, sample)
    every = list(by_prompt.values())
    spread = every[:: max(1, len(every) // probes.PROMPTS)]
    return [
        replace(each, completion_token_ids=each.completion_token_ids[: probes.TOKENS])
        for each in islice(spread, probes.PROMPTS)
    ]
