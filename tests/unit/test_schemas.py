"""The checked-in schemas are those of the records, and they know every key."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.canned_reports import KINDS
from helpers.schemas import validator
from make_schemas import RECORDS, path, schema
from parity_check.report.json import dumps

GOLDEN = Path(__file__).parents[1] / "golden"
FREE = ("config", "host", "model", "environment", "packages", "sampling", "checkpoints")
"""What holds whatever a run has."""
MAPS = ("engines", "settings", "results", "requests", "noise_floor", "switches", "processing")
"""Objects of one kind of value, by names that a run has."""


@pytest.mark.parametrize("package", RECORDS)
def test_the_schema_is_up_to_date(package: str) -> None:
    made = dumps(schema(RECORDS[package]))
    assert path(package).read_text(encoding="utf-8") == made, "run scripts/make_schemas.py"


def test_every_kind_has_a_schema() -> None:
    assert KINDS.keys() == RECORDS.keys()


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.json")), ids=lambda each: each.stem)
def test_golden_reports_keep_to_the_schema(golden: Path) -> None:
    tree = json.loads(golden.read_text(encoding="utf-8"))
    validator(tree["kind"].replace("-", "_")).validate(tree)


def sample(kind: str) -> Any:
    """A golden report of a kind, each list cut to its first entry."""
    return cut(json.loads((GOLDEN / f"{KINDS[kind]}.json").read_text(encoding="utf-8")))


def cut(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: cut(value) for name, value in tree.items()}
    return [cut(each) for each in tree[:1]] if isinstance(tree, list) else tree


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every object in a JSON tree that a schema describes."""
    if isinstance(tree, dict):
        yield path
        for name, value in tree.items():
            if name not in FREE:
                yield from places(value, (*path, name))
    elif isinstance(tree, list) and tree:
        yield from places(tree[0], (*path, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_knows_every_key(kind: str) -> None:
    """A key that the schema does not name, or one that is missing, is noticed everywhere."""
    schema_of_kind, whole = validator(kind), sample(kind)
    assert schema_of_kind.is_valid(whole)
    for place in places(whole):
        tree = copy.deepcopy(whole)
        found = tree
        for part in place:
            found = found[part]
        found["surprise"] = {"neither": "number nor estimate"}
        assert not schema_of_kind.is_valid(tree), place
        del found["surprise"]
        if not any(name in place[-1:] for name in MAPS):
            del found[next(iter(found))]
            assert not schema_of_kind.is_valid(tree), place


@pytest.mark.parametrize("key", ["kind", "schema_version", "verdict", "tool", "run", "exit_code"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_needs_the_head(kind: str, key: str) -> None:
    tree = sample(kind)
    del tree[key]
    assert not validator(kind).is_valid(tree)
