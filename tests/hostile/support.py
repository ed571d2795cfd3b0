"""What must hold of every hostile case, and the pair of traces that cases are made of."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.support import Finished, call_cli
from parity_check.errors import ParityCheckError
from parity_check.traces.trace import METADATA_KEY

USAGE = 2
VERDICTS = (0, 1, 4)
"""Exit codes of a comparison that was made."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
COMMANDS = re.compile(r"^\s*::|##\[", re.MULTILINE)
"""What GitHub's runner takes as a command of the workflow."""
DEEP = 10_000
HUGE = "9" * 5_000


def ask(*arguments: object, cwd: Path, codes: tuple[int, ...] = (USAGE,)) -> Finished:
    """Run a command on something hostile: a documented exit code, one clear line, nothing left.

    Files that were there stay as they are, unless the command succeeds.
    """
    before = snapshot(cwd)
    done = call_cli(*arguments, cwd=cwd)
    assert done.returncode in codes, f"{done.returncode}: {done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr
    assert "bug in parity-check" not in done.stderr
    assert not CONTROL.search(done.stderr), ascii(done.stderr)
    assert not CONTROL.search(done.stdout), ascii(done.stdout)
    assert not COMMANDS.search(done.stderr), done.stderr
    after = snapshot(cwd)
    if done.returncode == USAGE:
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 or "Usage:" in done.stderr, done.stderr
        assert all(len(line) < 2_000 for line in errors), "an error is one line to read"
        assert before == after, "a refused command changes nothing"
    assert before.items() <= after.items(), "a file of the user's was written over"
    assert not [name for name in after.keys() - before.keys() if name.endswith(".part")]
    return done


def refusal(act: Callable[[], object]) -> str | None:
    """The message with which this is refused; None where it is not."""
    try:
        act()
    except ParityCheckError as error:
        return error.message
    return None


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every regular file below a directory, and what it holds."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def with_header(source: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A trace whose header is what `change` makes of it: an object, or JSON as text."""
    table = pq.read_table(source)
    metadata = dict(table.schema.metadata)
    changed = change(json.loads(metadata[METADATA_KEY]))
    text = changed if isinstance(changed, str) else json.dumps(changed)
    metadata[METADATA_KEY] = text.encode("utf-8", "surrogatepass")
    pq.write_table(table.replace_schema_metadata(metadata), target)
    return target


def with_column(source: Path, target: Path, name: str, column: Any) -> Path:
    """A trace in which one column is another array, whatever its type."""
    table = pq.read_table(source)
    index = table.schema.get_field_index(name)
    field = pa.field(name, column.type)
    pq.write_table(table.set_column(index, field, column), target)
    return target
