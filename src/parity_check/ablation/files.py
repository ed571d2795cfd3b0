"""The directory of an ablation: its plan, and a directory for each configuration."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parity_check.ablation.plan import Step
from parity_check.errors import InputError
from parity_check.files import write_text
from parity_check.traces.run_files import repeat_name, replayed_name, sampled_name

PLAN = "plan.json"
REPORT = "ablation.json"
PAGE = "report.html"
FAILURE = "failure.txt"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """The plan of an ablation. `source` is the run whose traces it reuses."""

    run_id: str
    created_utc: str
    command: str
    source: str | None
    steps: tuple[Step, ...]
    schema_version: int = SCHEMA_VERSION


def is_ablation(path: Path) -> bool:
    """Whether a run directory is an ablation."""
    return (path / PLAN).is_file()


def write_plan(directory: Path, plan: StoredPlan) -> None:
    write_text(directory / PLAN, json.dumps(asdict(plan), indent=1, ensure_ascii=False) + "\n")


def read_plan(directory: Path) -> StoredPlan:
    """Read the plan. Raises InputError if there is none, or if its schema version is unknown."""
    path = directory / PLAN
    try:
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        plan = StoredPlan(**{**tree, "steps": tuple(Step(**step) for step in tree["steps"])})
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", hint="pass the directory of an ablation"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path}: not an ablation plan") from None
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
    """The reference's rollouts in a run directory, and its A/A runs."""
    repeats = sorted(directory.glob(repeat_name("reference", "*")))
    return [directory / sampled_name("reference"), *repeats]


def is_finished(step: Path) -> bool:
    """Whether a step has all traces: each is written atomically, and this one last."""
    return (step / replayed_name("candidate")).is_file()


def make_step(directory: Path, name: str) -> Path:
    """Create an empty directory for a step, with links to the shared traces."""
    step = directory / name
    shutil.rmtree(step, ignore_errors=True)
    step.mkdir()
    for shared in shared_traces(directory):
        (step / shared.name).symlink_to(Path("..") / shared.name)
    return step


def failure_of(step: Path) -> str | None:
    """Why a step failed; None if it did not."""
    try:
        return (step / FAILURE).read_text(encoding="utf-8").strip()
    except OSError:
        return None
