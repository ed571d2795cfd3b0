"""The files of a training comparison's run, and how to recognise its directory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from parity_check.comparison.report import EngineReport
from parity_check.errors import InputError
from parity_check.files import whole, write_text
from parity_check.training.arms import Run
from parity_check.training.curves import Step

if TYPE_CHECKING:
    import pyarrow as pa

REPORT, PAGE = "training.json", "report.html"
CURVES, TABLE = "curves.parquet", "curves.csv"
CONDITIONS = "conditions.json"
"""What every step was recorded under."""
COMPARED = "compare"
"""The directory of the one-shot comparison of the same engines."""


def is_training(directory: Path) -> bool:
    """Whether a run directory is of `train`, finished or not."""
    return any((directory / name).is_file() for name in (REPORT, CONDITIONS)) or any(
        directory.glob("*.steps.jsonl")
    )


def steps_name(run: Run) -> str:
    """The file with the steps of one run, a line each, written while it goes on."""
    return f"{run.arm}-{run.seed}.steps.jsonl"


def add_step(directory: Path, run: Run, step: Step) -> None:
    with (directory / steps_name(run)).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(step)) + "\n")


def stored_steps(directory: Path, run: Run, wanted: int) -> list[Step]:
    """The steps of a run so far, of those wanted.

    Without a last line that a killed process did not finish. Raises InputError for a damaged file,
    also for one whose steps are not 0, 1, 2 and so on.
    """
    path = directory / steps_name(run)
    if not path.is_file():
        return []
    kind, found = TypeAdapter(Step), []
    again = f"remove it, and resume again: only {run.name} begins anew"
    for number, line in enumerate(_split(path)[0].splitlines()):
        try:
            step = kind.validate_json(line)
        except ValidationError:
            reason = "is not a step of a training run"
            raise InputError(f"{path}: line {number + 1} {reason}", hint=again) from None
        if Run(step.arm, step.seed) != run:
            other = Run(step.arm, step.seed).name
            raise InputError(f"{path}: line {number + 1} is of {other}", hint=again)
        if step.step != number:
            raise InputError(
                f"{path}: line {number + 1} is step {step.step}, where step {number} belongs",
                hint=again,
            )
        found.append(step)
    if len(found) > wanted:
        raise InputError(f"{path}: {len(found)} steps, of {wanted} that were wanted", hint=again)
    return found


def is_cut(directory: Path, run: Run) -> bool:
    """Whether the last line of a run's steps was not finished."""
    path = directory / steps_name(run)
    return path.is_file() and bool(_split(path)[1])


def _split(path: Path) -> tuple[bytes, bytes]:
    """The whole lines, and what follows the last of them. Raises InputError."""
    try:
        whole_lines, _, rest = path.read_bytes().rpartition(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return whole_lines, rest


def engine_name(arm: str) -> str:
    """The file with an arm's engine, or the trainer, as it was described when it started."""
    return f"{arm}.engine.json"


def write_engine(directory: Path, engine: EngineReport) -> None:
    text = TypeAdapter(EngineReport).dump_json(engine, indent=1).decode()
    write_text(directory / engine_name(engine.role), text + "\n")


def stored_engine(directory: Path, arm: str) -> EngineReport:
    """Raises InputError for a damaged file."""
    path = directory / engine_name(arm)
    try:
        return TypeAdapter(EngineReport).validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise InputError(f"{path}: not the description of an engine") from None


def write_curves(directory: Path, steps: Sequence[Step]) -> None:
    """All steps of all runs, as Parquet and as CSV."""
    import pyarrow.parquet as pq

    with whole(directory / CURVES) as partial:
        pq.write_table(_table(steps), partial)
    rows = [{k: v for k, v in asdict(each).items() if k != "lag_shares"} for each in steps]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    write_text(directory / TABLE, text.getvalue())


def _table(steps: Sequence[Step]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(each) for each in steps])
