"""The directory of an ablation: its plan, and a directory for each configuration."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from parity_check.ablation.plan import Step
from parity_check.config.models import ROLES
from parity_check.errors import InputError
from parity_check.files import write_text
from parity_check.traces import manifest
from parity_check.traces.run_files import repeat_name, replayed_name, sampled_name

PLAN = "plan.json"
REPORT = "ablation.json"
PAGE = "report.html"
FAILURE = "failure.txt"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """The steps of an ablation; `source` is the run whose traces it reuses.

    `config` has the keys that shape a trace, by dotted name; None in plans of earlier versions.
    """

    run_id: str
    created_utc: str
    command: str
    source: str | None
    steps: tuple[Step, ...]
    config: dict[str, Any] | None = None
    schema_version: int = SCHEMA_VERSION


def is_ablation(path: Path) -> bool:
    """Whether a directory is that of an ablation."""
    return (path / PLAN).is_file()


def write_plan(directory: Path, plan: StoredPlan) -> None:
    write_text(directory / PLAN, json.dumps(asdict(plan), indent=1, ensure_ascii=False) + "\n")


def read_plan(directory: Path) -> StoredPlan:
    """Read the plan. Raises InputError if there is none, or if its schema version is unknown."""
    path = directory / PLAN
    try:
        plan = TypeAdapter(StoredPlan).validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", hint="pass the directory of an ablation"
        ) from None
    except ValueError:
        raise InputError(f"{path}: not an ablation plan") from None
    if any(step.directory and Path(step.directory).name != step.directory for step in plan.steps):
        raise InputError(f"{path}: not an ablation plan: a step lies outside the directory")
    if plan.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: plan schema {plan.schema_version}, but this version of parity-check reads "
            f"{SCHEMA_VERSION}"
        )
    return plan


def own_traces(repeats: int) -> tuple[str, ...]:
    """The traces of one configuration of the candidate, in the order of recording."""
    return (
        sampled_name("candidate"),
        *(repeat_name("candidate", number + 1) for number in range(repeats)),
        replayed_name("reference"),
        replayed_name("candidate"),
    )


def shared_traces(directory: Path) -> list[Path]:
    """The reference's own rollouts in a run's directory, and its A/A runs."""
    repeats = sorted(directory.glob(repeat_name("reference", "*")))
    return [directory / sampled_name("reference"), *repeats]


def is_finished(step: Path) -> bool:
    """Whether a step has all its traces. Raises InputError for a damaged manifest."""
    found = manifest.read_manifest(step)
    if found is None:  # as before there were manifests: traces are whole, and this one is the last
        return (step / replayed_name("candidate")).is_file()
    return found.finished


def make_step(directory: Path, name: str, run_id: str, repeats: int) -> Path:
    """A directory for a step: links to the traces that all steps share, and what it will record.

    `repeats` is the number of the candidate's A/A runs.
    """
    step = directory / name
    shutil.rmtree(step, ignore_errors=True)
    step.mkdir()
    shared = shared_traces(directory)
    for path in shared:
        (step / path.name).symlink_to(Path("..") / path.name)
    parts = manifest.parts_of(ROLES, ROLES, {"reference": len(shared) - 1, "candidate": repeats})
    manifest.begin(step, run_id, parts)
    return step


def failure_of(step: Path) -> str | None:
    """Why a step failed; None if it did not."""
    try:
        return (step / FAILURE).read_text(encoding="utf-8").strip()
    except OSError:
        return None
