"""Run the steps of an ablation: restart the candidate for each, keep the reference loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import tomli_w

from parity_check.ablation.files import FAILURE, make_step
from parity_check.ablation.plan import Step
from parity_check.config.load import dump_config, parse_config
from parity_check.config.models import Config
from parity_check.console import Console
from parity_check.engines.base import Engine
from parity_check.errors import EngineError, InputError, ParityCheckError
from parity_check.files import write_text
from parity_check.recording import requests
from parity_check.recording.recorder import sample_with_repeats, score_trace
from parity_check.recording.session import Session, check_model, check_reading, exchange
from parity_check.traces import manifest
from parity_check.traces.prompts import Prompt, read_workload
from parity_check.traces.run_files import replayed_name, sampled_name
from parity_check.traces.trace import Trace


def configured(config: Config, step: Step) -> Config:
    """The configuration of one step. Raises ConfigError for an invalid value of a setting."""
    tree = dump_config(config)
    tree["candidate"] |= {"settings": dict(step.settings), "engine_args": dict(step.engine_args)}
    return parse_config(tree, source=f"step `{step.name}`")


def run_steps(
    live: Session, directory: Path, config: Config, todo: Sequence[Step], console: Console
) -> None:
    """Run every remaining configuration; if one fails, record that and continue."""
    reference = directory / sampled_name("reference")
    if reference.is_file():
        check_model(live.model, reference)
        live.engines.run({"reference": partial(check_reading, live)})
    else:
        live.activity.update("ablation", "the reference is recording", 0, len(todo))
        live.engines.run({"reference": partial(_record, live, directory)})
    clock = Clock(len(todo))
    for number, step in enumerate(todo):
        live.activity.update(
            "ablation", f"step {number + 1} of {len(todo)}: {step.name}{clock.left()}",
            number, len(todo),
        )  # fmt: skip
        try:
            _run_step(live, directory, config, step)
        except (EngineError, InputError) as error:
            _note_failure(directory, step, error, console)
        clock.tick()


class Clock:
    """How long the remaining steps will take, estimated from the finished ones."""

    def __init__(self, steps: int, now: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._done = steps, 0
        self._now, self._began = now, now()

    def tick(self) -> None:
        """Count a finished step."""
        self._done += 1

    def left(self) -> str:
        """The estimate in words; empty before the first step is done."""
        if not self._done:
            return ""
        seconds = (self._now() - self._began) / self._done * (self._steps - self._done)
        return f", about {duration(seconds)} left"


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _record(live: Session, directory: Path, engine: Engine) -> None:
    workload = live.config.workload
    check_reading(live, engine)
    prompts = read_workload(workload)
    sample_with_repeats(live, directory, prompts, requests.tokenize(engine, prompts), engine)


def _run_step(live: Session, directory: Path, config: Config, step: Step) -> None:
    """Start the candidate with the step's settings; run its part, then the reference's."""
    assert step.directory is not None
    path = make_step(directory, step.directory, live.run_id, config.workload.repeats)
    its_own = configured(config, step)
    write_text(path / "config.toml", tomli_w.dumps(dump_config(its_own)))
    live = exchange(live, "candidate", its_own, path)
    live.engines.run({"candidate": partial(_candidate_traces, live, path)})
    sampled, replayed = (path / name("candidate") for name in (sampled_name, replayed_name))
    live.engines.run({"reference": partial(score_trace, live, "replay", sampled, replayed)})
    manifest.finish(path)


def _candidate_traces(live: Session, path: Path, engine: Engine) -> None:
    """In the order of `compare`, so that the prefix cache holds the same before the replay."""
    reference = path / sampled_name("reference")
    prompts, token_ids = _prompts_of(Trace(reference))
    check_reading(live, engine)
    sample_with_repeats(live, path, prompts, token_ids, engine)
    score_trace(live, "replay", reference, path / replayed_name("reference"), engine)


def _prompts_of(trace: Trace) -> tuple[list[Prompt], list[list[int]]]:
    """The prompts of a trace, in order, and their token ids."""
    prompts = {
        sample.prompt_id: Prompt(
            prompt_id=sample.prompt_id,
            group=sample.prompt_group,
            text=None,
            messages=None,
            token_ids=list(sample.prompt_token_ids),
            labels=sample.labels,
        )
        for sample in trace.samples()
    }
    return list(prompts.values()), [prompt.token_ids or [] for prompt in prompts.values()]


def _note_failure(directory: Path, step: Step, error: ParityCheckError, console: Console) -> None:
    assert step.directory is not None
    log = "" if error.log is None else f" (log: {error.log.relative_to(directory.absolute())})"
    write_text(directory / step.directory / FAILURE, f"{error.message}{log}\n")
    console.warn(f"step `{step.name}` failed: {error.message}")
    for line in error.details:
        console.detail(f"  {line}")
