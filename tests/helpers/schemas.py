"""The checked-in schema of each kind of report."""

from __future__ import annotations

import json

import jsonschema

from make_schemas import path


def validator(package: str) -> jsonschema.Draft202012Validator:
    """What a kind's report.json is validated with."""
    schema = json.loads(path(package).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)
