"""What a process holds: descriptors, threads, children, memory, temporary files."""

from __future__ import annotations

import gc
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Held:
    """Counts, and the resident memory in MiB."""

    descriptors: int
    threads: int
    children: int
    temporary: int
    memory_mib: float


def held() -> Held:
    gc.collect()
    own = Path("/proc/self")
    status = dict(
        line.split(":", 1) for line in (own / "status").read_text().splitlines() if ":" in line
    )
    return Held(
        descriptors=_entries(own / "fd"),
        threads=int(status["Threads"]),
        children=sum(len(task.read_text().split()) for task in own.glob("task/*/children")),
        temporary=_entries(Path(tempfile.gettempdir())),
        memory_mib=int(status["VmRSS"].split()[0]) / 1024,
    )


def _entries(directory: Path) -> int:
    return sum(1 for _ in directory.iterdir())
