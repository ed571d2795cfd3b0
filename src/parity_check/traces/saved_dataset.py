"""A folder that `save_to_disk` of Hugging Face's datasets wrote: its Arrow files, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from parity_check.config.engines import FileName
from parity_check.errors import InputError
from parity_check.reading import read_text
from parity_check.visible import value as shown

T = TypeVar("T", bound=BaseModel)


def _inside(name: str) -> str:
    if name == ".." or Path(name).name != name:
        raise ValueError(f"{shown(name)} is not the name of a file in this folder")
    return name


Inside = Annotated[FileName, AfterValidator(_inside)]
"""A name without a folder, as `save_to_disk` writes it: what others write may lead anywhere."""


class _DataFile(BaseModel):
    filename: Inside


class _State(BaseModel):
    """state.json; the format of a dataset only says how Python shows it."""

    data_files: list[_DataFile] = Field(alias="_data_files")
    indices: list[object] | None = Field(default=None, alias="_indices_data_files")


class _Splits(BaseModel):
    """dataset_dict.json."""

    splits: list[Inside]


def data_files(folder: Path) -> list[Path]:
    """The files of a dataset without splits. Raises InputError."""
    if (folder / "dataset_dict.json").is_file():
        names = _read(_Splits, folder / "dataset_dict.json").splits
        if not names:
            raise InputError(f"{folder}: a dataset without a split: it has no prompts")
        raise InputError(
            f"{folder}: a dataset with the splits {', '.join(names)}",
            hint=f"pass one of them: {' or '.join(str(folder / name) for name in names)}",
        )
    if not (folder / "state.json").is_file():
        raise InputError(
            f"{folder}: a folder, but not one that `save_to_disk` of a dataset wrote",
            hint="pass a file of prompts, or the folder that has a state.json",
        )
    state = _read(_State, folder / "state.json")
    if state.indices:
        raise InputError(
            f"{folder}: a selection of rows that an old version of datasets saved",
            hint="save it again, after flatten_indices()",
        )
    return [folder / each.filename for each in state.data_files]


def _read(kind: type[T], path: Path) -> T:
    try:
        return kind.model_validate_json(read_text(path, "the prompts"))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {reason}") from None
