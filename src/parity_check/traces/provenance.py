"""Fingerprints of model, hardware and code, and their differences."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity_check import __version__
from parity_check.traces.engine import UNKNOWN, EngineDescription

SAMPLED_BYTES = 1 << 16
SAMPLES_PER_FILE = 64
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact that differs between the engines. `requested`: by the configuration."""

    key: str
    reference: Any
    candidate: Any
    requested: bool


def command_line() -> str:
    """The command that is running, to copy into a shell."""
    return shlex.join(["parity-check", *sys.argv[1:]])


def model_fingerprint(path: str, revision: str | None) -> dict[str, Any]:
    """The model in a trace header: name, config and tokenizer digests, weights fingerprint.

    The fingerprint covers name, size and 64 evenly spaced 64 KiB blocks of each weights file:
    complete up to 4 MiB, fast for 100 GB. A hub model is identified by name and revision.
    """
    directory = Path(path)
    if not directory.is_dir():
        return {"name": path, "revision": revision}
    weights = hashlib.sha256()
    for file in sorted(directory.iterdir()):
        if file.suffix in WEIGHTS and file.is_file():
            _sample_file(file, weights)
    return {
        "name": directory.name,
        "config_sha256": _digest_files([directory / "config.json"]),
        "tokenizer_sha256": _digest_files([directory / name for name in TOKENIZER]),
        "weights_fingerprint": weights.hexdigest(),
    }


def model_difference(
    one: Mapping[str, Any], other: Mapping[str, Any], keys: Iterable[str]
) -> str | None:
    """The first of `keys` in which two models' fingerprints differ, with both values, or None.

    The name counts too: the fingerprint of the weights reads a sample of them, and checkpoints of
    one training run may differ in a few tensors.
    """
    found = next((key for key in keys if one.get(key) != other.get(key)), None)
    return None if found is None else f"{found}: {one.get(found)} ≠ {other.get(found)}"


def host_fingerprint() -> dict[str, Any]:
    """The machine that ran parity-check. Its host name is only stored as a hash."""
    return {
        "parity_check": __version__,
        "hostname_sha256": hashlib.sha256(platform.node().encode()).hexdigest()[:16],
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def differences(
    reference: EngineDescription,
    candidate: EngineDescription,
    requested: dict[str, tuple[Any, Any]],
) -> tuple[Difference, ...]:
    """Settings and effective configuration that differ between two engines.

    `requested` maps a name to both engines' requested values. A difference is requested if the
    requested values differ. Unrequested differences come first. Unknown values do not count as a
    difference. Different backends are compared only in what both report.
    """
    found = []
    for key, left, right in _pairs(reference, candidate):
        if left != right and UNKNOWN not in (left, right):
            wanted = requested.get(key)
            found.append(
                Difference(key, left, right, wanted is not None and wanted[0] != wanted[1])
            )
    return tuple(sorted(found, key=lambda difference: difference.requested))


def _pairs(
    reference: EngineDescription, candidate: EngineDescription
) -> list[tuple[str, Any, Any]]:
    settings: list[tuple[str, Any, Any]] = [
        (name, setting.in_force, candidate.settings[name].in_force)
        for name, setting in reference.settings.items()
        if name in candidate.settings
    ]
    if reference.imported or candidate.imported:
        return settings  # known only from a dump: no configuration
    left, right = reference.config, candidate.config
    keys = list(dict.fromkeys([*left, *right]))
    if reference.backend != candidate.backend:
        # What a server does not report is unknown, not different.
        keys = [key for key in left if key in right]
    built = [each.model.get("modules") or {} for each in (reference, candidate)]
    return [
        *settings,
        *((key, left.get(key), right.get(key)) for key in keys),
        *((key, value, built[1][key]) for key, value in built[0].items() if key in built[1]),
    ]


def _sample_file(file: Path, digest: hashlib._Hash) -> None:
    size = file.stat().st_size
    digest.update(f"{file.name}\0{size}\0".encode())
    step = max(SAMPLED_BYTES, -(-size // SAMPLES_PER_FILE))
    with file.open("rb") as stream:
        for offset in range(0, size, step):
            stream.seek(offset)
            digest.update(stream.read(SAMPLED_BYTES))


def _digest_files(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
