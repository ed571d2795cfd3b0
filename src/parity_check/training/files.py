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
COMPARED = "compare"
"""The directory of the one-shot comparison of the same engines."""


def is_training(directory: Path) -> bool:
    """Whether a run directory is of `train`, finished or not."""
    return (directory / REPORT).is_file() or any(directory.glob("*.steps.jsonl"))


def steps_name(run: Run) -> str:
    """The file with the steps of one run, a line each, written while it goes on."""
    return f"{run.arm}-{run.seed}.steps.jsonl"


def add_step(directory: Path, run: Run, step: Step) -> None:
    with (directory / steps_name(run)).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(step)) + "\n")


def stored_steps(directory: Path, run: Run) -> list[Step]:
    """The steps of a run so far, without a last line that a killed process did not finish.

    Raises InputError for a damaged file.
    """
    path = directory / steps_name(run)
    if not path.is_file():
        return []
    kind = TypeAdapter(Step)
    try:
        whole_lines = path.read_bytes().rpartition(b"\n")[0].splitlines()
        return [kind.validate_json(line) for line in whole_lines]
    except ValidationError:
        raise InputError(
            f"{path}: not the steps of a training run", hint="remove it, and resume again"
        ) from None


def engine_name(arm: str) -> str:
    """The file with an arm's engine as it was described when it started."""
    return f"{arm}.engine.json"


def write_engine(directory: Path, arm: str, engine: EngineReport) -> None:
    text = TypeAdapter(EngineReport).dump_json(engine, indent=1).decode()
    write_text(directory / engine_name(arm), text + "\n")


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
