"""What a run's steps are recorded under. A resumed run goes on under the same, or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from parity_check.comparison.report import EngineReport
from parity_check.config.load import dump_config
from parity_check.config.models import Config
from parity_check.config.training import Training
from parity_check.errors import ConfigError, InputError
from parity_check.files import write_text
from parity_check.recording import unchanged
from parity_check.training import arms
from parity_check.training.files import CONDITIONS
from parity_check.training.task import Problem

SCHEMA_VERSION = 1
FREE = (
    "objective", "gates", "stats", "diagnosis", "run", "workload.prompts", "workload.prompt_column",
    "workload.num_prompts",
    "workload.most_tokens", "workload.samples_per_prompt", "workload.top_logprobs",
    "workload.sampled_by", "workload.repeats", "training.band", "training.reward_resolution",
    "training.reward_timeout_s", "training.compare",
)  # fmt: skip
"""Keys that shape no step: how curves are judged, the one-shot comparison, timeouts."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """`config` has the keys that shape a step, by dotted name."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    config: dict[str, Any]
    prompts_sha256: str
    """Of every step's prompts and answers."""
    reward_sha256: str | None
    """Of the file that the reward function is in; None without one below `python_path`."""
    model: dict[str, Any]
    schema_version: int = SCHEMA_VERSION


def conditions(
    config: Config, steps: Sequence[Sequence[Problem]], model: Mapping[str, Any]
) -> Conditions:
    """`model` is its fingerprint, as in a trace."""
    problems = [[asdict(problem) for problem in step] for step in steps]
    return Conditions(
        config=unchanged.keys(dump_config(config), FREE),
        prompts_sha256=hashlib.sha256(json.dumps(problems).encode()).hexdigest(),
        reward_sha256=_reward_sha256(arms.training_of(config)),
        model=dict(model),
    )


def write(directory: Path, found: Conditions) -> None:
    """Raises OutputError."""
    write_text(directory / CONDITIONS, json.dumps(asdict(found), indent=1) + "\n")


def check_resumable(directory: Path, now: Conditions) -> None:
    """Raises ConfigError where a step would be recorded under other conditions than those before.

    Raises InputError for a directory without conditions.
    """
    new = f"start a new run: parity-check train -c {directory / 'config.toml'}"
    before = _stored(directory, new)
    unchanged.check_unchanged(directory / "config.toml", before.config, now.config, new)
    for field, what, key in (
        ("prompts_sha256", "prompts and answers", "training.prompts"),
        ("reward_sha256", "reward function", "training.reward"),
        ("model", "model", "model.path"),
    ):
        if getattr(before, field) != getattr(now, field):
            raise ConfigError(
                f"{directory}: {what}: not what the run began with ({key})",
                hint=f"put back what was there, or {new}",
            )


def check_engine(before: EngineReport, now: EngineReport) -> None:
    """Raises ConfigError where an engine is not the one that recorded the steps before."""
    found = unchanged.changes(_facts(before), _facts(now))
    if found:
        raise ConfigError(
            f"{now.role}: not the engine that recorded the steps that are kept: {found}",
            hint="put its environment back, or start a new run",
        )


def _facts(engine: EngineReport) -> dict[str, Any]:
    """What is the same whenever this engine starts."""
    return {
        "engine": engine.label,
        "family": engine.family,
        "device": engine.device,
        **engine.packages,
        **{name: setting.in_force for name, setting in engine.settings.items()},
    }


def _stored(directory: Path, new: str) -> Conditions:
    path = directory / CONDITIONS
    if not path.is_file():
        raise InputError(
            f"{directory}: no {CONDITIONS}, so nothing says what its steps were recorded under",
            hint=new,
        )
    try:
        found = TypeAdapter(Conditions).validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path}: not the conditions of a training run", hint=new) from None
    if found.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema {found.schema_version}, but this version of parity-check reads "
            f"{SCHEMA_VERSION}",
            hint=new,
        )
    return found


def _reward_sha256(training: Training) -> str | None:
    if training.reward is None or training.python_path is None:
        return None
    module = Path(training.python_path, *training.reward.partition(":")[0].split("."))
    for file in (module.with_suffix(".py"), module / "__init__.py"):
        if file.is_file():
            return hashlib.sha256(file.read_bytes()).hexdigest()
    return None
