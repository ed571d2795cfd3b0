"""The checked-in schemas are those of the records, and they know every key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.canned_reports import KINDS, REPORTS
from helpers.schemas import validator
from make_schemas import RECORDS, path, schema
from parity_check.report.document import Document
from parity_check.report.json import dumps
from parity_check.report.renderers import render

FREE = ("config", "host", "model", "environment", "packages", "sampling", "checkpoints")
"""What holds whatever a run has."""
MAPS = ("engines", "settings", "results", "requests", "noise_floor", "switches")
"""Objects of one kind of value, by names that a run has."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def document(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Document:
    return REPORTS[KINDS[kind]](tmp_path_factory.mktemp(kind))


@pytest.mark.parametrize("package", RECORDS)
def test_the_schema_is_up_to_date(package: str) -> None:
    made = dumps(schema(RECORDS[package]))
    assert path(package).read_text(encoding="utf-8") == made, "run scripts/make_schemas.py"


def test_every_kind_has_a_schema() -> None:
    assert KINDS.keys() == RECORDS.keys()


@pytest.mark.parametrize("golden", sorted(Path(__file__).parents[1].glob("golden/*.json")))
def test_golden_reports_keep_to_the_schema(golden: Path) -> None:
    tree = json.loads(golden.read_text(encoding="utf-8"))
    validator(tree["kind"].replace("-", "_")).validate(tree)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every object in a JSON tree that a schema describes, the first entry of each list alone."""
    if isinstance(tree, dict):
        yield path
        for name, value in tree.items():
            if name not in FREE:
                yield from places(value, (*path, name))
    elif isinstance(tree, list) and tree:
        yield from places(tree[0], (*path, 0))


def test_the_schema_knows_every_key(kind: str, document: Document) -> None:
    """A key that the schema does not name, or one that is missing, is noticed everywhere."""
    schema_of_kind, text = validator(kind), render(document, "json")
    for place in places(json.loads(text)):
        tree = json.loads(text)
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
def test_the_schema_needs_the_head(kind: str, document: Document, key: str) -> None:
    tree = json.loads(render(document, "json"))
    del tree[key]
    assert not validator(kind).is_valid(tree)
