"""Run directories on the command line, and what to type where another path was given."""

from __future__ import annotations

from pathlib import Path

from parity_check.errors import InputError
from parity_check.reading import beside

FILE = "config.toml"
"""What every run directory has."""
USUAL = Path("runs")
"""Where runs are, unless run.out says otherwise."""


def run_directory(path: Path, before: str) -> Path:
    """The path of a run. Raises InputError, with what to type after `before`, e.g. `report`."""
    if (path / FILE).is_file():
        return path
    if path.is_dir():
        newest = _newest(path)
        if newest is not None:
            raise InputError(
                f"{path}: a directory of runs, not one of them",
                hint=f"the newest is: parity-check {before} {newest}",
            )
        raise InputError(f"{path}: not the directory of a run: it has no {FILE}", hint=_usual())
    if path.exists():
        within = (path.parent / FILE).is_file()
        raise InputError(
            f"{path}: a file, not the directory of a run",
            hint=f"did you mean parity-check {before} {path.parent}?" if within else _usual(),
        )
    raise InputError(f"{path}: no such run", hint=beside(path, Path.is_dir) or _usual())


def _newest(parent: Path) -> Path | None:
    """The run that was begun last; their names begin with the time."""
    found = sorted(file.parent for file in parent.glob(f"*/{FILE}"))
    return found[-1] if found else None


def _usual() -> str:
    newest = _newest(USUAL)
    if newest is None:
        return f"pass the directory that the run printed, e.g. {USUAL}/…"
    return f"the newest run in {USUAL} is {newest}"
