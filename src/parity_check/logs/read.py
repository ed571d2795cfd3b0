"""Read the known scalars of a log: exports of W&B and TensorBoard, JSON lines, CSV.

    Step,run-a - rollout_corr/kl,run-a - rollout_corr/kl__MIN,…   a W&B chart
    _step,rollout_corr/kl,…                                       a W&B history, or any CSV
    Wall time,Step,Value                                          TensorBoard: run-RUN-tag-TAG.csv
    [[1718000000.1, 1, 0.002], …]                                 TensorBoard: run-RUN-tag-TAG.json
    [{"_step": 1, "rollout_corr/kl": 0.002}, …]                   a W&B history as JSON
    {"step": 1, "rollout_corr/kl": 0.002}                         JSON lines, a line a step
    {"step": 1, "data": {"rollout_corr/kl": 0.002}}               verl's file logger, in lines
    {"log_history": [{"step": 1, …}, …]}                          trainer_state.json of transformers

Nested objects are read as names with slashes. Values that are no numbers, such as histograms, are
left out.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity_check.errors import InputError
from parity_check.logs.names import Named, find, find_mangled
from parity_check.reading import parse_json, read_text
from parity_check.visible import value as shown

STEPS = ("train/global_step", "training/global_step", "trainer/global_step", "global_step",
         "step", "Step", "_step")  # fmt: skip
"""The trainer's own count before that of the logger, which may count calls."""
EXTREMES = ("__MIN", "__MAX")
"""What W&B adds to a column of a chart."""
OF_TENSORBOARD = re.compile(r"run[-_](?P<run>.*)-tag-(?P<tag>.+)")
HEADER_OF_TENSORBOARD = ["Wall time", "Step", "Value"]
CHART = " - "
"""Between the run and the metric, in a column of a W&B chart."""
OF_VERL = "data"
"""The object with all values of a step in a line of verl's file logger."""

Row = tuple[str, Mapping[str, Any]]
"""A place for messages, and values by name."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The values that one run logged under one known name, in the order of the file."""

    run: str
    name: str
    named: Named
    points: tuple[tuple[float, float], ...]
    """(step, value); a value may be NaN or infinite."""


@dataclass(frozen=True, slots=True)
class Log:
    """What one file holds; `unknown` are the names that no row of NAMES has."""

    path: Path
    curves: tuple[Curve, ...]
    unknown: tuple[str, ...]


def read_log(path: Path) -> Log:
    """The known scalars of a file. Raises InputError."""
    _check_kind(path)
    text = read_text(path, "the log")
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    rows = _from_json(path, text) if text.lstrip()[0] in "{[" else _from_csv(path, text)
    return _collect(path, rows)


def _check_kind(path: Path) -> None:
    """Refuse the binary files from which people make exports."""
    if ".tfevents." in path.name:
        raise InputError(
            f"{path}: an event file of TensorBoard",
            hint="download the scalars as CSV or JSON in TensorBoard (Show data download links)",
        )
    if path.suffix == ".wandb":
        raise InputError(
            f"{path}: W&B's own file of a run",
            hint="export the history: wandb.Api().run(PATH).history().to_csv(FILE)",
        )


# Formats.


def _from_json(path: Path, text: str) -> Iterator[Row]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not _is_row(lines[0][1]):
        yield from _from_document(path, parse_json(text, str(path)))
        return
    for number, line in lines:
        place = f"{path}, line {number}"
        row = parse_json(line, place, "not valid JSON, or truncated")
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected an object")
        yield from [(place, row)] if len(lines) > 1 else _from_document(path, row)


def _is_row(line: str) -> bool:
    """Whether a line is an object by itself."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _from_document(path: Path, tree: Any) -> Iterator[Row]:
    if isinstance(tree, dict):
        tree = tree.get("log_history", [tree])
    if not isinstance(tree, list):
        raise InputError(f"{path}: expected a list of steps")
    for number, row in enumerate(tree, 1):
        place = f"{path}, entry {number}"
        if isinstance(row, dict):
            yield place, row
        elif isinstance(row, list) and len(row) == len(HEADER_OF_TENSORBOARD):
            yield place, {"Step": row[1], _tag(path): row[2]}
        else:
            raise InputError(f"{place}: expected an object, or [wall time, step, value]")


def _from_csv(path: Path, text: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader)
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"{path}: two columns are named {shown(twice)}")
        names = ["", "Step", _tag(path)] if header == HEADER_OF_TENSORBOARD else header
        for cells in reader:
            place = f"{path}, line {reader.line_num}"
            if len(cells) != len(names):
                raise InputError(
                    f"{place}: {len(cells)} cells, but the header has {len(names)}; truncated?"
                )
            yield place, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from None


def _tag(path: Path) -> str:
    """The name that TensorBoard gave to a file, as a column of the run."""
    found = OF_TENSORBOARD.fullmatch(path.stem)
    if found is None:
        raise InputError(
            f"{path}: an export of TensorBoard, whose file name has lost its run and tag",
            hint="name it run-RUN-tag-TAG.csv, as TensorBoard does",
        )
    named = find_mangled(found["tag"])
    return f"{found['run'] or '.'}{CHART}{found['tag'] if named is None else named.name}"


# Rows to curves.


def _collect(path: Path, rows: Iterable[Row]) -> Log:
    flat = [(place, dict(_flat(row))) for place, row in rows]
    names = dict.fromkeys(name for _, row in flat for name in row)
    step = next((name for name in STEPS if name in names), None)
    known = {name: (run, named) for name in names for run, named in _known(path, name)}
    if known and step is None:
        raise InputError(f"{path}: no column says the step", hint=f"one of {', '.join(STEPS)}")
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in known}
    for place, row in flat:
        for name in known.keys() & row.keys():
            value = _number(row[name], name, place)
            if value is not None:
                points[name].append((_step(row.get(step or ""), step or "", place), value))
    curves = tuple(
        Curve(run, name.rpartition(CHART)[2], named, tuple(points[name]))
        for name, (run, named) in known.items()
        if points[name]
    )
    unknown = [name for name in names if name and name not in known and name not in STEPS]
    return Log(path, curves, tuple(name for name in unknown if not name.endswith(EXTREMES)))


def _known(path: Path, column: str) -> Sequence[tuple[str, Named]]:
    """The run and the row of a column; none if its name is not known."""
    run, _, name = column.rpartition(CHART)
    named = find(name)
    return [] if named is None else [(run or path.stem, named)]


def _flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of nested objects, by names with slashes; lists are no scalars."""
    left = list(row.items())
    while left:
        name, value = left.pop(0)
        if isinstance(value, dict):
            group = "" if name == OF_VERL else f"{name}/"
            left = [(f"{group}{key}", each) for key, each in value.items()] + left
        elif not isinstance(value, list):
            yield name, value


def _number(value: Any, name: str, place: str) -> float | None:
    """A value; None where the cell is empty. Raises InputError."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError):
        raise InputError(f"{place}: `{name}` is {shown(value)}, which is not a number") from None


def _step(value: Any, name: str, place: str) -> float:
    step = _number(value, name, place)
    if step is None or not math.isfinite(step):
        raise InputError(f"{place}: `{name}` is {shown(value)}, which is not a step")
    return step
