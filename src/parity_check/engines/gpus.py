"""The GPUs of this machine, as nvidia-smi lists them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from parity_check.engines import processes

QUERY = "index,uuid,name,memory.total,memory.used"
LIMIT_S = 10.0
DRIVER = re.compile(r"\d+(\.\d+)+")
DEVICES = ("nvidia[0-9]*", "dxg", "kfd")
"""Device files of NVIDIA's driver, of WSL, and of AMD's driver."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; memory in MiB."""

    index: int
    uuid: str
    name: str
    total_mib: int
    used_mib: int

    @property
    def free_mib(self) -> int:
        return self.total_mib - self.used_mib


def listed() -> tuple[Gpu, ...] | None:
    """All GPUs; none without one; None if there are some that nvidia-smi does not tell about."""
    try:
        answer = processes.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"],
            limit_s=LIMIT_S,
        )
    except (OSError, TimeoutError):
        answer = None
    if answer is not None and answer.returncode == 0:
        try:
            return tuple(map(_gpu, answer.stdout.strip().splitlines()))
        except ValueError:  # an unknown format, or [N/A] for memory that the host shares
            return None
    return None if any(any(Path("/dev").glob(each)) for each in DEVICES) else ()


def driver() -> str | None:
    """The version of NVIDIA's driver, e.g. 535.129.03; None if nvidia-smi does not tell."""
    try:
        answer = processes.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], limit_s=LIMIT_S
        )
    except (OSError, TimeoutError):
        return None
    found = answer.stdout.strip().partition("\n")[0].strip()  # a line for each GPU
    return found if answer.returncode == 0 and DRIVER.fullmatch(found) else None


def visible(gpus: tuple[Gpu, ...], environ: Mapping[str, str]) -> tuple[Gpu, ...] | None:
    """Those that CUDA_VISIBLE_DEVICES shows, in its order; None if it names parts of GPUs (MIG).

    Like CUDA, stop at the first unknown name.
    """
    names = environ.get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return gpus
    shown: list[Gpu] = []
    for name in map(str.strip, names.split(",")):
        if name.startswith("MIG-"):
            return None
        found = [each for each in gpus if is_called(name, each)]
        if len(found) != 1:
            break
        shown += found
    return tuple(shown)


def is_called(name: str, gpu: Gpu) -> bool:
    """Whether it is the GPU's index, or its UUID, which may be cut short."""
    return name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name))


def _gpu(line: str) -> Gpu:
    index, uuid, name, total, used = (part.strip() for part in line.split(","))
    return Gpu(int(index), uuid, name, int(total), int(used))


def holders(gpu: Gpu) -> str:
    """The processes with memory on a GPU, largest first; empty where they cannot be seen."""
    query = "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"
    try:
        answer = processes.run(
            ["nvidia-smi", query, "--format=csv,noheader,nounits"], limit_s=LIMIT_S
        )
    except (OSError, TimeoutError):
        return ""
    found = []
    for line in answer.stdout.splitlines():
        uuid, pid, name, used = ([part.strip() for part in line.split(",")] + [""] * 4)[:4]
        if uuid == gpu.uuid and used.isdigit():
            found.append((int(used), f"{Path(name).name} (process {pid}, {gib(int(used))})"))
    return ", ".join(text for _, text in sorted(found, reverse=True))


def gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB"
