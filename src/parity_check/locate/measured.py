"""The probes of two loaded engines, as a LocateReport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parity_check.comparison.analyse import engine_report, head_of
from parity_check.config.models import ROLES, Role
from parity_check.engines.probe import Probe
from parity_check.locate.differences import differences, processing
from parity_check.locate.probes import Probed
from parity_check.locate.report import LocateReport
from parity_check.recording.session import Session
from parity_check.traces.trace import Sample


def report_of(
    live: Session, samples: Sequence[Sample], probed: Mapping[Role, Probed], noisy: Probe
) -> LocateReport:
    """Compare the probes of both engines, against the reference's with noise."""
    reference, candidate = (probed[role].probe for role in ROLES)
    found = differences(reference, candidate, noisy)
    compared = {each.module for each in found}
    given = [(len(each.prompt_token_ids), each.completion_token_ids) for each in samples]
    temperature = live.config.workload.temperature
    engines = [(role, probed[role].engine) for role in ROLES]
    one, other = (engine_report(role, each, each.evaluates_by, None) for role, each in engines)
    return LocateReport(
        head=head_of("locate", live.config, live),
        engines=(one, other),
        passes=len(reference.rows),
        differences=found,
        unmatched=tuple(
            name
            for name in dict.fromkeys((*reference.modules, *candidate.modules))
            if name not in compared
        ),
        processing=(
            processing(reference, given, temperature),
            processing(candidate, given, temperature),
        ),
    )
