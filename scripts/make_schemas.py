"""Make the JSON schema (draft 2020-12) of each kind's report.json from the kind's record.

    python scripts/make_schemas.py

Writes src/parity_check/KIND/schema.json. A test fails if one is out of date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from parity_check.ablation.record import AblationRecord
from parity_check.comparison.record import ComparisonRecord
from parity_check.locate.record import LocateRecord
from parity_check.logs.record import LogsRecord
from parity_check.report.json import dumps
from parity_check.report.record import Record
from parity_check.training.record import TrainingRecord
from parity_check.weight_sync.record import WeightSyncRecord

PACKAGES = Path(__file__).parents[1] / "src" / "parity_check"
RECORDS: dict[str, type[Record]] = {
    "comparison": ComparisonRecord,
    "ablation": AblationRecord,
    "locate": LocateRecord,
    "weight_sync": WeightSyncRecord,
    "logs": LogsRecord,
    "training": TrainingRecord,
}
"""By package."""


class Strict(GenerateJsonSchema):
    """Forbids keys that the record does not have; floats may be null, for NaN and infinity."""

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return {**super().dataclass_schema(schema), "additionalProperties": False}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return {"type": ["number", "null"]}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        known = inner.get("type")
        return inner if isinstance(known, list) else self.get_union_of_schemas([inner, NULL])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


NULL = {"type": "null"}


def schema(record: type[Record]) -> JsonSchemaValue:
    """The schema of a kind's report.json."""
    body = TypeAdapter(record).json_schema(mode="serialization", schema_generator=Strict)
    return {"$schema": GenerateJsonSchema.schema_dialect, **body}


def path(package: str) -> Path:
    """The schema file of a package."""
    return PACKAGES / package / "schema.json"


def main() -> None:
    for package, record in RECORDS.items():
        path(package).write_text(dumps(schema(record)), encoding="utf-8")


if __name__ == "__main__":
    main()
