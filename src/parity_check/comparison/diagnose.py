"""The input of a diagnosis: a bounded sample of the traces of a pair, and facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parity_check.comparison.located import Located
from parity_check.comparison.report import Direction, Floor
from parity_check.comparison.stored import StoredRun
from parity_check.config.models import ROLES, Workload
from parity_check.diagnosis.case import Case, EngineFacts
from parity_check.diagnosis.evidence import evidence_of, first_samples
from parity_check.traces.batch import SampleBatch
from parity_check.traces.provenance import Difference
from parity_check.traces.trace import Trace, TraceHeader

TOKEN_BUDGET = 100_000
"""Tokens per direction that a diagnosis reads: whole samples from evenly spaced row groups."""
MOST_GROUPS = 4
"""Row groups of a long trace that a diagnosis reads, one at a time."""


def diagnosis_case(
    run: StoredRun,
    reference: str,
    candidate: str,
    directions: Sequence[Direction],
    floors: Sequence[Floor],
    differences: Sequence[Difference],
    located: Located | None = None,
) -> Case:
    """The input of the diagnosis rules. `directions` and `floors` are those of the pair."""
    roles = dict(zip(ROLES, (reference, candidate), strict=True))
    stored = list(run.directions(reference, candidate))
    first = stored[0][2].header
    return Case(
        evidence=evidence_of(
            (
                (left, right, "reference" if sampler == reference else "candidate")
                for sampler, _, behaviour, evaluating in stored
                for left, right in _sampled(behaviour, evaluating)
            ),
            total_tokens=sum(behaviour.header.tokens for _, _, behaviour, _ in stored),
        ),
        engines={
            role: _facts(name, run.header(name), directions, floors) for role, name in roles.items()
        },
        names=roles,
        sampling={**Workload().sampling(), **first.sampling},
        temperature_stated="temperature" in first.sampling,
        run=None
        if run.directory is None
        else f"{first.config.get('run', {}).get('out', 'runs')}/{first.run_id}",
        trace=str(stored[0][2].path),
        first_module=None if located is None else located.module,
        unrequested=tuple(each.key for each in differences if not each.requested),
    )


def _sampled(behaviour: Trace, evaluating: Trace) -> Iterator[tuple[SampleBatch, SampleBatch]]:
    """Whole samples up to the budget: the same ones from both traces, and in every analysis."""
    groups, header = behaviour.row_groups, behaviour.header
    whole = header.tokens <= TOKEN_BUDGET
    # Of each group at least one sample is read, however long.
    fits = max(1, TOKEN_BUDGET * header.samples // max(1, header.tokens))
    wanted = groups if whole else min(groups, MOST_GROUPS, fits)
    chosen = [number * groups // wanted for number in range(wanted)]
    each = TOKEN_BUDGET if whole else TOKEN_BUDGET // wanted
    for left, right in zip(
        behaviour.batches(chosen), evaluating.batches(chosen, like=behaviour), strict=True
    ):
        yield first_samples(left, each), first_samples(right, each)


def _facts(
    name: str, header: TraceHeader, directions: Sequence[Direction], floors: Sequence[Floor]
) -> EngineFacts:
    engine = header.engine
    own = [floor.measurement for floor in floors if floor.engine == name]
    defects: dict[str, int] = {}
    for direction in directions:
        side = "behaviour" if direction.sampled_by == name else "evaluating"
        for count in direction.measurement.invalid:
            if count.engine == side:
                defects[count.kind] = defects.get(count.kind, 0) + count.count
    return EngineFacts(
        version=engine.version,
        family=engine.family,
        distribution=header.logprob_distribution,
        settings={name: setting.in_force for name, setting in engine.settings.items()},
        config=engine.config,
        model=engine.model,
        floor=max((each["mean_abs_log_ratio"].value for each in own), default=None),
        floor_share=max((1 - each["identical_fraction"].value for each in own), default=None),
        defects=defects,
        measured=engine.backend == "vllm",
        kind="dump"
        if engine.imported
        else "server"
        if engine.served
        else "trainer"
        if engine.trainer
        else "vllm",
    )
