"""run.json: the traces that a run was configured to record, and the digest of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from parity_check.errors import InputError
from parity_check.files import write_text
from parity_check.reading import kind_of
from parity_check.traces.run_files import evaluated_name, repeat_name, sampled_name

MANIFEST = "run.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Part:
    """One trace of a run: who sampled, who evaluated, and the number of an A/A run.

    In a repeat both names are the engine's own.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    file: str
    sampled_by: str
    evaluated_by: str
    repeat: int | None = None

    def __str__(self) -> str:
        if self.repeat is not None:
            return f"A/A run {self.repeat} of the {self.evaluated_by}"
        if self.sampled_by == self.evaluated_by:
            return f"rollouts of the {self.sampled_by}"
        return f"rollouts of the {self.sampled_by}, evaluated by the {self.evaluated_by}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """`parts` were requested; `sha256` of each file is set once the run is finished.

    `looks` counts those that are in the files, where a run samples until its gates are decided.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    run_id: str
    parts: tuple[Part, ...]
    sha256: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    looks: int = 1

    @property
    def finished(self) -> bool:
        return bool(self.parts) and all(part.file in self.sha256 for part in self.parts)


_ADAPTER = TypeAdapter(Manifest)


def parts_of(
    names: Sequence[str], samplers: Sequence[str], repeats: Mapping[str, int]
) -> tuple[Part, ...]:
    """Every sampler's rollouts, every other engine's logprobs on them, and the A/A runs."""
    rollouts = [Part(sampled_name(name), name, name) for name in samplers]
    evaluated = [
        Part(evaluated_name(sampler, name), sampler, name)
        for sampler in samplers
        for name in names
        if name != sampler
    ]
    again = [
        Part(repeat_name(name, number), name, name, number)
        for name in names
        for number in range(1, repeats.get(name, 0) + 1)
    ]
    return (*rollouts, *evaluated, *again)


def begin(directory: Path, run_id: str, parts: Sequence[Part]) -> None:
    """Write what a run will record, before it starts. Raises OutputError."""
    _write(directory, Manifest(run_id, tuple(parts)))


def finish(directory: Path, looks: int = 1) -> None:
    """Add the digest of every trace, as of so many looks.

    Raises InputError if one was not recorded.
    """
    manifest = read_manifest(directory)
    assert manifest is not None
    found = {part.file: _digest(directory, part) for part in manifest.parts}
    _write(directory, replace(manifest, sha256=found, looks=looks))


def read_manifest(directory: Path) -> Manifest | None:
    """None for a run recorded before manifests existed. Raises InputError."""
    path = directory / MANIFEST
    try:
        kind = kind_of(path)
        text = b"" if kind else path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if kind:
        raise InputError(f"cannot read {path}: {kind}, expected a file")
    try:
        manifest = _ADAPTER.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{path}: not a run's manifest: {place}: {first['msg']}") from None
    if any(Path(part.file).name != part.file for part in manifest.parts):
        raise InputError(f"{path}: not a run's manifest: a trace is outside the directory")
    if manifest.schema_version != SCHEMA_VERSION:
        raise InputError(
            f"{path}: manifest schema {manifest.schema_version}, but this version of parity-check "
            f"reads {SCHEMA_VERSION}"
        )
    return manifest


def check_whole(directory: Path, manifest: Manifest) -> None:
    """Reject a run that is unfinished, or whose traces are not those that it recorded.

    Raises InputError naming the first trace that is missing, or is another file.
    """
    for part in manifest.parts:
        if part.file not in manifest.sha256:
            raise InputError(
                f"{directory}: the run is unfinished: {part.file} was not recorded ({part})",
                hint=f"continue it: parity-check compare --resume {directory}",
            )
        if _digest(directory, part) != manifest.sha256[part.file]:
            raise InputError(
                f"{directory / part.file}: not the file that the run recorded ({part}): it was "
                "changed, replaced or damaged since"
            )


def is_unchanged(directory: Path, manifest: Manifest) -> bool:
    """Whether every trace is still the file that the manifest has. Raises InputError."""
    return all(_digest(directory, each) == manifest.sha256[each.file] for each in manifest.parts)


def missing(directory: Path, part: Part) -> InputError:
    """The error for a missing trace."""
    return InputError(
        f"{directory / part.file} is missing: the {part}",
        hint="a verdict needs all traces of the run: restore it, or record again",
    )


def _digest(directory: Path, part: Part) -> str:
    try:
        kind = kind_of(directory / part.file)
        if kind:
            raise InputError(f"cannot read {directory / part.file}: {kind}, expected a file")
        with (directory / part.file).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise missing(directory, part) from None
    except OSError as error:
        raise InputError(f"cannot read {directory / part.file}: {error.strerror}") from None


def _write(directory: Path, manifest: Manifest) -> None:
    write_text(directory / MANIFEST, _ADAPTER.dump_json(manifest, indent=1).decode() + "\n")
