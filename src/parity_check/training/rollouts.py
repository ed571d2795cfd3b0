"""A step's rollouts as traces, for `compare` and its diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from parity_check.config.training import TRAINER
from parity_check.engines.client import WorkerEngine
from parity_check.recording import requests
from parity_check.recording.recorder import trace_header
from parity_check.recording.session import Session
from parity_check.traces.trace import Sample, write_trace
from parity_check.training.arms import Run
from parity_check.training.loop import Rollout

DIRECTORY = "rollouts"


def keep(
    session: Session,
    directory: Path,
    run: Run,
    step: int,
    rollouts: Sequence[Rollout],
    engine: WorkerEngine,
    learner: WorkerEngine,
) -> None:
    """Write two traces of one step: as the engine sampled it, and as the trainer scored it."""
    place = directory / DIRECTORY / f"{run.arm}-{run.seed}"
    place.mkdir(parents=True, exist_ok=True)
    samples = [_sample(each) for each in rollouts]
    texts = requests.vocabulary(learner, samples)
    written = write_trace(
        place / f"step-{step:04d}.parquet",
        samples,
        trace_header(session, engine, "decode", sampled_by=run.arm),
        texts,
    )
    scored = [
        replace(sample, logprobs=each.trainer, entropy=each.entropy)
        for sample, each in zip(samples, rollouts, strict=True)
    ]
    write_trace(
        place / f"step-{step:04d}-{TRAINER}.parquet",
        scored,
        trace_header(
            session,
            learner,
            learner.description.evaluates_by,
            sampled_by=run.arm,
            replayed_from=written.token_digest,
        ),
        texts,
    )


def _sample(each: Rollout) -> Sample:
    """`policy_version` is that of its first token, the oldest."""
    prompt, _, index = each.sample_id.rpartition("/")
    return Sample(
        sample_id=each.sample_id,
        prompt_id=prompt,
        sample_index=int(index),
        prompt_group=each.problem.prompt.group,
        prompt_token_ids=each.prompt_token_ids,
        completion_token_ids=each.token_ids,
        logprobs=each.behaviour,
        top_token_ids=None,
        top_logprobs=None,
        finish_reason=each.finish_reason,
        seed=None,
        policy_version=each.versions[0],
        text=each.text,
    )
